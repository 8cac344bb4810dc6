"""Several sizes of one update, for a scheduler to choose from: `topk:0.01|0.03|0.1` offers three."""

from collections.abc import Sequence

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.update import Vector


def parse_levels(steps: Sequence[str], *, error_feedback: bool = False) -> tuple[Compressor, ...]:
    """The compressors that `update.compress` offers, from the smallest share to the largest; one where it has no bars.

    Raises:
        UsageError: A step is unknown or out of range, or a step that is no selection of a share has bars.
    """
    shares = [""]
    for step in steps:
        name, _, argument = step.partition(":")
        if "|" not in step:
            continue
        if name not in ("topk", "topk-per-joule", "randomk"):
            raise UsageError(f"compress step {step!r} offers several levels; only shares do, as in 'topk:0.01|0.1'")
        shares = argument.split("|")
    levels = [
        Compressor.parse(
            [f"{step.partition(':')[0]}:{share}" if "|" in step else step for step in steps],
            error_feedback=error_feedback,
        )
        for share in shares
    ]
    return tuple(sorted(levels, key=lambda level: level.kept_frac))


def values_of(levels: Sequence[Compressor], update: Vector) -> list[float]:
    """What each level is worth: the share of the update's squared length that it carries, ``1 - distortion``.

    A lone level is worth 1. What rounding loses is left out: it is the same share for all.

    Args:
        levels: Compressors that differ in the share they keep.
        update: What would be sent. Shape (n,).
    """
    if len(levels) == 1:
        return [1.0]
    if levels[0].selection == "randomk":
        return [level.kept_frac for level in levels]
    squares = np.sort(np.square(update, dtype=np.float64))[::-1]
    carried = np.cumsum(squares)
    whole = float(carried[-1])
    return [float(carried[level.kept(update.size) - 1]) / whole if whole else 1.0 for level in levels]
