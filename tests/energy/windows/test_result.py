"""What a window says of its counters: stores that are charged, rails that vanish, counters that stand still, parts that are missing."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters.load_model import energy_unseen_j, this_machine
from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.choose import Choice
from budjoule.energy.windows.result import result
from budjoule.energy.windows.together import Together
from budjoule.energy.windows.watch import Watch

PACKAGE = Domain(name="package-0", update_s=0.001, unit_j=0.5)
RAIL = Domain(name="VDD_IN", kind="power", update_s=0.05, poll_s=0.02, error_low_frac=0.05, error_high_frac=0.05)
Script = Sequence[tuple[float, Sequence[float | None]]]


@pytest.fixture
def measured(hand_meter: Callable[..., Any], clock: Any) -> Callable[[Sequence[Domain], Script], Measurement]:
    """A window over readings, each with the seconds that pass before it."""

    def measure(domains: Sequence[Domain], script: Script) -> Measurement:
        (_, first), *others = script
        meter = hand_meter(domains, first)
        watch = Watch(meter, clock=clock, attended=False)
        begin = watch.begin()
        for elapsed_s, readings in others:
            clock.now_s += elapsed_s
            meter.readings = list(readings)
            end = watch.poll()
        return result("", Choice(watch, (), 0.0), begin, end)

    return measure


def test_battery_charged_inside_a_window_is_a_bound_and_no_crash(tree: Any) -> None:
    folder = tree.root / "class" / "power_supply" / "BAT0"
    folder.mkdir(parents=True)

    def gauge(status: str, energy_uwh: int) -> None:
        (folder / "status").write_text(f"{status}\n")
        (folder / "energy_now").write_text(f"{energy_uwh}\n")

    (folder / "type").write_text("Battery\n")
    gauge("Discharging", 50_000_000)
    with bj.measure(meter="battery") as m:
        for status, energy_uwh in (
            ("Discharging", 49_000_000),
            ("Charging", 49_400_000),
            ("Charging", 49_900_000),
            ("Discharging", 49_900_000),  # a fall of what was drawn
            ("Discharging", 48_900_000),
        ):
            gauge(status, energy_uwh)
            m.read()
    assert m.energy_j == pytest.approx(2 * 3600.0)
    assert m.energy_low_j <= 3600.0
    assert m.energy_high_j > m.energy_j
    assert any("BAT0 was reset or charged 1 time(s)" in note for note in m.notes)


def test_rail_that_vanishes_for_a_while_is_bridged_with_all_that_is_possible(
    measured: Callable[..., Measurement],
) -> None:
    seen: Script = [(0.02, [10.0])] * 100
    m = measured([RAIL], [(0.0, [10.0]), *seen, *[(0.02, [None])] * 30_000, *seen])
    assert m.energy_j == pytest.approx(10.0 * 604.0)
    assert m.energy_low_j < 40.0
    assert m.energy_high_j > 600_000.0
    assert m.notes == (
        "VDD_IN was read late 1 time(s), after 600 s in all: its energy is known within its interval only",
    )


def test_rail_polled_on_time_is_as_narrow_as_its_error(measured: Callable[..., Measurement]) -> None:
    m = measured([RAIL], [(0.0, [10.0]), *[(0.02, [10.0])] * 500])
    assert (m.energy_low_j, m.energy_high_j) == pytest.approx((95.0 - 0.5, 105.0 + 0.5))
    assert m.notes == ()


@pytest.mark.parametrize("script", [[(0.0, [7.0]), (3.0, [7.0])], [(0.0, [7.0]), (1.0, [7.0]), (2.0, [None])]])
def test_counter_that_never_moves_gives_the_estimate_and_says_why(
    measured: Callable[..., Measurement], tree: Any, script: Script
) -> None:
    m = measured([PACKAGE], script)
    assert m.source == "estimated"
    assert (m.energy_j, m.energy_low_j, m.energy_high_j) == pytest.approx(energy_unseen_j(this_machine(), 3.0))
    assert m.energy_low_j > 0
    assert m.counter_step_j is None
    assert "did not move in 3 s" in m.notes[0]


def test_counter_that_moves_late_or_had_no_time_to_is_measured(measured: Callable[..., Measurement]) -> None:
    assert measured([PACKAGE], [(0.0, [7.0]), (1.0, [7.0])]).source == "measured"
    m = measured([PACKAGE], [(0.0, [7.0]), (3.0, [7.0]), (3.0, [8.0])])
    assert (m.source, m.energy_j) == ("measured", 1.0)


def test_memory_without_a_package_says_that_it_is_not_all(measured: Callable[..., Measurement]) -> None:
    package, memory, gpu = (Domain(name=name) for name in ("package-0", "dram-0", "gpu-0"))
    alone = measured([memory, gpu], [(0.0, [0.0, 0.0]), (1.0, [3.0, 50.0])])
    assert alone.energy_j == 53.0
    assert "only dram-0 is in the total, which is a lower bound" in alone.notes[0]
    assert measured([package, memory], [(0.0, [0.0, 0.0]), (1.0, [9.0, 3.0])]).notes == ()
    assert measured([gpu], [(0.0, [0.0]), (1.0, [9.0])]).notes == ()


def test_measurement_carries_the_step_of_the_counters_in_its_total(measured: Callable[..., Measurement]) -> None:
    core = Domain(name="core-0", parent="package-0", counts=False, unit_j=100.0)
    memory = Domain(name="dram-0", unit_j=0.25)
    m = measured([PACKAGE, core, memory], [(0.0, [0.0] * 3), (2.0, [40.0, 30.0, 5.0])])
    assert m.counter_step_j == pytest.approx(0.5 + 0.001 * 20.0 + 0.25)
    assert m.energy_high_j == pytest.approx(m.energy_j + m.counter_step_j)
    assert m.to_dict()["counter_step_j"] == m.counter_step_j


def test_meter_that_fails_beside_another_leaves_its_readings_and_is_named(hand_meter: Callable[..., Any]) -> None:
    processor = hand_meter([Domain(name="package-0", limit_w=100.0)], [5.0])
    gpu = hand_meter([Domain(name="gpu-0", limit_w=300.0)], [70.0])

    def fail() -> list[float | None]:
        raise RuntimeError("driver not loaded")

    with bj.measure(meter=Together([processor, gpu])) as m:
        processor.readings = [8.0]
        gpu.read = fail
    assert (m.source, m.energy_j, m.domains) == ("measured", 3.0, {"package-0": 3.0})
    assert m.energy_high_j >= 3.0 + 300.0 * m.duration_s
    assert any(note.startswith("gpu-0 could not be read any more") for note in m.notes)
    assert m.counter_step_j == m.measurement.counter_step_j == 0.0


def test_window_that_begins_while_a_meter_fails_still_has_the_others(hand_meter: Callable[..., Any]) -> None:
    processor, gpu = hand_meter([Domain(name="package-0")], [5.0]), hand_meter([Domain(name="gpu-0")], [70.0])
    meter = Together([gpu, processor])
    gpu.read = None
    with bj.measure(meter=meter) as m:
        processor.readings = [8.0]
    assert (m.source, m.domains) == ("measured", {"package-0": 3.0})
    assert any(note.startswith("gpu-0 could not be read") for note in m.notes)
