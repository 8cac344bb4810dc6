"""Twelve models of different make, with a batch each, on which predicted memory is held against the allocator."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Case = tuple[nn.Module, Any, torch.Tensor | None]


def _images(batch: int, channels: int, size: int, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(batch, channels, size, size), torch.arange(batch) % classes


def _built_in(name: str, batch: int) -> Callable[[], Case]:
    def build() -> Case:
        from budjoule.training.task.models import build_model

        images, labels = _images(batch, 1, 28)
        return build_model(name, images[:2], 10, 0), images, labels

    return build


def lenet() -> Case:
    """Unpadded convolutions and max-pooling."""
    layers = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    dense = [nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)]
    return nn.Sequential(*layers, *dense), *_images(32, 1, 28)


def vgg() -> Case:
    """Batch norm and wide convolutions."""
    layers: list[nn.Module] = []
    channels = 3
    for wide in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            channels = wide
        layers.append(nn.MaxPool2d(2))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head), *_images(16, 3, 32)


class Recurrent(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.lstm = nn.LSTM(64, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


def recurrent() -> Case:
    """Tokens through an LSTM."""
    return Recurrent(), torch.randint(1000, (16, 32)), torch.arange(16) % 10


def _hf(name: str, batch: int, size: int, **keys: Any) -> Callable[[], Case]:
    def build() -> Case:
        import transformers

        config = getattr(transformers, f"{name}Config")(num_labels=10, **keys)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        return model, *_images(batch, 3, size)

    return build


def bert() -> Case:
    """An encoder of text, which gives its own loss."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=2000,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        num_labels=2,
    )
    tokens = torch.randint(5, 2000, (8, 64))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": torch.arange(8) % 2}
    return transformers.BertForSequenceClassification(config), inputs, None


def gpt2() -> Case:
    """A decoder of text, whose loss is over every token."""
    import transformers

    config = transformers.GPT2Config(vocab_size=2000, n_embd=128, n_layer=4, n_head=4, n_positions=128)
    tokens = torch.randint(2000, (4, 64))
    return transformers.GPT2LMHeadModel(config), {"input_ids": tokens, "labels": tokens}, None


MODELS: dict[str, Callable[[], Case]] = {
    "mlp": _built_in("mlp", 16),
    "conv": _built_in("conv", 16),
    "conv, batch 1": _built_in("conv", 1),
    "lenet": lenet,
    "vgg": vgg,
    "lstm": recurrent,
    "resnet-18": _hf("ResNet", 4, 64, depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic"),
    "mobilenet-v2": _hf("MobileNetV2", 4, 96, image_size=96),
    "convnext": _hf("ConvNext", 4, 64, depths=[2, 2, 4, 2], hidden_sizes=[48, 96, 192, 384], image_size=64),
    "vit": _hf(
        "ViT",
        4,
        64,
        image_size=64,
        patch_size=8,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
    ),
    "bert": bert,
    "gpt2": gpt2,
}
