"""Counters of joules, one file each, and the table that lists them.

A new meter is one file with a class that follows `Meter` and a function `open_NAME`, which raises `MeterError` with the
remedy where the meter cannot be had; and one row here. A meter's file is imported when it is opened: each costs
milliseconds, and a machine has one or two of them.
"""

from collections.abc import Callable
from importlib import import_module

from budjoule.energy.meters.meter import Domain, Meter


def _opener(name: str) -> Callable[[], Meter]:
    def open_meter() -> Meter:
        meter: Meter = getattr(import_module(f"{__name__}.{name}"), f"open_{name}")()
        return meter

    return open_meter


METERS: dict[str, Callable[[], Meter]] = {
    "rapl": _opener("rapl"),
    "nvml": _opener("nvml"),
    "amd": _opener("amd"),
    "apple": _opener("apple"),
    "hwmon": _opener("hwmon"),
    "battery": _opener("battery"),
    "load": _opener("load"),
    "replay": _opener("replay"),
}

__all__ = ["METERS", "Domain", "Meter"]
