"""The 0/1 knapsack: the most valuable items that fit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GRID = 2048  # sizes are counted in so many parts of the room, rounded up: what fits here fits
_FEW = 400  # items up to which every combination is worth the time


def best_items(values: Sequence[float], sizes: Sequence[float], room: float) -> NDArray[np.bool_]:
    """Which items to take. Shape (items,).

    Items of no size are always taken. For the others the better of two: the densest first, which falls short of the best by
    less than the value of one item, and, where there are few, dynamic programming over the room in 2048 parts,
    ``best(r) = max(best(r), best(r - size) + value)`` item by item.

    Args:
        values: What each item is worth; one of no worth is never taken.
        sizes: What each item takes.
        room: What all may take.

    >>> best_items([6, 10, 12], [1, 2, 2], 4).tolist()
    [False, True, True]
    """
    value, size = np.asarray(values, float), np.asarray(sizes, float)
    taken: NDArray[np.bool_] = (value > 0) & (size <= 0)
    rest = np.flatnonzero((value > 0) & (size > 0) & (size <= room))
    if not len(rest):
        return taken
    choices = [_densest(value[rest], size[rest], room)]
    if len(rest) <= _FEW and not choices[0].all():
        choices.append(_every(value[rest], size[rest], room))
    taken[rest] = max(choices, key=lambda choice: float(value[rest][choice].sum()))
    return taken


def _densest(value: NDArray[np.float64], size: NDArray[np.float64], room: float) -> NDArray[np.bool_]:
    taken = np.zeros(len(value), bool)
    for i in np.argsort(-value / np.maximum(size, 1e-9 * room), kind="stable"):
        if size[i] <= room:
            taken[i] = True
            room -= size[i]
    return taken


def _every(value: NDArray[np.float64], size: NDArray[np.float64], room: float) -> NDArray[np.bool_]:
    parts = np.ceil(size * (_GRID / room)).astype(int)
    best = np.zeros(_GRID + 1)
    took = np.zeros((len(value), _GRID + 1), bool)
    for i, (part, worth) in enumerate(zip(parts.tolist(), value.tolist(), strict=True)):
        if part <= _GRID:
            with_it = best[: _GRID + 1 - part] + worth
            took[i, part:] = with_it > best[part:]
            best[part:] = np.maximum(best[part:], with_it)
    taken, left = np.zeros(len(value), bool), _GRID
    for i in range(len(value) - 1, -1, -1):
        if took[i, left]:
            taken[i] = True
            left -= int(parts[i])
    return taken
