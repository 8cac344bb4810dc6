"""The `Footprint` noun: what a training step holds at its peak, by kind."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes alive at the moment when the most are.

    Args:
        weights_bytes: Parameters and buffers, trained or not. [B]
        gradients_bytes: Gradients of what is trained, as far as they wait for the update. [B]
        state_bytes: The optimizer's state. [B]
        saved_bytes: What autograd keeps for the backward pass. [B]
        workspace_bytes: The rest: gradients of activations, temporaries, buffers inside kernels. [B]
    """

    weights_bytes: int
    gradients_bytes: int
    state_bytes: int
    saved_bytes: int
    workspace_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The sum. [B]"""
        return self.weights_bytes + self.gradients_bytes + self.state_bytes + self.saved_bytes + self.workspace_bytes

    def to_dict(self) -> dict[str, Any]:
        """All fields and the sum, as plain data."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}
