"""Which domains a total adds, and what the interval says."""

import pytest

from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.counter import Mark
from budjoule.energy.windows.tree import Span, faults, span, summed

BEGIN = Mark(
    total_j=0.0, unsure_j=0.0, over_j=0.0, steps=0, resets=0, late=0, late_s=0.0, gaps=0, read_s=0.0
)  # fmt: skip


def mark(total_j: float, *, steps: int = 1, **books: float) -> Mark:
    return BEGIN._replace(total_j=total_j, steps=steps, **books)  # type: ignore[arg-type]


def moved(energy_j: float, *, stepped: bool = True, sound: bool = True) -> Span:
    return Span(energy_j, energy_j, energy_j, 0.0, stepped, seen=True, works=True, sound=sound)


def domains() -> list[Domain]:
    return [
        Domain(name="psys", checked_by=("package-0",)),
        Domain(name="package-0", parent="psys"),
        Domain(name="core-0", parent="package-0", counts=False),
        Domain(name="dram-0", parent="psys"),
    ]


def names(psys_j: float, package_j: float, **changes: Span) -> tuple[str, ...]:
    spans = {"psys": moved(psys_j), "package-0": moved(package_j), "core-0": moved(3.0), "dram-0": moved(2.0)} | changes
    return summed(domains(), spans)


def test_summed_takes_psys_alone_where_it_moved_at_least_as_much_as_the_packages() -> None:
    assert names(12.0, 10.0) == ("psys",)
    assert names(10.0, 10.0) == ("psys",)


@pytest.mark.parametrize("psys_j", [0.0, 9.99])
def test_summed_leaves_psys_out_where_it_moved_less_than_the_packages(psys_j: float) -> None:
    assert names(psys_j, 10.0) == ("package-0", "dram-0")


def test_summed_never_adds_a_core_beside_or_without_its_package() -> None:
    only_core = [Domain(name="core-0", counts=False)]
    assert summed(only_core, {"core-0": moved(3.0)}) == ()
    assert "core-0" not in names(0.0, 1.0)


def test_summed_distrusts_a_psys_that_was_reset() -> None:
    assert names(0.0, 10.0, psys=moved(50.0, sound=False)) == ("package-0", "dram-0")


def test_summed_leaves_out_a_counter_that_stands_still_while_another_steps() -> None:
    dead = moved(0.0, stepped=False)
    assert names(0.0, 10.0, **{"dram-0": dead}) == ("package-0",)


def test_summed_keeps_counters_that_all_stand_still_so_that_the_interval_speaks() -> None:
    dead = moved(0.0, stepped=False)
    assert summed(domains(), dict.fromkeys(["psys", "package-0", "core-0", "dram-0"], dead)) == ("package-0", "dram-0")


def test_span_interval_holds_step_and_published_error() -> None:
    domain = Domain(name="package-0", update_s=0.001, unit_j=0.5, error_low_frac=0.1, error_high_frac=0.2)
    result = span(domain, BEGIN, mark(100.0, steps=5, read_s=2.0), begin_s=0.0, end_s=2.0)
    step_j = 0.5 + 0.001 * 50.0
    assert result.low_j == pytest.approx(90.0 - step_j)
    assert result.high_j == pytest.approx(120.0 + step_j)
    assert result.step_j == pytest.approx(step_j)
    assert faults(domain, BEGIN, mark(100.0, steps=5, read_s=2.0), begin_s=0.0, end_s=2.0) == []


def test_span_of_a_counter_that_did_not_step_reaches_up_to_the_limit() -> None:
    domain = Domain(name="package-0", update_s=0.001, limit_w=1000.0)
    result = span(domain, BEGIN, BEGIN._replace(read_s=0.0005), begin_s=0.0, end_s=0.0005)
    assert (result.energy_j, result.low_j) == (0.0, 0.0)
    assert result.high_j >= 0.5
    assert "did not step" in faults(domain, BEGIN, BEGIN._replace(read_s=0.0005), begin_s=0.0, end_s=0.0005)[0]


def test_span_of_a_counter_that_stands_still_for_long_reaches_up_to_the_limit_all_the_same() -> None:
    domain = Domain(name="package-0", update_s=0.001, limit_w=1000.0)
    assert span(domain, BEGIN, BEGIN._replace(read_s=60.0), begin_s=0.0, end_s=60.0).high_j >= 60_000.0


