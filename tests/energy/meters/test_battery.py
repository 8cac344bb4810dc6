"""Batteries on trees of files: every layout that laptops and phones have, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.battery import open_battery
from budjoule.energy.windows.watch import Watch


def battery(root: Path, name: str = "BAT0", **files: object) -> Path:
    folder = root / "class" / "power_supply" / name
    folder.mkdir(parents=True)
    for key, value in ({"type": "Battery", "status": "Discharging"} | files).items():
        (folder / key).write_text(f"{value}\n")
    return folder


def test_battery_energy_drawn_is_what_the_gauge_lost(tree: Any) -> None:
    folder = battery(tree.root, energy_now=50_000_000, power_now=9_000_000)
    with bj.measure(meter="battery") as m:
        (folder / "energy_now").write_text("49900000\n")
    assert m.energy_j == pytest.approx(0.1 * 3600)  # 100 mWh
    assert m.energy_low_j <= m.energy_j - 30  # the gauge is coarse
    assert (m.source, m.summed) == ("measured", ("BAT0",))


def test_battery_charge_is_turned_to_energy_at_its_voltage(tree: Any) -> None:
    folder = battery(tree.root, charge_now=4_000_000, voltage_now=11_500_000)
    with bj.measure(meter="battery") as m:
        (folder / "charge_now").write_text("3990000\n")
        (folder / "voltage_now").write_text("11400000\n")
    assert m.energy_j == pytest.approx(0.010 * 3600 * 11.5)


def test_battery_of_android_is_read_once_from_its_charge_counter(tree: Any) -> None:
    folder = battery(tree.root, "battery", charge_counter=3_000_000, voltage_now=3_900_000)
    battery(tree.root, "bms", charge_counter=3_000_000, voltage_now=3_900_000)
    with bj.measure(meter="battery") as m:
        (folder / "charge_counter").write_text("2999000\n")
    assert m.energy_j == pytest.approx(0.001 * 3600 * 3.9)
    assert list(m.domains) == ["battery"]


def integrated_w(tree: Any, clock: Any) -> float:
    watch = Watch(open_battery(tree.root), clock=clock, attended=False)
    begin = watch.begin()
    for _ in range(4):
        clock.now_s += 0.5
        watch.poll()
    end = watch.end()
    return float((end.marks[0].total_j - begin.marks[0].total_j) / 2.0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("current", [500_000, 500])  # in microamperes, in milliamperes
def test_battery_current_is_read_in_its_unit_whatever_its_sign(tree: Any, clock: Any, sign: int, current: int) -> None:
    battery(tree.root, current_now=sign * current, voltage_now=4_000_000, charge_full=5_000_000)
    assert integrated_w(tree, clock) == pytest.approx(2.0)


def test_battery_power_is_integrated(tree: Any, clock: Any) -> None:
    battery(tree.root, power_now=7_500_000)
    assert integrated_w(tree, clock) == pytest.approx(7.5)


@pytest.mark.parametrize("files", [{"charge_full": 5_000_000, "current_now": 3}, {"current_now": 500_000}])
def test_battery_current_that_fits_no_capacity_is_refused(tree: Any, files: dict[str, int]) -> None:
    battery(tree.root, voltage_now=4_000_000, **files)
    with pytest.raises(MeterError, match="cannot be trusted"):
        open_battery(tree.root)


PHONE = {
    "charge_full_design": 4_000_000,
    "charge_counter": 2_500_000,
    "voltage_now": 4_000_000,
    "current_now": -500_000,
}


@pytest.mark.parametrize(
    "changed",
    [
        {"charge_counter": 2_500},  # in milliampere-hours
        {"charge_counter": 0},
        {"charge_counter": "-"},
        {"charge_counter": 90_000_000},  # more than it can hold
        {
            "charge_counter": 2_500,
            "charge_full_design": 4_000,
            "current_now": 500,
        },  # its capacity in milliampere-hours too
        {"charge_now": 2_500, "charge_counter": 0},
        {"energy_now": 9_600, "charge_counter": 2_500},  # in milliwatt-hours
        {"power_now": 2_000, "charge_counter": 2_500},  # in milliwatts
        {"charge_counter": 2_500, "voltage_now": 4_000},
    ],
)
def test_battery_reading_in_no_plausible_unit_leaves_the_next_source(
    tree: Any, clock: Any, changed: dict[str, object]
) -> None:
    battery(tree.root, "battery", **PHONE | changed)
    assert open_battery(tree.root).domains[0].kind == "power"
    assert integrated_w(tree, clock) == pytest.approx(2.0)


def test_battery_charge_is_preferred_where_it_is_plausible_and_its_voltage_read_in_its_unit(tree: Any) -> None:
    for millivolts in (4_000_000, 4_000):
        folder = battery(tree.root, "battery", **PHONE | {"voltage_now": millivolts})
        with bj.measure(meter="battery") as m:
            (folder / "charge_counter").write_text("2499000\n")
        assert m.energy_j == pytest.approx(0.001 * 3600 * 4.0)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"charge_counter": 2_500, "voltage_now": 4_000_000}, r"charge_counter \(2500\).* 0.02 to 15 Ah"),
        ({"charge_full": 4_000_000, "charge_counter": 0, "voltage_now": 4_000_000}, r"charge_counter \(0\)"),
        ({"charge_counter": 2_500_000, "voltage_now": 4}, r"voltage_now \(4\).* 1 to 100 V"),
        ({"energy_now": 50_000}, r"energy_now \(50000\).* Wh"),
        ({"energy_now": "-"}, "energy_now holds no number"),
        ({"capacity": 50}, "no energy_now, charge_now"),
    ],
)
def test_battery_without_a_plausible_source_is_refused_with_the_reason(
    tree: Any, files: dict[str, object], reason: str
) -> None:
    battery(tree.root, **files)
    with pytest.raises(MeterError, match=reason):
        open_battery(tree.root)


@pytest.mark.parametrize("resting", ["Not charging", "Unknown", "Full"])
def test_battery_that_rests_beside_one_that_discharges_takes_over_unnoticed(tree: Any, resting: str) -> None:
    first = battery(tree.root, "BAT0", energy_now=23_000_000, status=resting)
    second = battery(tree.root, "BAT1", energy_now=1_000_000, energy_full=40_000_000)
    window = bj.measure(meter="battery").begin()
    (second / "energy_now").write_text("500000\n")
    assert window.read().energy_j == pytest.approx(0.5 * 3600)
    (second / "status").write_text("Unknown\n")
    (first / "status").write_text("Discharging\n")
    (first / "energy_now").write_text("22800000\n")
    m = window.end()
    assert m.energy_j == pytest.approx(0.7 * 3600)
    assert m.summed == ("BAT0+BAT1",)
    assert not any("lower bound" in note for note in m.notes)


def test_battery_that_is_empty_is_left_out_beside_one_that_discharges(tree: Any) -> None:
    battery(tree.root, "BAT0", energy_now=0, energy_full=23_000_000, status="Unknown")
    battery(tree.root, "BAT1", energy_now=20_000_000)
    meter = open_battery(tree.root)
    assert [domain.name for domain in meter.domains] == ["BAT1"]
    assert any("BAT0" in note and "energy_now (0)" in note for note in meter.notes)
    meter.close()


@pytest.mark.parametrize("states", [("Charging", "Discharging"), ("Full", "Not charging"), ("Unknown", "Unknown")])
def test_batteries_of_a_machine_on_its_charger_are_refused(tree: Any, states: tuple[str, str]) -> None:
    for number, status in enumerate(states):
        battery(tree.root, f"BAT{number}", energy_now=20_000_000, status=status)
    with pytest.raises(
        MeterError, match=f"BAT0 is {states[0].lower()}, BAT1 is {states[1].lower()}.*unplug the charger"
    ):
        open_battery(tree.root)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_battery_that_does_not_discharge_is_refused(tree: Any, status: str) -> None:
    battery(tree.root, energy_now=50_000_000, status=status)
    with pytest.raises(MeterError, match="unplug the charger"):
        open_battery(tree.root)


def test_battery_plugged_in_mid_window_is_a_lower_bound(tree: Any) -> None:
    folder = battery(tree.root, energy_now=50_000_000)
    window = bj.measure(meter="battery").begin()
    (folder / "energy_now").write_text("49000000\n")
    window.read()
    (folder / "status").write_text("Charging\n")
    (folder / "energy_now").write_text("49500000\n")
    m = window.end()
    assert m.energy_j == pytest.approx(3600.0)
    assert m.energy_high_j > m.energy_j
    assert any("lower bound" in note for note in m.notes)


def test_battery_of_a_mouse_is_none_of_ours(tree: Any) -> None:
    battery(tree.root, "hidpp_battery_0", energy_now=1, scope="Device")
    with pytest.raises(MeterError, match="no battery"):
        open_battery(tree.root)


def test_battery_stands_in_where_there_is_no_other_counter(tree: Any) -> None:
    folder = battery(tree.root, energy_now=50_000_000)
    with bj.measure() as m:
        (folder / "energy_now").write_text("49990000\n")
    assert m.source == "measured"
    assert "battery" in m.method


def test_battery_permission_denied_names_the_remedy(tree: Any) -> None:
    battery(tree.root, energy_now=50_000_000)

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(MeterError, match="sudo chmod"):
        open_battery(tree.root, opener=refuse)
