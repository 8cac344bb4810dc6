"""Axes for quantities that may span decades: linear while the values are close, else logarithmic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from budjoule.energy.reports.plot import Axis, Tick, axis
from budjoule.energy.units import show

FAR = 8.0  # largest value over smallest from which on the axis is logarithmic


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis, and where a value lies in the axis's own coordinate."""

    axis: Axis
    logarithmic: bool

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        return math.log10(value) if self.logarithmic else value


def scale(label: str, values: Sequence[float], unit: str) -> Scale:
    """An axis that shows positive values apart from each other.

    >>> scale("time", [0.5, 0.6], "s").logarithmic, scale("time", [0.01, 2.0], "s").logarithmic
    (False, True)
    >>> [tick.text for tick in scale("time", [0.01, 2.0], "s").axis.ticks]
    ['10.0 ms', '100 ms', '1.00 s']
    """
    least, most = min(values), max(values)
    if most < FAR * least:
        margin = 0.08 * (most - least) or 0.1 * most
        return Scale(axis=axis(label, [most + margin], unit, low=max(0.0, least - margin)), logarithmic=False)
    low, high = math.log10(least), math.log10(most)
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    steps = (1, 2, 5) if high - low < 2 else (1,)
    marks = [
        m * 10.0**e
        for e in range(math.floor(low), math.ceil(high) + 1)
        for m in steps
        if low <= math.log10(m) + e <= high
    ]
    ticks = tuple(
        Tick(at_percent=100 * (math.log10(mark) - low) / (high - low), text=show(mark, unit)) for mark in marks
    )
    return Scale(axis=Axis(label=f"{label}, logarithmic", low=low, high=high, ticks=ticks), logarithmic=True)
