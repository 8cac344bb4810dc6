"""Sends a matrix as the product of two thin ones: what most of a dense layer's change amounts to.

A layer of more than one dimension is a matrix of its first dimension by the rest. Layers whose factors would be no
smaller go as they are.

Source: Vogels, Karimireddy, Jaggi, PowerSGD, NeurIPS 2019, arXiv 1905.13727; started anew each time, so that client and
server need no common state.
"""

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.update import Layout, Vector

_ROUNDS = 2  # of power iteration; a third changes the error by less than 1 % of the update

Matrix = NDArray[np.float32]


class _Part(NamedTuple):
    """A layer of the flat vector, and its share of the numbers sent; `rank` 0 sends it as it is."""

    start: int
    stop: int
    rows: int
    columns: int
    rank: int

    @property
    def numbers(self) -> int:
        return self.rank * (self.rows + self.columns) if self.rank else self.stop - self.start


@lru_cache(maxsize=64)
def _parts(layout: Layout, rank: int) -> tuple[_Part, ...]:
    parts = []
    for (start, stop), shape in zip(pairwise(layout.bounds), layout.shapes, strict=True):
        rows = shape[0] if len(shape) > 1 else 1
        columns = math.prod(shape[1:]) if len(shape) > 1 else stop - start
        smaller = rank * (rows + columns) < rows * columns
        parts.append(_Part(start, stop, rows, columns, rank if smaller else 0))
    return tuple(parts)


def numbers_sent(layout: Layout, rank: int) -> int:
    """How many numbers stand for an update."""
    return sum(part.numbers for part in _parts(layout, rank))


def factorize(values: Vector, layout: Layout, rank: int) -> Vector:
    """The numbers that stand for a delta: of each layer the left factor, then the right one. Shape (numbers_sent,)."""
    pieces = []
    for part in _parts(layout, rank):
        layer = values[part.start : part.stop]
        if not part.rank:
            pieces.append(layer)
            continue
        left, right = _factors(layer.reshape(part.rows, part.columns), part.rank)
        pieces += [left.ravel(), right.ravel()]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def multiply(numbers: Vector, layout: Layout, rank: int) -> Vector:
    """The delta that the numbers stand for. Shape (layout.size,).

    Raises:
        PayloadError: A product is infinite.
    """
    values, at = np.empty(layout.size, np.float32), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _parts(layout, rank):
            own = numbers[at : at + part.numbers]
            at += part.numbers
            if part.rank:
                left = own[: part.rows * part.rank].reshape(part.rows, part.rank)
                right = own[part.rows * part.rank :].reshape(part.columns, part.rank)
                own = (left @ right.T).ravel()
            values[part.start : part.stop] = own
    if not np.isfinite(values).all():
        raise PayloadError("the update's factors multiply to infinite values; it is refused")
    return values


def without_harm(numbers: Vector, arrived: Vector, values: Vector, layout: Layout, rank: int) -> bool:
    """Drop, in place, the factors of layers that arrive with a larger error than if nothing was sent; whether there were any.

    Coarsely rounded factors can do that, and under error feedback such a residual would grow.
    """
    at, dropped = 0, False
    for part in _parts(layout, rank):
        layer, got = (vector[part.start : part.stop].astype(np.float64) for vector in (values, arrived))
        own = numbers[at : at + part.numbers]
        if part.rank and own.any() and np.linalg.norm(got - layer) > np.linalg.norm(layer):
            own[:] = 0
            dropped = True
        at += part.numbers
    return dropped


def _factors(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Factors of equal weight, so that one scale suits the values of both. Shapes (rows, rank) and (columns, rank)."""
    scale = np.abs(matrix).max(initial=0.0)
    if scale < np.finfo(np.float32).tiny:
        return np.zeros((matrix.shape[0], rank), np.float32), np.zeros((matrix.shape[1], rank), np.float32)
    unit = matrix / scale
    right = np.random.default_rng(0).standard_normal((matrix.shape[1], rank)).astype(np.float32)
    for _ in range(_ROUNDS):
        left, _ = np.linalg.qr(unit @ right)
        right = unit.T @ left
    weight = np.sqrt(np.linalg.norm(right, axis=0))
    split = np.divide(1.0, weight, where=weight > 0, out=np.zeros_like(weight))
    root = np.float32(math.sqrt(scale))
    return left * weight * root, right * split * root
