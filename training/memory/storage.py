"""How weights that are not trained are kept: as floats, as bytes, or as the bits of signs that come from a seed.

Each is a module, so that its tensors count as the model's, and none is part of the state dict: what is not trained is
never sent.
"""

from math import prod

import torch
from torch import Tensor, nn

from budjoule.training.memory.functions import Frozen, bit_values, pack_bits, unpack_bits

_MIX = (0x7FEB352D, 0x046CA68B)
_WORD = 0xFFFFFFFF


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

    def _rows(self, a: int, b: int) -> Tensor:
        # A product of bytes and floats would hold the floats twice.
        return self.bytes[a:b].float().mul_(self.scale[a:b, None]).view(b - a, *self._shape)


class Signs(nn.Module):
    """One bit a weight, of weights that are `seeded_signs`.

    Args:
        weight: The weights. Shape (out, in, ...).
        scale: Their absolute value.
        block_bytes: How much of them may be floats at once. [B]
        keep: Hold them as floats too: the same numbers in less time, where there is room.
    """

    bits: Tensor
    values: Tensor

    def __init__(self, weight: Tensor, *, scale: float, block_bytes: int, keep: bool) -> None:
        super().__init__()
        self.register_buffer("bits", pack_bits(weight.reshape(len(weight), -1) > 0), persistent=False)
        self.register_buffer("values", bit_values(self.bits), persistent=False)
        self._scale = scale
        self._shape = tuple(weight.shape[1:])
        self._block = max(1, block_bytes // (4 * prod(self._shape)))
        self._kept = self._rows(0, len(weight)) if keep else None

    def frozen(self) -> Frozen:
        """A few rows at a time, or all where they are kept."""
        kept = self._kept
        if kept is not None:
            return Frozen(rows=lambda a, b: kept[a:b], count=len(kept), block=len(kept))
        return Frozen(rows=self._rows, count=len(self.bits), block=self._block)

    def _rows(self, a: int, b: int) -> Tensor:
        up = unpack_bits(self.bits[a:b], prod(self._shape), self.values)
        return torch.where(up, self._scale, -self._scale).view(b - a, *self._shape)


def seeded_signs(shape: tuple[int, ...], *, seed: int, salt: int, scale: float) -> Tensor:
    """Weights of +-scale by a seed, the same on every device whatever its random generator.

    Each 32 signs are the hash of their place; the hash is of the form of `lowbias32` (C. Wellons, 2018,
    https://nullprogram.com/blog/2018/07/31), its second factor cut to 31 bits so that no product leaves a signed 64-bit
    integer.

    Args:
        shape: Shape of the weights.
        seed: Seed of the run.
        salt: Which of the run's layers it is.
        scale: Absolute value of every weight.
    """
    words = -(-prod(shape) // 32)
    start = _hash_number(seed ^ _hash_number(salt + 1))
    word = (torch.arange(words) + start) & _WORD
    word = ((word ^ (word >> 16)) * _MIX[0]) & _WORD
    word = ((word ^ (word >> 15)) * _MIX[1]) & _WORD
    word = word ^ (word >> 16)
    up = ((word[:, None] >> torch.arange(32)) & 1).view(-1)[: prod(shape)].view(shape)
    return torch.where(up > 0, scale, -scale)


def _hash_number(word: int) -> int:
    """The same hash of a plain number."""
    word &= _WORD
    word = ((word ^ (word >> 16)) * _MIX[0]) & _WORD
    word = ((word ^ (word >> 15)) * _MIX[1]) & _WORD
    return word ^ (word >> 16)
