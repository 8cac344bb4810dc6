"""The battery of a laptop or phone (`/sys/class/power_supply`): the whole machine, coarse, and only while it discharges.

What is read, the best first: `energy_now`; `charge_now` (Android: `charge_counter`) with voltage; `power_now`; `current_now`
with voltage. A current's sign differs between phones, so the status says which way it flows; its unit does too, so it is
believed only where it is a plausible share of the capacity.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.sysfs import Attribute, Opener, read_number, read_text, sysfs_root

_MICRO = 1e-6
_HOUR_S = 3600.0
_LIMIT_W = 300.0
# Fuel gauges step by 1 to 10 mWh, are updated every 1 to 30 s, and count charge to within a few per cent.
_STEP_J = 36.0
_UPDATE_S = 10.0
_POWER_UPDATE_S = 1.0
_POLL_S = 0.5
_ERROR_FRAC = 0.05
_POWER_ERROR_FRAC = 0.1
# A discharge takes between 20 minutes and 200 hours: in microamperes a current is in this share of the capacity, and in
# milliamperes a thousandth of it.
_RATE_PER_HOUR = (0.005, 3.0)


class _Gauge(NamedTuple):
    """How one battery is read: its domain, its reading (None while it does not discharge), and how to close it."""

    domain: Domain
    read: Callable[[], float | None]
    files: tuple[Attribute, ...]


class BatteryMeter:
    """Reads every battery of the machine. Open it with `open_battery`."""

    name = "battery"
    source = "measured"

    def __init__(self, gauges: Sequence[_Gauge]) -> None:
        self.domains = tuple(gauge.domain for gauge in gauges)
        self.notes = ("a battery's gauge is coarse: measure for minutes",)
        self.method = "fuel gauge of the battery, whole machine with its screen and radios"
        self._gauges = tuple(gauges)

    def read(self) -> list[float | None]:
        """Joules drawn (from an arbitrary zero) or watts, by each domain's kind; None while it does not discharge."""
        return [gauge.read() for gauge in self._gauges]

    def close(self) -> None:
        """Give the descriptors back."""
        for gauge in self._gauges:
            for file in gauge.files:
                file.close()


def open_battery(root: Path | None = None, *, opener: Opener = os.open) -> BatteryMeter:
    """Open the machine's batteries.

    Args:
        root: The sysfs tree; default `BUDJOULE_SYSFS_ROOT` or `/sys`.
        opener: Opens a gauge's file.

    Raises:
        MeterError: There is no battery, it is not discharging, or its gauge cannot be read or trusted.
    """
    root = root or sysfs_root()
    folders = battery_folders(root)
    if not folders:
        raise MeterError(f"no battery under {root}/class/power_supply")
    gauges = []
    for folder in folders:
        status = read_text(folder / "status")
        if status != "Discharging":
            raise MeterError(
                f"battery {folder.name} is {(status or 'in an unknown state').lower()}, not discharging: its gauge says "
                "nothing of what the machine draws; unplug the charger"
            )
        try:
            gauges.append(_gauge(folder, opener))
        except PermissionError as error:
            raise MeterError(
                f"cannot read {error.filename}: permission denied; run 'sudo chmod a+r {folder}/*_now'"
            ) from None
        except OSError as error:
            raise MeterError(f"cannot read battery {folder.name}: {error.strerror or error}") from None
    return BatteryMeter(gauges)


def battery_folders(root: Path) -> list[Path]:
    """The machine's own batteries, not those of a mouse or headset."""
    try:
        folders = sorted((root / "class" / "power_supply").iterdir())
    except OSError:
        return []
    found = [
        folder
        for folder in folders
        # A mouse's or headset's battery has the scope `Device`.
        if read_text(folder / "type") == "Battery"
        and read_text(folder / "scope") != "Device"
        and read_text(folder / "present") != "0"
    ]
    # Android lists one cell several times (battery, bms, maxfg): the one called `battery` speaks for all.
    return [folder for folder in found if folder.name == "battery"] or found


def _gauge(folder: Path, opener: Opener) -> _Gauge:
    status = Attribute(folder / "status", scale=1.0, opener=opener)

    def column(name: str) -> Attribute | None:
        path = folder / name
        return Attribute(path, scale=_MICRO, opener=opener) if path.exists() else None

    energy = column("energy_now")
    if energy is not None:
        return _draining(folder, status, (energy,), lambda: _scaled(energy.read(), _HOUR_S))
    charge, voltage = column("charge_now") or column("charge_counter"), column("voltage_now")
    if charge is not None and voltage is not None:
        # One voltage for the whole window: with a sagging one, stored energy would fall without anything being drawn.
        volts = voltage.read()
        if volts:
            return _draining(folder, status, (charge, voltage), lambda: _scaled(charge.read(), _HOUR_S * volts))
    power = column("power_now")
    if power is not None:
        return _flowing(folder, status, (power,), lambda: _absolute(power.read()))
    current = column("current_now")
    if current is not None and voltage is not None:
        unit = _current_unit(folder, current)
        return _flowing(
            folder,
            status,
            (current, voltage),
            lambda: _product(_absolute(current.read()), _scaled(voltage.read(), unit)),
        )
    raise MeterError(
        f"battery {folder.name} has neither energy_now, charge_now, power_now nor current_now with voltage_now"
    )


def _draining(
    folder: Path, status: Attribute, files: tuple[Attribute, ...], stored_j: Callable[[], float | None]
) -> _Gauge:
    domain = Domain(
        name=folder.name,
        limit_w=_LIMIT_W,
        unit_j=_STEP_J,
        update_s=_UPDATE_S,
        poll_s=_POLL_S,
        error_low_frac=_ERROR_FRAC,
        error_high_frac=_ERROR_FRAC,
    )
    return _Gauge(domain, lambda: _scaled(stored_j(), -1.0) if _discharging(status) else None, (status, *files))


def _flowing(
    folder: Path, status: Attribute, files: tuple[Attribute, ...], power_w: Callable[[], float | None]
) -> _Gauge:
    domain = Domain(
        name=folder.name,
        kind="power",
        limit_w=_LIMIT_W,
        update_s=_POWER_UPDATE_S,
        poll_s=_POLL_S,
        error_low_frac=_POWER_ERROR_FRAC,
        error_high_frac=_POWER_ERROR_FRAC,
    )
    return _Gauge(domain, lambda: power_w() if _discharging(status) else None, (status, *files))


def _current_unit(folder: Path, current: Attribute) -> float:
    """1 where `current_now` is in microamperes, as the kernel says; 1000 where a phone gives milliamperes."""
    capacity_ah = next(
        (value * _MICRO for name in ("charge_full_design", "charge_full") if (value := read_number(folder / name))),
        None,
    )
    amperes = _absolute(current.read())
    if capacity_ah and amperes:
        low, high = _RATE_PER_HOUR
        for unit in (1.0, 1000.0):
            if low <= amperes * unit / capacity_ah < high:
                return unit
    raise MeterError(
        f"the current of battery {folder.name} cannot be trusted: {amperes} A against a capacity of {capacity_ah} Ah fits neither "
        "microamperes nor milliamperes"
    )


def _discharging(status: Attribute) -> bool:
    return status.read_text() == "Discharging"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _absolute(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b
