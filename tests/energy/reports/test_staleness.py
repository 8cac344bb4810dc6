"""Staleness and participation: shares add up, bands hold what they say, seeds become one line."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budjoule.energy.reports.charts import sends_by_rank, timeline
from budjoule.energy.reports.rows import Send, Totals
from budjoule.energy.reports.run_folder import Run, load_run
from budjoule.energy.reports.run_page import run_page
from budjoule.energy.reports.spread import by_configuration
from budjoule.energy.reports.staleness import (
    MOST_BINS,
    any_stale,
    freshness,
    sends_by_staleness,
    shares_by_staleness,
    staleness_by_time,
)

MakeRun = Callable[..., Path]
BARE = Run(
    path=Path("run"),
    name="run",
    header={"config": {}},
    summary=None,
    totals=Totals(),
    clients=(),
    evaluations=(),
    sends=(),
    aggregates=(),
    rejects=(),
    notes=(),
)


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return load_run(make_run("run"))


@pytest.fixture
def seeds(make_run: MakeRun) -> list[Run]:
    return [load_run(make_run(f"seed-{seed}", seed=seed)) for seed in range(3)]


def aged(run: Run, ages: list[int | None]) -> Run:
    sends = [
        Send(time_s=10.0 * index, client=0, size_bytes=1, energy_j=1.0, staleness=age) for index, age in enumerate(ages)
    ]
    return dataclasses.replace(run, sends=tuple(sends))


def heights(path: str, high: float) -> list[float]:
    return [high * (1 - float(down) / 1000) for _, down in re.findall(r"([\d.]+) ([\d.]+)", path)]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_every_send_stands_in_the_column_of_its_staleness(ages: list[int]) -> None:
    chart = sends_by_staleness(aged(BARE, [*ages, None]))
    assert len(chart.bars) <= MOST_BINS
    shares = {bar.name: bar.segments[0].size_percent / 100 * chart.axis.high for bar in chart.bars}
    assert sum(shares.values()) == pytest.approx(1.0)
    for name, share in shares.items():
        low, _, high = name.replace(",", "").partition(" to ")
        inside = sum(int(low) <= age <= int(high or low) for age in ages)
        assert share == pytest.approx(inside / len(ages))


def test_staleness_over_time_keeps_the_mean_inside_the_band_and_loses_no_send(run: Run) -> None:
    late = aged(run, [index % 7 + index // 100 for index in range(1000)])
    chart = staleness_by_time(by_configuration([late]))
    means = heights(chart.series[0].path, chart.y.high)
    edges = heights(chart.bands[0].path, chart.y.high)
    upper, lower = edges[: len(means)], edges[len(means) :][::-1]
    assert all(low < mean < top for low, mean, top in zip(lower, means, upper, strict=True))
    assert fmean(means) == pytest.approx(fmean(send.staleness or 0 for send in late.sends), abs=0.02)


def test_lost_sends_and_unknown_staleness_count_for_nothing(run: Run) -> None:
    known = aged(run, [4, 4, None, 4])
    lost = dataclasses.replace(known.sends[0], staleness=90, lost=True)
    assert freshness(dataclasses.replace(known, sends=(*known.sends, lost))) == freshness(known)
    assert freshness(aged(run, [None])) == ""


def test_a_run_of_fresh_updates_says_so_instead_of_drawing(run: Run) -> None:
    fresh = aged(run, [0] * 30)
    assert not any_stale([fresh])
    page = run_page([fresh])
    assert "Every update started from the newest version." in page
    assert "Staleness over time" not in page


def test_pages_of_one_run_and_of_seeds_show_staleness_and_participation(run: Run, seeds: list[Run]) -> None:
    for page in (run_page([run]), run_page(seeds)):
        assert "<h3>Staleness</h3>" in page
        assert "<h3>Staleness over time</h3>" in page
        assert "<h3>Participation</h3>" in page
    assert all(freshness(one).partition(" versions")[0] in run_page(seeds) for one in seeds)


@pytest.mark.parametrize("draw", [shares_by_staleness, staleness_by_time, sends_by_rank])
def test_seeds_become_one_line_in_a_band(seeds: list[Run], draw: Callable) -> None:
    chart = draw(by_configuration(seeds))
    assert len(chart.series) == len(chart.bands) == 1
    means = heights(chart.series[0].path, chart.y.high)
    edges = heights(chart.bands[0].path, chart.y.high)
    slack = chart.y.high * 2e-4
    for mean, top, low in zip(means, edges, edges[len(means) :][::-1], strict=False):
        assert low - slack <= mean <= top + slack


def test_participation_falls_from_the_busiest_client_to_the_least_busy(run: Run) -> None:
    chart = sends_by_rank(by_configuration([run]))
    counts = heights(chart.series[0].path, chart.y.high)
    assert counts == sorted(counts, reverse=True)
    assert counts[:-1] == pytest.approx(sorted((row.sends for row in run.clients), reverse=True), abs=0.01)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=60))
def test_dots_of_other_shades_differ_in_staleness(ages: list[int]) -> None:
    chart = timeline(aged(BARE, list(ages)))
    assert 1 <= len(chart.legend) <= 4
    assert {dot.colour for dot in chart.dots} == {colour for _, colour in chart.legend}
    ranges = [(int(name.partition(" to ")[0]), int(name.rpartition(" ")[2])) for name, _ in chart.legend]
    for dot in chart.dots:
        low, high = ranges[dot.colour]
        assert low <= int(dot.title.rpartition(" ")[2]) <= high
