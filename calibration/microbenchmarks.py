"""Small workloads, each dominated by one or two coefficients, and the two real training steps that the fit does not see."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from budjoule.energy.trace import trace
from budjoule.energy.workload import Workload

LEARNING_RATE = 1e-4  # small, so that thousands of repeats stay finite
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
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
        training: Run forward, backward and the optimizer.
        optimizer: A row of `OPTIMIZERS` below.
        precision: Type of module and input.
        held_out: Only predicted, never fitted.
        kinds: The kinds of devices it runs on.
    """

    name: str
    pins: str
    build: Callable[[int], Built]
    training: bool = False
    optimizer: str = "sgd"
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
    work = trace(module, x, mode=mode, optimizer=benchmark.optimizer, precision=benchmark.precision)
    step = _train(module, x, benchmark.optimizer) if benchmark.training else _forward(module, x)
    return Prepared(benchmark=benchmark, step=step, workload=work)


def _forward(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    module.eval()

    def forward() -> None:
        with torch.no_grad():
            module(x)

    return forward


def _train(module: nn.Module, x: torch.Tensor, name: str) -> Callable[[], None]:
    module.train()
    optimizer = OPTIMIZERS[name](module.parameters(), lr=LEARNING_RATE)

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


class Chain(Apply):
    """Applies one function to its own result, so that a gradient runs back through every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        for _ in range(self.times):
            x = self.function(x)
        return x


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


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())


def _separable(inside: int, outside: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inside, inside, 3, 1, 1, groups=inside, bias=False)
    pointwise = nn.Conv2d(inside, outside, 1, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inside), nn.ReLU6(), pointwise, nn.BatchNorm2d(outside), nn.ReLU6())


def _encoder(width: int, heads: int, activation: str) -> nn.Module:
    return nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, activation=activation, batch_first=True)


def _perceptron(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


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


PRODUCT = Microbenchmark(name="large product", pins="fp32 products", build=_product)

# Host times are read in training steps: an op whose gradient follows costs the host two to five times what it costs alone.
# On a processor one coefficient stands for all light elements, though a batch norm's take ten times a copy's: there the mix
# of training steps pins it, and only a GPU, whose elements are alike, runs the pure ones.
SUITE = (
    Microbenchmark(name="tiny layers", pins="host time of a module and a product", training=True, build=lambda cores: (nn.Sequential(*[nn.Linear(32, 32) for _ in range(8)]), torch.randn(8, 32))),
    Microbenchmark(name="tiny ops", pins="host time of a launch", training=True, build=lambda cores: (nn.Sequential(nn.Linear(16, 16), Chain(torch.relu, 40)), torch.randn(4, 16))),
    Microbenchmark(name="tiny views", pins="host time of a view", training=True, build=lambda cores: (nn.Sequential(nn.Linear(16, 16), Chain(lambda x: x.transpose(0, 1), 40)), torch.randn(4, 16))),
    Microbenchmark(name="tiny convolutions", pins="host time of a convolution", training=True, build=lambda cores: (nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(6)]), torch.randn(1, 4, 8, 8))),
    Microbenchmark(name="tiny norms", pins="host time of a module", training=True, build=lambda cores: (nn.Sequential(*[nn.LayerNorm(16) for _ in range(8)]), torch.randn(4, 16))),
    PRODUCT,
    Microbenchmark(name="large product, bf16", pins="bf16 products", precision="bf16", build=_product),
    Microbenchmark(name="large product, fp16", pins="fp16 products", precision="fp16", kinds=("gpu",), build=_product),
    Microbenchmark(name="skinny product", pins="bandwidth under a product", build=_skinny_product),
    Microbenchmark(name="short product", pins="start-up of a product", build=lambda cores: (nn.Linear(16, 1024, bias=False), torch.randn(2048 * cores, 16))),
    Microbenchmark(name="batched product", pins="batched products", build=lambda cores: (Apply(lambda x: x @ x.transpose(1, 2)), torch.randn(8 * cores, 256, 64))),
    Microbenchmark(name="big copy", pins="DRAM bandwidth", build=_big_copy),
    Microbenchmark(name="cache-sized copy", pins="share of the cache", kinds=("gpu",), build=lambda cores: (Apply(torch.clone, 4), torch.randn(cores << 17))),
    Microbenchmark(name="light elements", pins="cycles of a light element", kinds=("gpu",), build=lambda cores: (Apply(torch.relu, 4), torch.randn(cores << 16))),
    Microbenchmark(name="heavy elements", pins="cycles of a transcendental element", build=lambda cores: (Apply(torch.erf, 4), torch.randn(cores << 16))),
    Microbenchmark(name="softmax and norm", pins="reductions", training=True, build=lambda cores: (nn.Sequential(nn.LayerNorm(512), nn.Softmax(-1)), torch.randn(256 * cores, 512))),
    Microbenchmark(name="batch norm", pins="reductions over a batch", training=True, build=lambda cores: (nn.Sequential(nn.BatchNorm2d(24), nn.ReLU()), torch.randn(12 * cores, 24, 20, 20))),
    Microbenchmark(name="pooling", pins="loops over single elements", training=True, kinds=("cpu",), build=lambda cores: (nn.Sequential(nn.BatchNorm2d(8), nn.MaxPool2d(2)), torch.randn(8 * cores, 8, 32, 32))),
    Microbenchmark(name="dropout", pins="random numbers", training=True, kinds=("cpu",), build=lambda cores: (nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.1), nn.ReLU()), torch.randn(256 * cores, 64))),
    Microbenchmark(name="narrow convolution", pins="convolutions of few channels", training=True, build=lambda cores: (nn.Conv2d(1, 8, 3, padding=1), torch.randn(16 * cores, 1, 28, 28))),
    Microbenchmark(name="wide convolution", pins="convolutions of many channels", training=True, build=lambda cores: (nn.Conv2d(64, 64, 3, padding=1), torch.randn(16 * cores, 64, 8, 8))),
    Microbenchmark(name="convolutions with norms", pins="convolutions as they are used", training=True, build=lambda cores: (nn.Sequential(_conv(8, 16), _conv(16, 24, 2)), torch.randn(16 * cores, 8, 24, 24))),
    Microbenchmark(name="strided convolutions with norms", pins="convolutions as they are used", training=True, build=lambda cores: (nn.Sequential(_conv(3, 24, 2), _conv(24, 48, 2), _conv(48, 48)), torch.randn(12 * cores, 3, 40, 40))),
    Microbenchmark(name="depthwise convolution", pins="depthwise convolutions", build=lambda cores: (nn.Conv2d(128, 128, 3, padding=1, groups=128), torch.randn(4 * cores, 128, 32, 32))),
    Microbenchmark(name="separable convolution", pins="gradients of depthwise convolutions", training=True, build=lambda cores: (_separable(32, 48), torch.randn(8 * cores, 32, 24, 24))),
    Microbenchmark(name="products and their gradients", pins="products of a layer", training=True, build=lambda cores: (_perceptron(192, 384), torch.randn(256 * cores, 192))),
    Microbenchmark(name="norm and products", pins="a layer as it is used", training=True, build=lambda cores: (nn.Sequential(nn.LayerNorm(96), *_perceptron(96, 384)), torch.randn(256 * cores, 96))),
    Microbenchmark(name="attention", pins="attention", build=lambda cores: (Apply(_attention), torch.randn(4 * cores, 4, 128, 32))),
    Microbenchmark(name="narrow encoder layer", pins="attention as it is used", training=True, build=lambda cores: (_encoder(96, 3, "relu"), torch.randn(4 * cores, 48, 96))),
    Microbenchmark(name="wide encoder layer", pins="attention as it is used", training=True, build=lambda cores: (_encoder(192, 6, "gelu"), torch.randn(2 * cores, 64, 192))),
    Microbenchmark(name="small training step", pins="the whole", training=True, build=lambda cores: (nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)), torch.randn(64, 256))),
    Microbenchmark(name="layers under AdamW", pins="optimizer", training=True, optimizer="adamw", build=lambda cores: (nn.Sequential(*[nn.Linear(128, 128) for _ in range(6)]), torch.randn(32 * cores, 128))),
    Microbenchmark(name="training step of a conv net", pins="held out", training=True, held_out=True, build=_conv_net),
    Microbenchmark(name="training step of a transformer", pins="held out", training=True, held_out=True, build=_transformer),
)  # fmt: skip
