"""The battery of a laptop or phone (`/sys/class/power_supply`): the whole machine, coarse, and only while it discharges.

What is read, the best first: `energy_now`; `charge_now` (Android: `charge_counter`) with voltage; `power_now`; `current_now`
with voltage. Phones give some of them in other units, or as a constant: a source is taken only where its readings are
plausible beside the battery's capacity. A current's sign differs too, so the status says which way it flows.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.sysfs import Attribute, Opener, product, read_number, read_text, sysfs_root

_MICRO, _MILLI = 1e-6, 1e-3
_HOUR_S = 3600.0
_LIMIT_W = 300.0
# Fuel gauges step by 1 to 10 mWh, are updated every 1 to 30 s, and count charge to within a few per cent.
_STEP_J = 36.0
_UPDATE_S = 10.0
_POWER_UPDATE_S = 1.0
_POLL_S = 0.5
_ERROR_FRAC = 0.05
_POWER_ERROR_FRAC = 0.1


class _Source(NamedTuple):
    """Files whose product is what a battery holds [Wh] or gives [W]; the fixed ones are read once."""

    kind: Literal["energy", "power"]
    live: tuple[str, ...]
    fixed: tuple[str, ...] = ()


# The best first. One voltage for a whole window: with a sagging one, stored energy would fall without anything being drawn.
_SOURCES = (
    _Source("energy", ("energy_now",)),
    _Source("energy", ("charge_now",), ("voltage_now",)),
    _Source("energy", ("charge_counter",), ("voltage_now",)),
    _Source("power", ("power_now",)),
    _Source("power", ("current_now", "voltage_now")),
)


class _Gauge(NamedTuple):
    """How one battery is read: `factor` times the product of its files is what it holds [J] or gives [W]."""

    name: str
    kind: Literal["energy", "power"]
    factor: float
    files: tuple[Attribute, ...]
    status: Attribute

    def read(self) -> float | None:
        """Joules drawn, from an arbitrary zero, or watts."""
        value = product(self.files)
        if value is None:
            return None
        return -self.factor * value if self.kind == "energy" else abs(self.factor * value)


class BatteryMeter:
    """Reads every battery of the machine, those of one kind as one domain: they are drawn from in turn. Open it with `open_battery`."""

    name = "battery"
    source = "measured"

    def __init__(self, gauges: Sequence[_Gauge], notes: Sequence[str]) -> None:
        kinds = ([gauge for gauge in gauges if gauge.kind == kind] for kind in ("energy", "power"))
        self._gauges = [group for group in kinds if group]
        self.domains = tuple(map(_domain, self._gauges))
        self.notes = (*notes, "a battery's gauge is coarse: measure for minutes")
        self.method = "fuel gauge of the battery, whole machine with its screen and radios"

    def read(self) -> list[float | None]:
        """Joules drawn (from an arbitrary zero) or watts, by each domain's kind; None while the machine is plugged in."""
        if not _on_battery([gauge.status.read_text() for group in self._gauges for gauge in group]):
            return [None] * len(self._gauges)
        return [_total([gauge.read() for gauge in group]) for group in self._gauges]

    def close(self) -> None:
        """Give the descriptors back."""
        for group in self._gauges:
            for gauge in group:
                for file in (*gauge.files, gauge.status):
                    file.close()


def _domain(gauges: Sequence[_Gauge]) -> Domain:
    kind = gauges[0].kind
    error_frac = _ERROR_FRAC if kind == "energy" else _POWER_ERROR_FRAC
    return Domain(
        name="+".join(gauge.name for gauge in gauges),
        kind=kind,
        limit_w=_LIMIT_W,
        unit_j=_STEP_J * len(gauges) if kind == "energy" else 0.0,
        update_s=_UPDATE_S if kind == "energy" else _POWER_UPDATE_S,
        poll_s=_POLL_S,
        error_low_frac=error_frac,
        error_high_frac=error_frac,
    )


def _on_battery(states: Sequence[str | None]) -> bool:
    """One battery is drawn from and none is charged; the others of the machine may rest."""
    return "Discharging" in states and "Charging" not in states


def _total(readings: Sequence[float | None]) -> float | None:
    known = [reading for reading in readings if reading is not None]
    return sum(known) if len(known) == len(readings) else None


