"""One line for each configuration: a single run as it is, runs that differ by their seed alone as a mean with a band."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from budjoule.energy.reports.plot import Band, Chart, Series, band, series
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.spread import SeedGroup
from budjoule.energy.reports.words import plural

BAND_POINTS = 80

Point = tuple[float, float, str]


def with_lines(
    chart: Chart,
    groups: Sequence[SeedGroup],
    points: Callable[[Run], Sequence[Point]],
    words: Callable[[float], str],
    *,
    places: Sequence[float] | None = None,
) -> Chart:
    """The chart with a line for each group of runs, and a legend where there are several.

    Args:
        chart: Title, axes and words.
        groups: Runs of one configuration together.
        points: A run's `(x, y, tooltip)`, x rising; between two points the value of the left one holds.
        words: A value of y as text.
        places: Where means over seeds are taken; evenly over the longest run by default.
    """
    lines: list[Series] = []
    bands: list[Band] = []
    for index, group in enumerate(groups):
        lead = f"{group.name}: " if len(groups) > 1 else ""
        curves = [curve for curve in map(points, group.runs) if curve]
        if len(curves) < 2:
            known = [(at, value, lead + text) for curve in curves for at, value, text in curve]
            lines.append(series(group.name, known, chart.x, chart.y, colour=index % 8))
            continue
        end = max(curve[-1][0] for curve in curves)
        along = places or [end * step / BAND_POINTS for step in range(BAND_POINTS + 1)]
        held = [(at, [_held(curve, at) for curve in curves]) for at in along]
        means = [(at, fmean(values), f"{lead}{_range(values, words)}") for at, values in held]
        edges = [(at, min(values), max(values)) for at, values in held]
        lines.append(series(group.name, means, chart.x, chart.y, colour=index % 8))
        bands.append(band(edges, chart.x, chart.y, colour=index % 8))
    return replace(
        chart,
        series=tuple(lines),
        bands=tuple(bands),
        legend=tuple((line.name, line.colour) for line in lines) if len(groups) > 1 else (),
    )


def _held(curve: Sequence[Point], at: float) -> float:
    """The last value known by then; a run that has ended keeps its last."""
    return curve[max(0, bisect.bisect_right(curve, at, key=lambda point: point[0]) - 1)][1]


def _range(values: Sequence[float], words: Callable[[float], str]) -> str:
    mean, low, high = words(fmean(values)), words(min(values)), words(max(values))
    return f"{mean} on average, {low} to {high} over {plural(len(values), 'seed')}"
