"""Laws of one counter's books: wraps, resets, gaps and late readings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.counter import Counter, poll_s


def package(**changes: object) -> Domain:
    return Domain(**({"name": "package-0", "range_j": 262_143.0, "limit_w": 1000.0} | changes))


def books(domain: Domain, readings: list[tuple[float, float | None]]) -> Counter:
    counter = Counter(domain)
    counter.rebase(readings[0][1], readings[0][0])
    for at_s, reading in readings[1:]:
        counter.add(reading, at_s)
    return counter


@settings(max_examples=150, deadline=None)
@given(
    start_frac=st.floats(0, 1, exclude_max=True),
    range_j=st.sampled_from([100.0, 65_536.0, 262_143.0]),
    powers_w=st.lists(st.floats(0, 1000), min_size=1, max_size=60),
)
def test_counter_polled_in_time_is_exact_over_any_number_of_wraps(
    start_frac: float, range_j: float, powers_w: list[float]
) -> None:
    domain = package(range_j=range_j)
    step_s = poll_s(domain)
    assert step_s is not None
    true_j, readings = start_frac * range_j, [(0.0, start_frac * range_j)]
    for number, power_w in enumerate(powers_w, start=1):
        true_j += power_w * step_s
        readings.append((number * step_s, true_j % range_j))
    counter = books(domain, readings)
    assert counter.total_j == pytest.approx(true_j - start_frac * range_j, abs=1e-6 * range_j)
    assert counter.unsure_j == 0
    assert (counter.resets, counter.late, counter.gaps) == (0, 0, 0)


@settings(max_examples=150, deadline=None)
@given(
    powers_w=st.lists(st.floats(0, 1000), min_size=1, max_size=30),
    gaps_s=st.lists(st.floats(0.001, 2000), min_size=30, max_size=30),
)
def test_counter_read_at_any_time_bounds_the_true_energy(powers_w: list[float], gaps_s: list[float]) -> None:
    range_j, true_j, now_s, readings = 65_536.0, 0.0, 0.0, [(0.0, 0.0)]
    for power_w, gap_s in zip(powers_w, gaps_s, strict=False):
        true_j, now_s = true_j + power_w * gap_s, now_s + gap_s
        readings.append((now_s, true_j % range_j))
    counter = books(package(range_j=range_j), readings)
    assert counter.total_j <= true_j + 1e-3
    assert true_j <= counter.total_j + counter.unsure_j + 1e-3


def test_counter_just_after_a_wrap_adds_what_lies_on_both_sides() -> None:
    counter = books(package(range_j=1000.0), [(0.0, 999.5), (1.0, 0.25)])
    assert counter.total_j == pytest.approx(0.75)
    assert counter.unsure_j == 0


def test_counter_reset_leaves_a_lower_bound_and_says_so() -> None:
    counter = books(package(), [(0.0, 5000.0), (1.0, 5040.0), (2.0, 30.0), (3.0, 80.0)])
    assert counter.resets == 1
    assert counter.total_j == pytest.approx(40 + 30 + 50)
    assert counter.unsure_j == pytest.approx(1000 - 30)  # at most the limit passed in the second of the reset


def test_counter_without_a_range_takes_every_fall_as_a_reset() -> None:
    counter = books(package(range_j=None), [(0.0, 10.0), (1.0, 4.0)])
    assert (counter.resets, counter.total_j) == (1, 4.0)


def test_counter_wrap_is_believed_though_the_clock_ran_late() -> None:
    counter = books(package(), [(0.0, 262_140.0), (0.001, 200.0)])  # 203 J in a millisecond: the reader was preempted
    assert counter.total_j == pytest.approx(203.0)
    assert counter.resets == 0


def test_counter_with_a_gap_goes_on_where_it_can_be_read_again() -> None:
    counter = books(package(), [(0.0, 10.0), (1.0, None), (2.0, 130.0)])
    assert (counter.gaps, counter.total_j, counter.unsure_j) == (1, 120.0, 0.0)


BATTERY = Domain(name="BAT0", limit_w=300.0, poll_s=0.5)


def test_counter_of_a_store_that_rises_holds_what_was_drawn_and_says_so() -> None:
    counter = books(BATTERY, [(0.0, -180_000.0), (1.0, -179_900.0), (2.0, -181_000.0), (3.0, -180_950.0)])
    assert (counter.resets, counter.total_j) == (1, 150.0)  # 100 J, a charger, 50 J
    assert counter.over_j == 1100.0  # or a gauge that had counted too much
    assert counter.unsure_j == 300.0  # what the machine drew while it was charged


def test_counter_of_a_store_read_after_a_long_gap_may_have_been_charged_meanwhile() -> None:
    gap = [(0.5 * number, None) for number in range(3, 1200)]
    counter = books(BATTERY, [(0.0, -180_000.0), (1.0, -179_900.0), *gap, (601.0, -179_700.0)])
    assert (counter.total_j, counter.late, counter.late_s) == (300.0, 1, 600.0)
    assert counter.unsure_j == 300.0 * 600.0 - 200.0


RAIL = Domain(name="VDD_IN", kind="power", poll_s=0.02, limit_w=1000.0)


@settings(max_examples=150, deadline=None)
@given(
    segments=st.lists(
        st.tuples(st.sampled_from([0.02, 0.1, 0.5, 9.0, 600.0]), st.floats(0, 1000), st.floats(0, 1)), max_size=30
    )
)
def test_counter_of_power_bounds_the_true_energy_over_gaps_of_any_length(
    segments: list[tuple[float, float, float]],
) -> None:
    now_s = true_j = last_w = late_s = 0.0
    readings: list[tuple[float, float | None]] = [(0.0, 0.0)]
    for elapsed_s, power_w, unseen_frac in segments:
        in_time = elapsed_s <= 10 * 0.02
        true_j += (0.5 * (last_w + power_w) if in_time else unseen_frac * RAIL.limit_w) * elapsed_s
        late_s += 0.0 if in_time else elapsed_s
        now_s, last_w = now_s + elapsed_s, power_w
        readings.append((now_s, power_w))
    counter = books(RAIL, readings)
    assert counter.total_j - counter.over_j <= true_j + 1e-3
    assert true_j <= counter.total_j + counter.unsure_j + 1e-3
    assert counter.late_s == pytest.approx(late_s)
    assert counter.over_j + counter.unsure_j == pytest.approx(1000.0 * late_s)


def test_counter_of_power_that_flows_back_costs_nothing() -> None:
    assert books(package(kind="power", range_j=None), [(0.0, -10.0), (2.0, -20.0)]).total_j == 0.0


def test_counter_unreadable_at_first_may_have_moved_up_to_the_limit() -> None:
    counter = books(package(), [(0.0, None), (2.0, 50.0), (3.0, 60.0)])
    assert counter.total_j == 10.0
    assert counter.unsure_j == 2000.0


def test_counter_of_power_integrates_by_the_trapezoid() -> None:
    counter = books(package(kind="power", range_j=None), [(0.0, 10.0), (2.0, 20.0), (4.0, 20.0)])
    assert counter.total_j == pytest.approx(30 + 40)


@pytest.mark.parametrize(("range_j", "expected_s"), [(262_144.0, 60.0), (65_536.0, 32.768), (1.0, 0.005)])
def test_poll_interval_is_half_the_fastest_wrap_within_bounds(range_j: float, expected_s: float) -> None:
    assert poll_s(package(range_j=range_j)) == pytest.approx(expected_s)


def test_poll_interval_of_a_counter_that_never_wraps_is_none() -> None:
    assert poll_s(package(range_j=None)) is None
