"""How wrong is this machine's calibrated profile on training steps that its fit has not seen?

Ten models under two optimizers are timed and set beside their estimates. The estimator's terms for processors were chosen on other
workloads; only the kernels of a recurrent layer were counted after the first table here had shown them missing. Time only; joules
need a counter.

    budjoule calibrate && python tests/benchmarks/this_machine.py [--seconds 1]

with the same number of threads (`OMP_NUM_THREADS`) in both.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import budjoule as bj
from budjoule.calibration.calibrate import NAME
from budjoule.calibration.microbenchmarks import LEARNING_RATE, OPTIMIZERS
from budjoule.calibration.reading import least_disturbed, read_step


class Last(nn.Module):
    """A recurrent net, and a layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(48, 96, num_layers=2, batch_first=True), nn.Linear(96, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.cells(x)[0][:, -1])
        return out


class Decoder(nn.Module):
    """Causal attention and a perceptron, with norms before them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.take, self.give = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.take(self.before(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.give(seen.transpose(1, 2).reshape(batch, length, width))
        out: torch.Tensor = x + self.perceptron(self.after(x))
        return out


class Patches(nn.Module):
    """Patches of an image through encoder layers, averaged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        layer = nn.TransformerEncoderLayer(width, 3, 2 * width, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return out


class Mixer(nn.Module):
    """Perceptrons over places and over channels in turn."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.places = nn.Sequential(nn.Linear(places, 2 * places), nn.GELU(), nn.Linear(2 * places, places))
        self.channels = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = x + self.channels(self.norms[1](x))
        return out


class UNet(nn.Module):
    """Down, up, and the way across."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = self._block(3, 16), self._block(16, 32)
        self.up, self.head = self._block(48, 16), nn.Conv2d(16, 2, 1)

    @staticmethod
    def _block(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(4, outside), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        across = self.down(x)
        low = self.low(F.max_pool2d(across, 2))
        out: torch.Tensor = self.head(
            self.up(torch.cat([across, F.interpolate(low, scale_factor=2, mode="bilinear")], 1))
        )
        return out


class Recommender(nn.Module):
    """Embeddings of what was looked at, and a perceptron on them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5000, 32)
        self.head = nn.Sequential(nn.Linear(8 * 32, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.table(x).flatten(1))
        return out


class Dense(nn.Module):
    """Layers that each see all before them, between average poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 12, 3, padding=1, bias=False))
                for width in (12, 24, 36)
            ]
        )
        self.first, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(48 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(self.first(x), 2)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        out: torch.Tensor = self.head(F.avg_pool2d(x, 2).flatten(1))
        return out


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, stride=2), nn.Sigmoid(),
    )  # fmt: skip


def _over_time() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, dilation in ((8, 1), (32, 2), (32, 4)):
        layers += [nn.Conv1d(inside, 32, 3, padding=dilation, dilation=dilation), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 6))


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "convolutions, pooling, dropout": lambda: (_vgg(), torch.rand(16, 3, 32, 32)),
    "gated recurrent net": lambda: (Last(), torch.rand(32, 24, 48)),
    "causal decoder": lambda: (
        nn.Sequential(nn.Embedding(500, 192), Decoder(192, 6), Decoder(192, 6), nn.Linear(192, 500)),
        torch.randint(0, 500, (4, 64)),
    ),
    "vision transformer": lambda: (Patches(96), torch.rand(16, 3, 32, 32)),
    "mixer": lambda: (nn.Sequential(Mixer(49, 96), Mixer(49, 96), nn.Linear(96, 10)), torch.rand(16, 49, 96)),
    "autoencoder": lambda: (_autoencoder(), torch.rand(32, 1, 28, 28)),
    "U-Net": lambda: (UNet(), torch.rand(4, 3, 48, 48)),
    "recommender": lambda: (Recommender(), torch.randint(0, 5000, (256, 8))),
    "densely connected convolutions": lambda: (Dense(), torch.rand(16, 3, 32, 32)),
    "convolutions over time": lambda: (_over_time(), torch.rand(32, 8, 128)),
}


def main() -> None:
    """Time every step and print how far its estimate is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each step is repeated")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads\n")
    print("| model | optimizer | took | estimated | error | inside the 90 % interval |\n|---|---|---|---|---|---|")
    errors, inside = [], []
    for name, build in MODELS.items():
        for optimizer in OPTIMIZERS:
            model, x = build()
            target = torch.randn_like(model(x)).detach()
            e = bj.estimate(
                model,
                x,
                device=NAME,
                mode="training",
                optimizer=optimizer,
                loss=lambda y, target=target: F.mse_loss(y, target.to(y.device)),
            )
            took_s = _took_s(model, x, target, optimizer, options.seconds)
            errors.append(e.duration_s / took_s - 1)
            inside.append(e.duration_low_s <= took_s <= e.duration_high_s)
            print(
                f"| {name} | {optimizer} | {1e3 * took_s:.2f} ms | {1e3 * e.duration_s:.2f} ms | {100 * errors[-1]:+.0f} % | {'yes' if inside[-1] else 'no'} |",
                flush=True,
            )
    print(
        f"\nmean absolute error {100 * statistics.mean(map(abs, errors)):.1f} %, mean error {100 * statistics.mean(errors):+.1f} %, "
        f"inside {100 * statistics.mean(inside):.0f} %"
    )


def _took_s(model: nn.Module, x: torch.Tensor, target: torch.Tensor, optimizer: str, seconds: float) -> float:
    """Time of a training step, read as `calibrate` reads its own. [s]"""
    model.train()
    descent = OPTIMIZERS[optimizer](model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        descent.zero_grad()
        F.mse_loss(model(x), target).backward()
        descent.step()

    readings = [read_step(step, limit_s=seconds / 3, threads=torch.get_num_threads()) for _ in range(3)]
    return least_disturbed(readings).duration_s


if __name__ == "__main__":
    main()
