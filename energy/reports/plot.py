"""Geometry of charts: axes with round ticks, lines, dots and bars as shares of the plot's width and height.

A chart is data; the template turns it into SVG. Positions are percentages (0 to 100, y downwards) or, in paths, units
of a 1000 by 1000 box, so that one chart is crisp at any width while its text keeps its size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

PATH_UNITS = 1000.0
_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis: its place along it and its text."""

    at_percent: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A linear axis from `low` to `high`, in the values' own unit.

    Args:
        label: What it shows, with the unit that the ticks are in.
    """

    label: str
    low: float
    high: float
    ticks: tuple[Tick, ...]

    def share(self, value: float) -> float:
        """Where a value lies along the axis, 0 to 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point with its tooltip and the number of its colour; hollow for what did not arrive."""

    x_percent: float
    y_percent: float
    title: str
    colour: int = 0
    hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line: an SVG path in the 1000 by 1000 box, its points, and the number of its colour."""

    name: str
    path: str
    dots: tuple[Dot, ...]
    colour: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The area between two lines: an SVG path in the 1000 by 1000 box, and the number of its colour."""

    path: str
    colour: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A reference line across the plot, such as a target or a budget."""

    text: str
    x_percent: float | None = None
    y_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A plot of lines or dots.

    Args:
        title: What the reader sees above it.
        description: The same in a sentence, for those who cannot see it.
        note: A line below, such as what was left out.
        legend: Names of the colours, in order, where several are used.
        empty: What stands in its place while there is nothing to draw.
    """

    title: str
    description: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    dots: tuple[Dot, ...] = ()
    bands: tuple[Band, ...] = ()
    marks: tuple[Mark, ...] = ()
    legend: tuple[tuple[str, int], ...] = ()
    note: str = ""
    empty: str = "Nothing was evaluated."


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a bar, as shares of the plot's length."""

    start_percent: float
    size_percent: float
    title: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stacked bar with its name, its total in words, and the place of its limit."""

    name: str
    total: str
    segments: tuple[Segment, ...]
    limit_percent: float | None = None
    alarm: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Bars over one axis: rows while they are few, thin columns when they are many.

    Args:
        legend: Name and kind of each segment's colour.
        below: What the columns are, where they stand in for rows.
        named: Every how many columns one is named; 0 where tooltips name them.
    """

    title: str
    description: str
    axis: Axis
    bars: tuple[Bar, ...]
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""
    below: str = ""
    named: int = 0


def axis(label: str, values: Iterable[float], unit: str, *, low: float = 0.0, ticks: int = 5) -> Axis:
    """An axis from `low` past the largest value, ticks in one prefix of `unit`.

    Args:
        label: What the axis shows; the unit is added.
        values: Everything that must fit.
        unit: `J`, `B`, `s` (shown as min or h when long), `%` (for shares of one), or empty for counts.

    >>> axis("energy", [4190.0], "J").label, [tick.text for tick in axis("energy", [4190.0], "J").ticks]
    ('energy [kJ]', ['0', '1', '2', '3', '4'])
    """
    high = max((value for value in values if math.isfinite(value)), default=low)
    if high <= low:
        high = low + 1.0
    factor, shown = _scale(high, unit)
    step = _round_step((high - low) / factor / ticks, sixty=shown == "min", whole=unit == "")
    first = math.ceil(low / factor / step - 1e-9)
    count = math.floor((high / factor) / step + 1e-9)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    bare = Axis(label=f"{label} [{shown}]" if shown else label, low=low, high=high, ticks=())
    marks = [(index * step * factor, f"{index * step:,.{places}f}") for index in range(first, count + 1)]
    return replace(bare, ticks=tuple(Tick(at_percent=100 * bare.share(value), text=text) for value, text in marks))


def series(name: str, points: Sequence[tuple[float, float, str]], x: Axis, y: Axis, *, colour: int = 0) -> Series:
    """A line through `(x, y, tooltip)` points."""
    places = [(x.share(at), 1.0 - y.share(value), title) for at, value, title in points]
    steps = [f"{PATH_UNITS * right:.1f} {PATH_UNITS * down:.1f}" for right, down, _ in places]
    dots = tuple(
        Dot(x_percent=100 * right, y_percent=100 * down, title=title, colour=colour) for right, down, title in places
    )
    return Series(name=name, path="M" + "L".join(steps) if steps else "", dots=dots, colour=colour)


def band(edges: Sequence[tuple[float, float, float]], x: Axis, y: Axis, *, colour: int = 0) -> Band:
    """The area between the lower and the upper of `(x, low, high)`."""
    there = [(x.share(at), 1.0 - y.share(high)) for at, _, high in edges]
    back = [(x.share(at), 1.0 - y.share(low)) for at, low, _ in reversed(edges)]
    steps = [f"{PATH_UNITS * right:.1f} {PATH_UNITS * down:.1f}" for right, down in there + back]
    return Band(path="M" + "L".join(steps) + "Z" if steps else "", colour=colour)


def _scale(high: float, unit: str) -> tuple[float, str]:
    if unit == "%":
        return 0.01, "%"
    if unit == "s" and high >= 120:
        factor, name = next(pair for pair in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")) if high >= 2 * pair[0])
        return factor, name
    if unit == "":
        return 1.0, ""
    factor, prefix = next(((f, p) for p, f in _PREFIXES if high >= f), (1e-9, "n"))
    return factor, f"{prefix}{unit}"


def _round_step(least: float, *, sixty: bool, whole: bool) -> float:
    if sixty and least > 5:
        return next(float(step) for step in (10, 15, 20, 30, 60, 120) if step >= least)
    magnitude = 10.0 ** math.floor(math.log10(least))
    step = next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= least * (1 - 1e-9))
    return max(1.0, float(round(step))) if whole else step
