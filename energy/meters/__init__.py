"""Counters of joules, one file each, and the table that lists them.

A new meter is one file with a class that follows `Meter`, and one row here: its name and the function that opens it, which
raises `MeterError` with the remedy where the meter cannot be had.
"""

from collections.abc import Callable

from budjoule.energy.meters.battery import open_battery
from budjoule.energy.meters.hwmon import open_hwmon
from budjoule.energy.meters.load import open_load
from budjoule.energy.meters.meter import Domain, Meter
from budjoule.energy.meters.nvml import open_nvml
from budjoule.energy.meters.rapl import open_rapl

METERS: dict[str, Callable[[], Meter]] = {
    "rapl": open_rapl,
    "nvml": open_nvml,
    "hwmon": open_hwmon,
    "battery": open_battery,
    "load": open_load,
}

__all__ = ["METERS", "Domain", "Meter"]
