"""How old updates were when the server took them, in versions of the model: their shares, and their age over time."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, quantiles

from budjoule.energy.reports.curves import Point, with_lines
from budjoule.energy.reports.plot import Bar, BarChart, Chart, Segment, axis, band
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.spread import SeedGroup
from budjoule.energy.reports.words import percent
from budjoule.energy.units import show

MOST_BINS = 30
MOST_SPANS = 40
SENDS_A_SPAN = 20
FEW_SPANS = 5  # a short run still shows a course


def freshness(run: Run) -> str:
    """How stale the updates were, in one sentence; empty where no send says so."""
    ages = sorted(age for _, age in _ages(run))
    if not ages:
        return ""
    if not ages[-1]:
        return "Every update started from the newest version."
    return (
        f"Updates were {fmean(ages):.3g} versions old on average, "
        f"nine in ten at most {ages[math.ceil(0.9 * len(ages)) - 1]:g}, the oldest {ages[-1]:g}."
    )


def any_stale(runs: Sequence[Run]) -> bool:
    """Whether there is any staleness to draw."""
    return any(age for run in runs for _, age in _ages(run))


def sends_by_staleness(run: Run) -> BarChart:
    """Which share of a run's sends was how stale, as columns."""
    bins = _bins([run])
    shares = _shares(run, bins)
    scale = axis("sends", shares, "%")
    names = [_name(ages) for ages in bins]
    parts = [
        Segment(start_percent=0.0, size_percent=100 * share / scale.high, title=_words(name, share), kind="prompt")
        for name, share in zip(names, shares, strict=True)
    ]
    return BarChart(
        title="Staleness",
        description=freshness(run),
        axis=scale,
        bars=tuple(
            Bar(name=name, total=percent(share), segments=(part,))
            for name, share, part in zip(names, shares, parts, strict=True)
        ),
        below="staleness of the update, in versions",
        named=math.ceil(len(bins) / (12 if len(bins[0]) == 1 else 3)),
    )


def shares_by_staleness(groups: Sequence[SeedGroup]) -> Chart:
    """Which share of the sends was how stale, as a line for each configuration."""
    runs = [run for group in groups for run in group.runs]
    bins = _bins(runs)
    places = [(ages[0] + ages[-1]) / 2 for ages in bins]
    shares = {id(run): _shares(run, bins) for run in runs}

    def points(run: Run) -> list[Point]:
        found = zip(places, bins, shares[id(run)], strict=True)
        return [(place, share, _words(_name(ages), share)) for place, ages, share in found] if _ages(run) else []

    chart = Chart(
        title="Staleness",
        description=" ".join(f"{run.name}: {freshness(run)}" for run in runs),
        x=axis("staleness of the update, in versions", places, ""),
        y=axis("sends", [share for found in shares.values() for share in found], "%"),
        note=f"Each point counts {len(bins[0])} values of staleness." if len(bins[0]) > 1 else "",
    )
    return with_lines(chart, groups, points, percent, places=places)


def staleness_by_time(groups: Sequence[SeedGroup]) -> Chart:
    """The mean staleness of sends that follow each other; of a single run also the range of eight in ten."""
    runs = [run for group in groups for run in group.runs]
    spans = {id(run): _spans(run) for run in runs}
    lone = spans[id(runs[0])] if len(runs) == 1 else []
    x = axis("simulated time", [run.totals.simulated_duration_s or 0.0 for run in runs], "s")
    y = axis(
        "staleness, in versions", [high if lone else mean for found in spans.values() for _, mean, _, high in found], ""
    )
    chart = Chart(
        title="Staleness over time",
        description="The mean staleness of sends over time.",
        x=x,
        y=y,
        note="Line: the mean of sends that follow each other; band: eight in ten of them." if lone else "",
    )
    drawn = with_lines(
        chart,
        groups,
        lambda run: [
            (at_s, mean, f"{mean:.3g} versions around {show(at_s, 's')}") for at_s, mean, _, _ in spans[id(run)]
        ],
        lambda age: f"{age:.3g}",
    )
    return replace(drawn, bands=(band([(at, low, high) for at, _, low, high in lone], x, y),)) if lone else drawn


def _ages(run: Run) -> list[tuple[float, float]]:
    """The time and the staleness of each send that arrived. [s, versions]"""
    return [
        (send.time_s, max(0.0, send.staleness)) for send in run.sends if send.staleness is not None and not send.lost
    ]


def _bins(runs: Sequence[Run]) -> list[range]:
    """The values of staleness up to the highest, at most `MOST_BINS` ranges of as many."""
    count = 1 + int(max((age for run in runs for _, age in _ages(run)), default=0))
    width = -(-count // MOST_BINS)
    return [range(start, start + width) for start in range(0, count, width)]


def _shares(run: Run, bins: Sequence[range]) -> list[float]:
    ages, counts = _ages(run), [0] * len(bins)
    for _, age in ages:
        counts[int(age) // len(bins[0])] += 1
    return [count / max(1, len(ages)) for count in counts]


def _name(ages: range) -> str:
    return f"{ages[0]:,}" if len(ages) == 1 else f"{ages[0]:,} to {ages[-1]:,}"


def _words(name: str, share: float) -> str:
    return f"staleness {name}: {percent(share)} of the sends"


def _spans(run: Run) -> list[tuple[float, float, float, float]]:
    """Sends in order of time, in spans of as many: middle time, mean staleness, its tenth and ninetieth percentile."""
    ages = sorted(_ages(run))
    count = max(1, min(MOST_SPANS, len(ages) // SENDS_A_SPAN), min(FEW_SPANS, len(ages) // FEW_SPANS))
    edges = [len(ages) * index // count for index in range(count + 1)]
    spans = []
    for start, end in pairwise(edges):
        if some := [age for _, age in ages[start:end]]:
            middle_s = fmean(time_s for time_s, _ in ages[start:end])
            tenths = quantiles(some, n=10, method="inclusive") if len(some) > 1 else some
            spans.append((middle_s, fmean(some), tenths[0], tenths[-1]))
    return spans