def test_span_shorter_than_a_few_updates_says_so_and_is_wide() -> None:
    domain = Domain(name="package-0", update_s=0.001)
    result = span(domain, BEGIN, mark(0.1, read_s=0.003), begin_s=0.0, end_s=0.003)
    assert "short" in faults(domain, BEGIN, mark(0.1, read_s=0.003), begin_s=0.0, end_s=0.003)[0]
    assert result.high_j >= 1.0


def test_span_of_a_vanished_counter_widens_by_the_limit_since_it_was_last_read() -> None:
    domain = Domain(name="package-0", limit_w=1000.0)
    result = span(domain, BEGIN, mark(40.0, gaps=1, read_s=2.0), begin_s=0.0, end_s=5.0)
    assert result.low_j <= 40.0 <= result.energy_j
    assert result.high_j == pytest.approx(40.0 + 3000.0)
    assert "could not be read" in faults(domain, BEGIN, mark(40.0, gaps=1, read_s=2.0), begin_s=0.0, end_s=5.0)[0]
    assert not result.sound


def test_span_takes_off_what_may_not_have_passed_and_adds_what_may() -> None:
    domain = Domain(name="VDD_IN", kind="power", poll_s=0.02)
    end = mark(100.0, over_j=60.0, unsure_j=500.0, late=2, late_s=0.56, read_s=10.0)
    result = span(domain, BEGIN, end, begin_s=0.0, end_s=10.0)
    assert (result.energy_j, result.low_j, result.high_j) == (100.0, 40.0, 600.0)
    assert faults(domain, BEGIN, end, begin_s=0.0, end_s=10.0) == [
        "VDD_IN was read late 2 time(s), after 0.56 s in all: its energy is known within its interval only"
    ]


def test_span_of_a_counter_unreadable_as_the_window_opened_may_hold_what_passed_before() -> None:
    domain = Domain(name="package-0", limit_w=100.0)
    begin = BEGIN._replace(gaps=1, read_s=6.0)  # last read 4 s before
    result = span(domain, begin, mark(700.0, gaps=1, read_s=20.0), begin_s=10.0, end_s=20.0)
    assert (result.low_j, result.energy_j) == (300.0, 700.0)


@pytest.mark.parametrize(("duration_s", "blind_frac"), [(0.05, 0.75), (0.1, 0.75), (10.0, 0.075), (1000.0, 0.0075)])
def test_span_of_a_sensor_that_looks_a_quarter_of_the_time_is_wide_where_it_is_short(
    duration_s: float, blind_frac: float
) -> None:
    whole = Domain(name="gpu-0", update_s=0.1, error_low_frac=0.05, error_high_frac=0.05)
    quarter = Domain(name="gpu-0", update_s=0.1, error_low_frac=0.05, error_high_frac=0.05, sampled_frac=0.25)
    energy_j = 5000.0
    all_seen, part_seen = (
        span(domain, BEGIN, mark(energy_j, read_s=duration_s), begin_s=0.0, end_s=duration_s)
        for domain in (whole, quarter)
    )
    assert part_seen.high_j - all_seen.high_j == pytest.approx(blind_frac * energy_j)
    assert all_seen.low_j - part_seen.low_j == pytest.approx(blind_frac * energy_j)


@pytest.mark.parametrize(
    ("domain", "duration_s", "works"),
    [
        (Domain(name="package-0", update_s=0.001), 1.9, True),
        (Domain(name="package-0", update_s=0.001), 2.0, False),
        (Domain(name="gpu-0", update_s=0.1), 9.0, True),
        (Domain(name="gpu-0", update_s=0.1), 10.0, False),
        (Domain(name="VDD_IN", kind="power", update_s=0.05), 5.0, False),
        (Domain(name="a counter of unknown step"), 1e6, True),
    ],
)
def test_span_of_a_counter_that_never_moved_works_only_where_the_window_was_short(
    domain: Domain, duration_s: float, works: bool
) -> None:
    assert span(domain, BEGIN, BEGIN._replace(read_s=duration_s), begin_s=0.0, end_s=duration_s).works is works
    moved = mark(1e-3, read_s=duration_s)
    assert span(domain, BEGIN, moved, begin_s=0.0, end_s=duration_s).works
