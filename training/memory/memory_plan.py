"""The `MemoryPlan` noun: what of a model is trained, how the rest is kept, and in which steps, so that a training step fits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from budjoule.training.memory.peak import Footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What happens to one module's own parameters.

    Args:
        channels: Input channels whose weights are trained; all of them or none where there is nothing to choose.
        inputs: How many input channels there are; 1 for a module that is trained as a whole or not at all.
        bias: Whether the bias is trained.
        storage: How weights that are not trained are kept: `floats`, `bytes`, or `signs`, one bit each, drawn by the plan's seed.
        scale: Absolute value of weights that are signs.
    """

    channels: tuple[int, ...]
    inputs: int
    bias: bool
    storage: str = "floats"
    scale: float = 0.0

    @property
    def whole(self) -> bool:
        """All weights are trained."""
        return len(self.channels) == self.inputs

    @property
    def label(self) -> str:
        """The trained channels in short, such as `0-3,7`; empty where all or none are."""
        if self.whole or not self.channels:
            return ""
        runs: list[list[int]] = []
        for channel in self.channels:
            if runs and runs[-1][1] == channel - 1:
                runs[-1][1] = channel
            else:
                runs.append([channel, channel])
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def signs_scale(weight: Any) -> float:
    """Absolute value of random signs in place of a layer's weights: signals keep their size through it and a ReLU.

    Source: He et al., Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852.

    Args:
        weight: The layer's weights. Shape (out, in, ...).
    """
    return math.sqrt(2 * len(weight) / weight.numel())


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How a model is trained within a memory limit; plain data, the same for every device that follows it.

    Args:
        layers: Every module with parameters, by its dotted name, in the order of execution.
        batch_size: Examples of one update.
        micro_batch: Examples that go through the model at once.
        in_backward: Each parameter is updated inside the backward pass, so that no gradient waits.
        optimizer: Name of the optimizer.
        seed: Seed of the weights that are signs.
        block_bytes: How much of weights kept as bytes or signs are floats at once. [B]
        memory_bytes: The limit. [B]
        footprint: What a step holds at its peak under this plan.
        full: What it holds when everything is trained on whole batches, weights as floats.
        contribution_frac: Contribution of what is trained, as a share of that of all parameters.
    """

    layers: Mapping[str, LayerPlan]
    batch_size: int
    micro_batch: int
    in_backward: bool
    optimizer: str
    seed: int
    block_bytes: int
    memory_bytes: float
    footprint: Footprint
    full: Footprint
    contribution_frac: float

    @property
    def peak_bytes(self) -> int:
        """What a step holds at its peak. [B]"""
        return self.footprint.peak_bytes

    @property
    def saving_frac(self) -> float:
        """How much less than full training that is."""
        return 1.0 - self.footprint.peak_bytes / self.full.peak_bytes

    @property
    def labels(self) -> dict[str, str]:
        """What to add to a weight's name where some of its channels are trained, such as `[:,0-3,7]`."""
        return {f"{name}.weight": f"[:,{layer.label}]" for name, layer in self.layers.items() if layer.label}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MemoryPlan":
        """What `to_dict` gave."""
        layers = {
            name: LayerPlan(**{**layer, "channels": tuple(layer["channels"])}) for name, layer in data["layers"].items()
        }
        sizes = {name: Footprint(**data[name]) for name in ("footprint", "full")}
        return cls(**{**data, "layers": layers, **sizes})
