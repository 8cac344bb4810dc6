"""How the device is right now: its battery's charge, whether it is plugged in, and how far it is from throttling."""

import sys
from dataclasses import dataclass
from pathlib import Path

from budjoule.energy.meters.battery import battery_folders
from budjoule.energy.meters.sysfs import read_number, read_text, sysfs_root

_MILLI = 1e-3
_PLUGGED = ("Charging", "Full", "Not charging")
_HOT_ABOVE = ("passive", "hot", "critical")  # the trip points from which the kernel slows the device down, or worse


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A moment of the device.

    Args:
        battery_frac: Charge of its emptiest battery; None where it has none, or none that can be read.
        plugged: It is connected to a charger; None where that cannot be told.
        headroom_c: How far its hottest zone is below the temperature at which the kernel slows it down; None where no
            zone says so. [degC]
    """

    battery_frac: float | None = None
    plugged: bool | None = None
    headroom_c: float | None = None

    @property
    def hot(self) -> bool:
        """A zone has reached its limit: the device is, or is about to be, slowed down."""
        return self.headroom_c is not None and self.headroom_c <= 0


def device_state(root: Path | None = None) -> DeviceState:
    """Read the device's state.

    Args:
        root: The sysfs tree; default `BUDJOULE_SYSFS_ROOT` or `/sys`. Where the system has none, psutil is asked.
    """
    root = root or sysfs_root()
    headroom_c = _headroom_c(root / "class" / "thermal")
    folders = battery_folders(root)
    if not folders:
        return _without_sysfs() if sys.platform != "linux" else DeviceState(headroom_c=headroom_c)
    charges = [number for folder in folders if (number := read_number(folder / "capacity")) is not None]
    states = [read_text(folder / "status") for folder in folders]
    return DeviceState(
        battery_frac=min(charges) / 100 if charges else None,
        plugged=None if None in states else "Discharging" not in states and any(s in _PLUGGED for s in states),
        headroom_c=headroom_c,
    )


def _headroom_c(folder: Path) -> float | None:
    headrooms = []
    for zone in folder.glob("thermal_zone*"):
        now = read_number(zone / "temp")
        trips = [
            trip
            for kind in zone.glob("trip_point_*_type")
            if read_text(kind) in _HOT_ABOVE
            and (trip := read_number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
            and trip > 0  # firmware says 0 or less where it means none
        ]
        if now is not None and trips:
            headrooms.append((min(trips) - now) * _MILLI)
    return min(headrooms, default=None)


def _without_sysfs() -> DeviceState:
    import psutil

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return DeviceState()
    return DeviceState(battery_frac=battery.percent / 100, plugged=battery.power_plugged)
