"""Small workloads, each dominated by one or two coefficients, and the two real training steps that the fit does not see."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from budjoule.energy.trace import trace
from budjoule.energy.workload import Workload

LEARNING_RATE = 1e-4  # small, so that thousands of repeats stay finite
MANY = 16.0  # units from which caches hold what a few units' would not
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Built = tuple[nn.Module, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbenchmark:
    """One workload: a module with its input, run forward, or a whole training step.

    Args:
        name: For people.
        pins: What it is there to pin.
        build: Makes the module and its input, anew at each call, for a device as strong as so many cores.
        training: Run forward, backward and SGD.
        precision: Type of module and input.
        held_out: Only predicted, never fitted.
        kinds: The kinds of devices it runs on.
    """

    name: str
    pins: str
    build: Callable[[int], Built]
    training: bool = False
    precision: str = "fp32"
    held_out: bool = False
    kinds: tuple[str, ...] = ("cpu", "gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A microbenchmark that is ready to run: what runs, and the trace of the very same module and input.

    Args:
        benchmark: Which one it is.
        step: Runs it once.
        workload: What one step does.
    """

    benchmark: Microbenchmark
    step: Callable[[], None]
    workload: Workload


def prepare(benchmark: Microbenchmark, *, cores: int, device: str = "cpu") -> Prepared:
    """Build a microbenchmark on a device and trace it.

    Args:
        benchmark: Which one.
        cores: How many cores the device is as strong as; work grows with them, so that time does not shrink.
        device: PyTorch's name of the device.
    """
    with torch.device(device):
        module, x = benchmark.build(cores)
    dtype = DTYPES[benchmark.precision]
    module, x = module.to(dtype), x.to(dtype)
    mode = "training" if benchmark.training else "inference"
    work = trace(module, x, mode=mode, optimizer="sgd", precision=benchmark.precision)
    step = _train(module, x) if benchmark.training else _forward(module, x)
    return Prepared(benchmark=benchmark, step=step, workload=work)


def _forward(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    module.eval()

    def forward() -> None:
        with torch.no_grad():
            module(x)

    return forward


def _train(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)

    def train() -> None:
        optimizer.zero_grad()
        module(x).float().mean().backward()
        optimizer.step()

    return train


class Apply(nn.Module):
    """Applies one function to its input, several times over."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], times: int = 1) -> None:
        super().__init__()
        self.function = function
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        for _ in range(self.times):
            y = self.function(x)
        return y


class Copy(nn.Module):
    """Copies its input into memory that it holds: a new place each time would measure the kernel's page faults."""

    place: torch.Tensor

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(elements))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Copy it."""
        return self.place.copy_(x)


def _side(cores: int) -> int:
    """Side of a square product that keeps each core about as long as 512 keeps one."""
    return 64 * max(1, round(8 * math.cbrt(cores)))


def _product(cores: int) -> Built:
    side = _side(cores)
    return nn.Linear(side, side, bias=False), torch.randn(side, side)


def _skinny_product(cores: int) -> Built:
    side = 4096 if cores < MANY else 8192
    return nn.Linear(side, side, bias=False), torch.randn(1, side)


def _big_copy(cores: int) -> Built:
    elements = 1 << (25 if cores < MANY else 27)
    return Copy(elements), torch.randn(elements)


def _attention(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(x, x, x)


def _conv_net(cores: int) -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 64, 10),
    )  # fmt: skip
    return net, torch.randn(16 * cores, 3, 32, 32)


def _transformer(cores: int) -> Built:
    layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(4 * cores, 64, 128)


SUITE = (
    Microbenchmark(name="tiny ops", pins="host time of a launch", build=lambda cores: (Apply(torch.neg, 200), torch.randn(16))),
    Microbenchmark(name="tiny views", pins="host time of a view", build=lambda cores: (Apply(lambda x: x.view(4, 4).t(), 100), torch.randn(16))),
    Microbenchmark(name="tiny modules", pins="host time of a module and a product", build=lambda cores: (nn.Sequential(*[nn.Linear(16, 16) for _ in range(50)]), torch.randn(1, 16))),
    Microbenchmark(name="tiny convolutions", pins="host time of a convolution", build=lambda cores: (nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(30)]), torch.randn(1, 4, 4, 4))),
    Microbenchmark(name="large product", pins="fp32 products", build=_product),
    Microbenchmark(name="large product, bf16", pins="bf16 products", precision="bf16", build=_product),
    Microbenchmark(name="large product, fp16", pins="fp16 products", precision="fp16", kinds=("gpu",), build=_product),
    Microbenchmark(name="skinny product", pins="bandwidth under a product", build=_skinny_product),
    Microbenchmark(name="short product", pins="start-up of a product", build=lambda cores: (nn.Linear(16, 1024, bias=False), torch.randn(2048 * cores, 16))),
    Microbenchmark(name="batched product", pins="batched products", build=lambda cores: (Apply(lambda x: x @ x.transpose(1, 2)), torch.randn(8 * cores, 256, 64))),
    Microbenchmark(name="big copy", pins="DRAM bandwidth", build=_big_copy),
    Microbenchmark(name="cache-sized copy", pins="share of the cache", build=lambda cores: (Apply(torch.clone, 4), torch.randn(cores << 17))),
    Microbenchmark(name="light elements", pins="cycles of a light element", build=lambda cores: (Apply(torch.relu, 4), torch.randn(cores << 16))),
    Microbenchmark(name="heavy elements", pins="cycles of a transcendental element", build=lambda cores: (Apply(torch.erf, 4), torch.randn(cores << 16))),
    Microbenchmark(name="softmax and norm", pins="reductions", build=lambda cores: (nn.Sequential(nn.LayerNorm(512), nn.Softmax(-1)), torch.randn(512 * cores, 512))),
    Microbenchmark(name="convolution", pins="convolutions", build=lambda cores: (nn.Conv2d(64, 64, 3, padding=1), torch.randn(2 * cores, 64, 32, 32))),
    Microbenchmark(name="depthwise convolution", pins="depthwise convolutions", build=lambda cores: (nn.Conv2d(128, 128, 3, padding=1, groups=128), torch.randn(4 * cores, 128, 32, 32))),
    Microbenchmark(name="convolutions and their gradients", pins="convolutions backward", training=True, build=lambda cores: (nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)), torch.randn(8 * cores, 16, 16, 16))),
    Microbenchmark(name="norms and their gradients", pins="light elements backward", training=True, build=lambda cores: (nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(), nn.LayerNorm(16)), torch.randn(8 * cores, 64, 16, 16))),
    Microbenchmark(name="products and their gradients", pins="products of a layer", training=True, build=lambda cores: (nn.Sequential(nn.Linear(192, 384), nn.GELU(), nn.Linear(384, 192)), torch.randn(256 * cores, 192))),
    Microbenchmark(name="attention", pins="attention", build=lambda cores: (Apply(_attention), torch.randn(4 * cores, 4, 128, 32))),
    Microbenchmark(name="small training step", pins="the whole", training=True, build=lambda cores: (nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)), torch.randn(64, 256))),
    Microbenchmark(name="training step of a conv net", pins="held out", training=True, held_out=True, build=_conv_net),
    Microbenchmark(name="training step of a transformer", pins="held out", training=True, held_out=True, build=_transformer),
)  # fmt: skip
