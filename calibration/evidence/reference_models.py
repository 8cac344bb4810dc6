"""Models of the measured data sets that no library builds: written from their papers, sizes as the data sets describe them."""

from itertools import pairwise

import torch
from torch import nn


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNet v2: half of the channels pass, the others take three convolutions, then the halves mix.

    Source: Ma, Zhang, Zheng, Sun, ShuffleNet V2, ECCV 2018, arXiv 1807.11164, figure 3.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = channels_out // 2
        into = channels_in if stride > 1 else half
        self.residual = nn.Sequential(
            _conv(into, half, 1), nn.ReLU(), _conv(half, half, 3, stride, half), _conv(half, half, 1), nn.ReLU()
        )
        self.shortcut = (
            nn.Sequential(
                _conv(channels_in, channels_in, 3, stride, channels_in), _conv(channels_in, half, 1), nn.ReLU()
            )
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From `(batch, channels_in, height, width)` to `(batch, channels_out, height / stride, width / stride)`."""
        first, second = (x, x) if self.stride > 1 else x.chunk(2, 1)
        y = torch.cat([self.shortcut(first), self.residual(second)], 1)
        batch, channels, height, width = y.shape
        return y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def shufflenet_v2(classes: int = 100) -> nn.Module:
    """ShuffleNet v2 1x for 32 x 32 images: the first layer keeps the resolution and there is no pooling after it."""
    layers: list[nn.Module] = [_conv(3, 24, 3), nn.ReLU()]
    channels = 24
    for wide, units in ((116, 4), (232, 8), (464, 4)):
        layers += [ShuffleUnit(channels if i == 0 else wide, wide, 2 if i == 0 else 1) for i in range(units)]
        channels = wide
    return nn.Sequential(
        *layers, _conv(channels, 1024, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, classes)
    )


class NeuMF(nn.Module):
    """A small recommender: users and items as embeddings, through a product and through a perceptron, to one score.

    Sizes of the widely used MLPerf reference (64 factors, layers of 256, 256, 128, 64); users and items of MovieLens-1M.

    Source: He et al., Neural collaborative filtering, WWW 2017, arXiv 1708.05031, figure 3.
    """

    def __init__(self, users: int = 6040, items: int = 3706, factors: int = 64) -> None:
        super().__init__()
        layers = (256, 256, 128, 64)
        self.user_product = nn.Embedding(users, factors)
        self.item_product = nn.Embedding(items, factors)
        self.user_layers = nn.Embedding(users, layers[0] // 2)
        self.item_layers = nn.Embedding(items, layers[0] // 2)
        steps = [m for a, b in pairwise(layers) for m in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*steps)
        self.score = nn.Linear(factors + layers[-1], 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """From `(batch, 2)` of user and item to scores `(batch,)`."""
        user, item = ids.unbind(1)
        product = self.user_product(user) * self.item_product(item)
        deep: torch.Tensor = self.layers(torch.cat([self.user_layers(user), self.item_layers(item)], 1))
        score: torch.Tensor = self.score(torch.cat([product, deep], 1))
        return score.squeeze(1)
