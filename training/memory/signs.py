"""Layers that stay random: signs by a seed, the same on every device, which take next to no memory.

The signs are the first rows of a Hadamard matrix whose columns are flipped at random, so that rows are orthogonal and a dense
layer never needs them written out: its product is a fast transform of the flipped input.

Source: Ailon and Chazelle, The fast Johnson-Lindenstrauss transform, SIAM J. Comput. 39(1), 2009; orthogonal rows keep more
of the input than independent ones: Yu et al., Orthogonal random features, NeurIPS 2016, arXiv:1610.09072.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from budjoule.training.memory.functions import Frozen, bit_values, pack_bits, unpack_bits

_MIX = (0x7FEB352D, 0x046CA68B)
_WORD = 0xFFFFFFFF


def seeded_signs(shape: tuple[int, ...], *, seed: int, salt: int, scale: float) -> Tensor:
    """Weights of +-scale by a seed, the same on every device whatever its random generator.

    Args:
        shape: Shape of the weights, (out, in, ...).
        seed: Seed of the run.
        salt: Which of the run's layers it is.
        scale: Absolute value of every weight.
    """
    out, inputs = shape[0], prod(shape[1:])
    size = order(out, inputs)
    places = torch.arange(size)
    both = (
        places[:out, None] & places[:inputs]
    )  # of Sylvester's matrix: the parity of the bits that row and column share
    for shift in (32, 16, 8, 4, 2, 1):
        both = both ^ (both >> shift)
    return torch.where(both & 1 > 0, -scale, scale).mul_(flips(size, seed=seed, salt=salt)[:inputs]).view(shape)


def order(out: int, inputs: int) -> int:
    """Rows and columns of the Hadamard matrix: the least power of two that is wide enough."""
    return 1 << (max(out, inputs) - 1).bit_length()


def flips(size: int, *, seed: int, salt: int) -> Tensor:
    """Signs by a seed. Shape (size,).

    Each 32 are the hash of their place; the hash is of the form of `lowbias32` (C. Wellons, 2018,
    https://nullprogram.com/blog/2018/07/31), its second factor cut to 31 bits so that no product leaves a signed 64-bit
    integer.
    """
    start = _hash_number(seed ^ _hash_number(salt + 1))
    word = (torch.arange(-(-size // 32)) + start) & _WORD
    word = ((word ^ (word >> 16)) * _MIX[0]) & _WORD
    word = ((word ^ (word >> 15)) * _MIX[1]) & _WORD
    word = word ^ (word >> 16)
    up = ((word[:, None] >> torch.arange(32)) & 1).view(-1)[:size]
    return torch.where(up > 0, 1.0, -1.0)


class DenseSigns(nn.Module):
    """A dense layer's `seeded_signs`, as a transform that needs no weights.

    A Hadamard matrix is the Kronecker product of two smaller ones, so that the transform is two small products.

    Args:
        shape: Shape of the layer's weights, (out, in).
        seed: Of the signs.
        salt: Of the signs.
        scale: Their absolute value.
        columns: The columns that are kept, in order; all by default.
    """

    columns: Tensor | None
    flips: Tensor
    left: Tensor
    right: Tensor

    def __init__(
        self, shape: tuple[int, ...], *, seed: int, salt: int, scale: float, columns: Tensor | None = None
    ) -> None:
        super().__init__()
        out, inputs = shape
        self._out = out
        self._written_out = partial(seeded_signs, shape, seed=seed, salt=salt, scale=scale)
        size = order(out, inputs)
        wide = 1 << (size.bit_length() // 2)
        self.register_buffer("flips", flips(size, seed=seed, salt=salt).mul_(scale), persistent=False)
        self.register_buffer("left", _hadamard(-(-out // wide), size // wide), persistent=False)
        self.register_buffer("right", _hadamard(wide, wide), persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def frozen(self) -> "HadamardProduct":
        """The transform and its transpose."""
        return HadamardProduct(out=self._out, flips=self.flips, left=self.left, right=self.right, columns=self.columns)

    def whole(self) -> Tensor:
        """The weights."""
        signs = self._written_out()
        return signs if self.columns is None else signs.index_select(1, self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class HadamardProduct:
    """The products of a dense layer's signs; takes the place of `Frozen`.

    Args:
        out: How many outputs there are.
        flips: Of the columns, times the scale. Shape (order,).
        left: Rows of the outer Hadamard matrix. Shape (ceil(out / wide), order / wide).
        right: The inner one. Shape (wide, wide).
        columns: The inputs that there are, if not all.
    """

    out: int
    flips: Tensor
    left: Tensor
    right: Tensor
    columns: Tensor | None

    def forward(self, product: Any, x: Tensor) -> Tensor:
        """The outputs. Shape (n, out)."""
        whole = self._spread(x) if self.columns is not None or x.shape[1] < len(self.flips) else x
        flipped = (whole * self.flips).view(len(x), -1, len(self.right))
        found = self._outer(self.left, flipped).matmul(self.right).flatten(1)[:, : self.out]
        return found.clone()  # an autograd function must not give a view that is later changed in place

    def back(self, product: Any, grad: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The input's gradient."""
        rows = self.left.shape[0] * len(self.right)
        padded = grad if rows == self.out else torch.nn.functional.pad(grad, (0, rows - self.out))
        inner = padded.reshape(len(grad), -1, len(self.right)).matmul(self.right)
        found = self._outer(self.left.t(), inner).flatten(1).mul_(self.flips)
        return found[:, : shape[1]] if self.columns is None else found.index_select(1, self.columns)

    def _spread(self, x: Tensor) -> Tensor:
        whole = x.new_zeros((len(x), len(self.flips)))
        if self.columns is None:
            whole[:, : x.shape[1]] = x
            return whole
        return whole.index_copy_(1, self.columns.long(), x)

    def _outer(self, left: Tensor, x: Tensor) -> Tensor:
        return torch.bmm(left.expand(len(x), -1, -1), x)


class Signs(nn.Module):
    """One bit a weight, of a convolution's weights that are `seeded_signs`.

    Args:
        weight: The weights. Shape (out, in, ...).
        scale: Their absolute value.
        block_bytes: How much of them may be floats at once. [B]
    """

    bits: Tensor
    values: Tensor

    def __init__(self, weight: Tensor, *, scale: float, block_bytes: int) -> None:
        super().__init__()
        self.register_buffer("bits", pack_bits(weight.reshape(len(weight), -1) > 0), persistent=False)
        self.register_buffer("values", bit_values(self.bits), persistent=False)
        self._scale = scale
        self._shape = tuple(weight.shape[1:])
        self._block = max(1, block_bytes // (4 * prod(self._shape)))

    def frozen(self) -> Frozen:
        """A few rows at a time."""
        return Frozen(rows=self._rows, count=len(self.bits), block=self._block)

    def whole(self) -> Tensor:
        """The weights."""
        return self._rows(0, len(self.bits))

    def _rows(self, a: int, b: int) -> Tensor:
        up = unpack_bits(self.bits[a:b], prod(self._shape), self.values)
        return torch.where(up, self._scale, -self._scale).view(b - a, *self._shape)


def _hadamard(rows: int, size: int) -> Tensor:
    """The first rows of Sylvester's matrix. Shape (rows, size)."""
    return seeded_signs((rows, size), seed=0, salt=0, scale=1.0) * flips(size, seed=0, salt=0)


def _hash_number(word: int) -> int:
    """The same hash of a plain number."""
    word &= _WORD
    word = ((word ^ (word >> 16)) * _MIX[0]) & _WORD
    word = ((word ^ (word >> 15)) * _MIX[1]) & _WORD
    return word ^ (word >> 16)
