"""The device's state from the kernel's tree: charge, charger, and how far the hottest zone is from throttling."""

from pathlib import Path

import pytest

from budjoule.energy.device_state import DeviceState, device_state


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def battery(root: Path, name: str, capacity: int, status: str, **more: str) -> None:
    write(root / "class/power_supply" / name, type="Battery", capacity=capacity, status=status, **more)


def zone(root: Path, number: int, temp: int, **trips: int) -> None:
    folder = root / f"class/thermal/thermal_zone{number}"
    write(folder, temp=temp)
    for place, (kind, value) in enumerate(trips.items()):
        write(folder, **{f"trip_point_{place}_type": kind, f"trip_point_{place}_temp": value})


def test_a_machine_without_battery_or_zones_says_nothing(tmp_path: Path) -> None:
    assert device_state(tmp_path) == DeviceState()
    assert not device_state(tmp_path).hot


@pytest.mark.parametrize(
    ("status", "plugged"),
    [("Discharging", False), ("Charging", True), ("Full", True), ("Not charging", True), ("Unknown", False)],
)
def test_the_status_says_whether_a_charger_is_there(tmp_path: Path, status: str, plugged: bool) -> None:
    battery(tmp_path, "BAT0", 42, status)
    assert device_state(tmp_path) == DeviceState(battery_frac=0.42, plugged=plugged)


def test_the_emptiest_battery_counts_and_a_mouse_does_not(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", 90, "Full")
    battery(tmp_path, "BAT1", 30, "Charging")
    battery(tmp_path, "hidpp_battery_0", 5, "Discharging", scope="Device")
    assert device_state(tmp_path) == DeviceState(battery_frac=0.3, plugged=True)


def test_headroom_is_to_the_lowest_limit_of_the_hottest_zone(tmp_path: Path) -> None:
    zone(tmp_path, 0, 50_000, active=40_000, passive=85_000, critical=105_000)
    zone(tmp_path, 1, 70_000, critical=95_000, hot=0)
    zone(tmp_path, 2, 99_000)  # says no limit
    assert device_state(tmp_path).headroom_c == pytest.approx(25)
    zone(tmp_path, 0, 85_000)
    assert device_state(tmp_path).headroom_c == 0
    assert device_state(tmp_path).hot
