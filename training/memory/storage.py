"""How weights that are not trained are kept: as floats or as bytes here, as signs by a seed in `signs`.

Each is a module, so that its tensors count as the model's, and none is part of the state dict: what is not trained is
never sent.
"""

from math import prod

import torch
from torch import Tensor, nn

from budjoule.training.memory.functions import Frozen


class Floats(nn.Module):
    """As they are.

    Args:
        weight: The weights. Shape (out, in, ...).
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone(), persistent=False)

    def frozen(self) -> Frozen:
        """All rows at once, for they are there."""
        return Frozen(rows=lambda a, b: self.weight[a:b], count=len(self.weight), block=len(self.weight))

    def whole(self) -> Tensor:
        """The weights."""
        return self.weight


class Bytes(nn.Module):
    """One byte a weight and a scale a row; rounding moves a weight by at most 1/254 of the largest in its row.

    Args:
        weight: The weights. Shape (out, in, ...).
        block_bytes: How much of them may be floats at once. [B]
    """

    bytes: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, *, block_bytes: int) -> None:
        super().__init__()
        flat = weight.detach().reshape(len(weight), -1)
        scale = flat.abs().amax(1).clamp_min(1e-12) / 127
        self.register_buffer("bytes", (flat / scale[:, None]).round().to(torch.int8), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self._shape = tuple(weight.shape[1:])
        self._block = max(1, block_bytes // (4 * prod(self._shape)))

    def frozen(self) -> Frozen:
        """A few rows at a time."""
        return Frozen(rows=self._rows, count=len(self.bytes), block=self._block)

    def whole(self) -> Tensor:
        """The weights."""
        return self._rows(0, len(self.bytes))

    def _rows(self, a: int, b: int) -> Tensor:
        # A product of bytes and floats would hold the floats twice.
        return self.bytes[a:b].float().mul_(self.scale[a:b, None]).view(b - a, *self._shape)
