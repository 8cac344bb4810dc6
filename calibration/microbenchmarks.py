"""Small workloads, each dominated by one or two coefficients, and the two real training steps that the fit does not see."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Step = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbenchmark:
    """One workload: a module with its inputs, run forward, or a whole training step.

    Args:
        name: For people.
        pins: What it is there to pin.
        build: Makes the module and its input, anew at each call.
        training: Run forward, backward and SGD.
        precision: Type of module and input.
        held_out: Only predicted, never fitted.
    """

    name: str
    pins: str
    build: Callable[[], tuple[nn.Module, torch.Tensor]]
    training: bool = False
    precision: str = "fp32"
    held_out: bool = False


class Apply(nn.Module):
    """A module that applies one function, several times over."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], times: int = 1) -> None:
        super().__init__()
        self.function = function
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        for _ in range(self.times):
            y = self.function(x)
        return y


def _conv_net() -> tuple[nn.Module, torch.Tensor]:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 10)
    )  # fmt: skip
    return net, torch.randn(64, 3, 32, 32)


def _transformer() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(16, 64, 128)


SUITE = (
    Microbenchmark(name="tiny ops", pins="host time of a launch", build=lambda: (Apply(torch.neg, 200), torch.randn(16))),
    Microbenchmark(name="tiny views", pins="host time of a view", build=lambda: (Apply(lambda x: x.view(4, 4).t(), 100), torch.randn(16))),
    Microbenchmark(name="tiny modules", pins="host time of a module and a product", build=lambda: (nn.Sequential(*[nn.Linear(16, 16) for _ in range(50)]), torch.randn(1, 16))),
    Microbenchmark(name="tiny convolutions", pins="host time of a convolution", build=lambda: (nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(30)]), torch.randn(1, 4, 4, 4))),
    Microbenchmark(name="large product", pins="fp32 products", build=lambda: (nn.Linear(1024, 1024, bias=False), torch.randn(1024, 1024))),
    Microbenchmark(name="large product, bf16", pins="bf16 products", precision="bf16", build=lambda: (nn.Linear(1024, 1024, bias=False), torch.randn(1024, 1024))),
    Microbenchmark(name="skinny product", pins="bandwidth under a product", build=lambda: (nn.Linear(4096, 4096, bias=False), torch.randn(1, 4096))),
    Microbenchmark(name="short product", pins="start-up of a product", build=lambda: (nn.Linear(16, 1024, bias=False), torch.randn(4096, 16))),
    Microbenchmark(name="batched product", pins="batched products", build=lambda: (Apply(lambda x: x @ x.transpose(1, 2)), torch.randn(32, 256, 64))),
    Microbenchmark(name="big copy", pins="DRAM bandwidth", build=lambda: (Apply(torch.clone), torch.randn(1 << 25))),
    Microbenchmark(name="cache-sized copy", pins="share of the cache", build=lambda: (Apply(torch.clone, 4), torch.randn(1 << 18))),
    Microbenchmark(name="light elements", pins="cycles of a light element", build=lambda: (Apply(torch.relu, 4), torch.randn(1 << 17))),
    Microbenchmark(name="heavy elements", pins="cycles of a transcendental element", build=lambda: (Apply(torch.erf, 4), torch.randn(1 << 17))),
    Microbenchmark(name="softmax and norm", pins="reductions", build=lambda: (nn.Sequential(nn.LayerNorm(512), nn.Softmax(-1)), torch.randn(1024, 512))),
    Microbenchmark(name="convolution", pins="convolutions", build=lambda: (nn.Conv2d(64, 64, 3, padding=1), torch.randn(8, 64, 32, 32))),
    Microbenchmark(name="depthwise convolution", pins="depthwise convolutions", build=lambda: (nn.Conv2d(128, 128, 3, padding=1, groups=128), torch.randn(8, 128, 32, 32))),
    Microbenchmark(name="convolution and its gradients", pins="convolutions backward", training=True, build=lambda: (nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)), torch.randn(16, 16, 16, 16))),
    Microbenchmark(name="small training step", pins="the whole", training=True, build=lambda: (nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)), torch.randn(64, 256))),
    Microbenchmark(name="training step of a conv net", pins="held out", training=True, held_out=True, build=_conv_net),
    Microbenchmark(name="training step of a transformer", pins="held out", training=True, held_out=True, build=_transformer),
)  # fmt: skip


def prepared(benchmark: Microbenchmark) -> Step:
    """A function that runs the microbenchmark once for real."""
    module, x = benchmark.build()
    if benchmark.precision == "bf16":
        module, x = module.to(torch.bfloat16), x.to(torch.bfloat16)
    if not benchmark.training:
        module.eval()

        def forward() -> None:
            with torch.no_grad():
                module(x)

        return forward
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)

    def train() -> None:
        optimizer.zero_grad()
        module(x).float().mean().backward()
        optimizer.step()

    return train
