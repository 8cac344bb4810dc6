"""Which domains a total adds, and what the interval says."""

import pytest

from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.counter import Mark
from budjoule.energy.windows.tree import Span, faults, span, summed

BEGIN = Mark(0.0, 0.0, 0, 0, 0, 0, 0.0)


def moved(energy_j: float, *, stepped: bool = True, sound: bool = True) -> Span:
    return Span(energy_j, energy_j, energy_j, stepped, True, sound)


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
    result = span(domain, BEGIN, Mark(100.0, 0.0, 5, 0, 0, 0, 2.0), begin_s=0.0, end_s=2.0)
    step_j = 0.5 + 0.001 * 50.0
    assert result.low_j == pytest.approx(90.0 - step_j)
    assert result.high_j == pytest.approx(120.0 + step_j)
    assert faults(domain, BEGIN, Mark(100.0, 0.0, 5, 0, 0, 0, 2.0), begin_s=0.0, end_s=2.0) == []


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
    result = span(domain, BEGIN, Mark(0.1, 0.0, 1, 0, 0, 0, 0.003), begin_s=0.0, end_s=0.003)
    assert "short" in faults(domain, BEGIN, Mark(0.1, 0.0, 1, 0, 0, 0, 0.003), begin_s=0.0, end_s=0.003)[0]
    assert result.high_j >= 1.0


def test_span_of_a_vanished_counter_widens_by_the_limit_since_it_was_last_read() -> None:
    domain = Domain(name="package-0", limit_w=1000.0)
    result = span(domain, BEGIN, Mark(40.0, 0.0, 1, 0, 0, 1, 2.0), begin_s=0.0, end_s=5.0)
    assert result.low_j <= 40.0 <= result.energy_j
    assert result.high_j == pytest.approx(40.0 + 3000.0)
    assert "could not be read" in faults(domain, BEGIN, Mark(40.0, 0.0, 1, 0, 0, 1, 2.0), begin_s=0.0, end_s=5.0)[0]
    assert not result.sound