def open_battery(root: Path | None = None, *, opener: Opener = os.open) -> BatteryMeter:
    """Open the machine's batteries.

    Args:
        root: The sysfs tree; default `BUDJOULE_SYSFS_ROOT` or `/sys`.
        opener: Opens a gauge's file.

    Raises:
        MeterError: There is no battery, the machine does not run on it, or its gauge cannot be read or trusted.
    """
    root = root or sysfs_root()
    folders = battery_folders(root)
    if not folders:
        raise MeterError(f"no battery under {root}/class/power_supply")
    states = [read_text(folder / "status") for folder in folders]
    if not _on_battery(states):
        found = ", ".join(
            f"{folder.name} is {(state or 'in an unknown state').lower()}"
            for folder, state in zip(folders, states, strict=True)
        )
        raise MeterError(
            f"the machine does not run on its battery ({found}), whose gauge says nothing of what it draws then; "
            "unplug the charger"
        )
    gauges: list[_Gauge] = []
    notes: list[str] = []
    for folder, state in zip(folders, states, strict=True):
        try:
            gauges.append(_gauge(folder, opener))
        except PermissionError as error:
            raise MeterError(
                f"cannot read {error.filename}: permission denied; run 'sudo chmod a+r {folder}/*_now'"
            ) from None
        except OSError as error:
            raise MeterError(f"cannot read battery {folder.name}: {error.strerror or error}") from None
        except MeterError as error:
            if state == "Discharging":
                raise
            notes.append(f"{error}; nothing is drawn from it now")  # it is empty, most often
    return BatteryMeter(gauges, notes)


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
    """The best source of a battery whose readings can all be trusted."""
    bands = _bands(folder)
    doubts: dict[str, None] = {}  # in order, each once
    for source in _SOURCES:
        names = (*source.live, *source.fixed)
        if not all((folder / name).exists() for name in names):
            continue
        try:
            columns = {name: _column(folder / name, bands[name], opener) for name in names}
        except MeterError as doubt:
            doubts[str(doubt)] = None
            continue
        factor = math.prod(columns[name].value for name in source.fixed) * (_HOUR_S if source.kind == "energy" else 1.0)
        files = tuple(Attribute(folder / name, scale=columns[name].scale, opener=opener) for name in source.live)
        status = Attribute(folder / "status", scale=1.0, opener=opener)
        return _Gauge(folder.name, source.kind, factor, files, status)
    raise MeterError(
        f"battery {folder.name} tells nothing to measure by: "
        + ("; ".join(doubts) or "no energy_now, charge_now or current_now with voltage_now, nor power_now")
    )


class _Band(NamedTuple):
    """Where a quantity is plausible, and the units in which its file may give it: too narrow for two of them."""

    low: float
    high: float
    unit: str
    scales: tuple[float, ...] = (_MICRO, _MILLI)

    def scale(self, number: float) -> float | None:
        """SI units in one of the file's; None where the number is plausible in none of them."""
        return next((scale for scale in self.scales if self.low <= abs(number) * scale < self.high), None)


class _Column(NamedTuple):
    scale: float
    value: float


def _column(path: Path, band: _Band | None, opener: Opener) -> _Column:
    """What a file holds and SI units in one of its; an error where it cannot be trusted."""
    if band is None:
        raise MeterError(f"{path.name} cannot be trusted without the capacity (charge_full) to tell its unit")
    file = Attribute(path, scale=1.0, opener=opener)
    number = file.read()
    file.close()
    if number is None:
        raise MeterError(f"{path.name} holds no number")
    scale = band.scale(number)
    if scale is None:
        raise MeterError(
            f"{path.name} ({number:.0f}) cannot be trusted, {band.low:.3g} to {band.high:.3g} {band.unit} is plausible"
        )
    return _Column(scale, number * scale)


def _bands(folder: Path) -> dict[str, _Band | None]:
    """Where each reading of a battery is plausible; None where that cannot be told."""
    charge_ah = _capacity(folder, "charge", _Band(0.1, 100.0, "Ah"))
    energy_wh = _capacity(folder, "energy", _Band(0.5, 500.0, "Wh"))
    stored_ah = _stored(charge_ah or 10.0, "Ah")  # without its capacity, a battery is taken for a large one
    return {
        "energy_now": _stored(energy_wh or 100.0, "Wh"),
        "charge_now": stored_ah,
        "charge_counter": stored_ah,
        "voltage_now": _Band(1.0, 100.0, "V"),
        "power_now": _Band(0.05, _LIMIT_W, "W", (_MICRO,)),
        # A discharge takes between 20 minutes and 200 hours.
        "current_now": _Band(0.005 * charge_ah, 3.0 * charge_ah, "A") if charge_ah else None,
    }


def _stored(capacity: float, unit: str) -> _Band:
    """What a battery may hold, in the kernel's unit only: a number a thousand times smaller may count from anywhere."""
    return _Band(0.002 * capacity, 1.5 * capacity, unit, (_MICRO,))


def _capacity(folder: Path, what: str, band: _Band) -> float | None:
    for name in (f"{what}_full_design", f"{what}_full"):
        number = read_number(folder / name) or 0.0
        scale = band.scale(number)
        if scale:
            return number * scale
    return None
