"""The loss of a model that was given none."""

from collections.abc import Mapping
from typing import Any

import torch

from budjoule.energy.errors import UsageError


def default_loss(output: Any) -> tuple[torch.Tensor, bool]:
    """The model's own `output.loss`, else its first floating output that requires a gradient, as a scalar.

    Returns:
        The loss, and whether it is the mean of an output that is none.

    Raises:
        UsageError: No output requires a gradient.
    """
    own = getattr(output, "loss", None)
    if own is not None:
        return (own.mean() if own.dim() else own), False
    candidates = [t for t in _tensors(output) if t.is_floating_point() and t.requires_grad]
    if not candidates:
        raise UsageError(
            "no floating output requires a gradient; give loss=, or mode='inference' if nothing is trained"
        )
    return (candidates[0].float().mean(), True) if candidates[0].dim() else (candidates[0], False)


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in _tensors(value)]
    if isinstance(output, (list, tuple)):
        return [t for value in output for t in _tensors(value)]
    return [output] if isinstance(output, torch.Tensor) else []
