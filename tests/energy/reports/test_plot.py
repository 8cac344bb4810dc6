"""Axes: round ticks inside the axis, one prefix, and every value mapped between 0 and 1."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.reports.plot import axis, series


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-9, 1e12), st.sampled_from(["J", "B", "s", ""]))
def test_ticks_are_few_distinct_and_inside(high: float, unit: str) -> None:
    made = axis("quantity", [high / 3, high], unit)
    places = [tick.at_percent for tick in made.ticks]
    assert places == sorted(set(places))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert len(places) <= 7
    assert len({tick.text for tick in made.ticks}) == len(made.ticks)
    assert math.isclose(made.share(high), 1.0)


@settings(max_examples=50, deadline=None)
@given(st.floats(1.0, 1e9))
def test_a_tick_says_what_its_place_is(high: float) -> None:
    made = axis("energy", [high], "J")
    factor = {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "GJ": 1e9}[made.label.partition("[")[2].rstrip("]")]
    for tick in made.ticks:
        assert math.isclose(
            float(tick.text.replace(",", "")) * factor, tick.at_percent / 100 * high, rel_tol=1e-6, abs_tol=1e-9
        )


@pytest.mark.parametrize("values", [[], [0.0], [math.nan], [-1.0]])
def test_an_axis_of_nothing_is_still_an_axis(values: list[float]) -> None:
    made = axis("energy", values, "J")
    assert made.high > made.low
    assert made.ticks


def test_long_times_are_in_hours() -> None:
    assert axis("time", [90 * 60.0], "s").label == "time [min]"
    assert axis("time", [8 * 3600.0], "s").label == "time [h]"
    assert axis("time", [12.0], "s").label == "time [s]"


def test_a_line_goes_through_its_points() -> None:
    x, y = axis("x", [10.0], ""), axis("y", [1.0], "%")
    line = series("a", [(0.0, 0.0, "start"), (10.0, 1.0, "end")], x, y)
    assert line.path == "M0.0 1000.0L1000.0 0.0"
    assert [(dot.x_percent, dot.y_percent) for dot in line.dots] == [(0.0, 100.0), (100.0, 0.0)]
