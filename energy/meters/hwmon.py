"""Power rails of boards and servers (`/sys/class/hwmon`): INA monitors on Jetson and other boards, ACPI power meters.

A rail gives power (`power1_input`), or current and voltage (`curr1_input`, `in1_input`, as INA3221 does); it is integrated.
Where a rail feeds the whole board the others lie inside it; where none does they are taken as disjoint.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.sysfs import Attribute, Opener, read_text, sysfs_root

# Chips whose rails feed the machine; others (amdgpu, power supplies, cells of a battery) measure something else.
_CHIPS = re.compile(r"ina\d.*|power_meter")
_MILLI, _MICRO = 1e-3, 1e-6
# VDD_IN (Orin Nano, NX, Xavier NX), POM_5V_IN (Nano, TX2) and VDD_5V_IN feed the module; an ACPI power meter the server.
_TOTAL = re.compile(r"(vdd|pom|vin|vcc)?_?(5v0?_|12v0?_|5v|12v)?in|total|power_meter.*", re.IGNORECASE)
# On AGX Orin VDDQ is fed by VIN_SYS_5V0 (Jetson Linux developer guide, power monitors).
_INSIDE = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_POLL_S = 0.02
_UPDATE_S = 0.05
# The monitor's own error is 0.5 to 1 %; shunts on boards are of 1 to 5 %.
_ERROR_FRAC = 0.05


class _Rail(NamedTuple):
    name: str
    files: tuple[Attribute, ...]
    read: Callable[[], float | None]


class HwmonMeter:
    """Reads every rail found. Open it with `open_hwmon`."""

    name = "hwmon"
    source = "measured"

    def __init__(self, rails: Sequence[_Rail], notes: Sequence[str]) -> None:
        totals = [rail.name for rail in rails if _TOTAL.fullmatch(rail.name)]
        total = totals[0] if len(totals) == 1 else None
        names = {rail.name for rail in rails}
        self.domains = tuple(_domain(rail.name, total, names) for rail in rails)
        disjoint = (
            ()
            if total or len(rails) == 1
            else ("no rail is known to feed the whole board: the rails are added up as disjoint",)
        )
        self.notes = (*notes, *disjoint)
        self.method = "power rails of the board (hwmon), integrated, all processes of the machine"
        self._rails = tuple(rails)

    def read(self) -> list[float | None]:
        """Watts of each rail."""
        return [rail.read() for rail in self._rails]

    def close(self) -> None:
        """Give the descriptors back."""
        for rail in self._rails:
            for file in rail.files:
                file.close()


def _domain(name: str, total: str | None, names: set[str]) -> Domain:
    inside = _INSIDE.get(name)
    return Domain(
        name=name,
        parent=total if total not in (None, name) else (inside if inside in names else None),
        kind="power",
        update_s=_UPDATE_S,
        poll_s=_POLL_S,
        error_low_frac=_ERROR_FRAC,
        error_high_frac=_ERROR_FRAC,
    )


def open_hwmon(root: Path | None = None, *, opener: Opener = os.open) -> HwmonMeter:
    """Open the board's power rails.

    Args:
        root: The sysfs tree; default `BUDJOULE_SYSFS_ROOT` or `/sys`.
        opener: Opens a rail's file.

    Raises:
        MeterError: There is no rail, or none may be read.
    """
    root = root or sysfs_root()
    rails: dict[str, _Rail] = {}
    notes: list[str] = []
    denied: list[str] = []
    for folder, chip in _chips(root):
        for number, label in _channels(folder, chip):
            try:
                rail = _rail(folder, number, label, opener)
            except PermissionError as error:
                denied.append(str(error.filename))
                continue
            except OSError:
                continue
            if rail.read() is None:  # a channel that is not wired
                for file in rail.files:
                    file.close()
                continue
            name = label if label not in rails else f"{label}@{folder.name}"
            rails[name] = rail._replace(name=name)
    if denied and not rails:
        raise MeterError(f"cannot read {denied[0]}: permission denied; run 'sudo chmod a+r {' '.join(denied)}'")
    if not rails:
        raise MeterError(f"no power rail (INA monitor or ACPI power meter) under {root}/class/hwmon")
    if denied:
        notes.append(f"left out, permission denied: run 'sudo chmod a+r {' '.join(denied)}'")
    return HwmonMeter(list(rails.values()), notes)


def _chips(root: Path) -> list[tuple[Path, str]]:
    try:
        folders = sorted((root / "class" / "hwmon").iterdir())
    except OSError:
        return []
    chips = [(folder, read_text(folder / "name") or "") for folder in folders]
    return [(folder, chip) for folder, chip in chips if _CHIPS.fullmatch(chip)]


def _channels(folder: Path, chip: str) -> list[tuple[int, str]]:
    """The rails of one chip, by their label, else by the chip's name and their number."""
    numbers = {
        int(match[1])
        for path in folder.iterdir()
        if (match := re.fullmatch(r"(?:power|curr)(\d+)_(?:input|average)", path.name))
    }
    channels = []
    for number in sorted(numbers):
        label = next(
            (text for name in ("power", "in", "curr") if (text := read_text(folder / f"{name}{number}_label"))), None
        )
        if (
            label is None or label.upper() != "NC"
        ):  # INA3221 also lists the sum of its shunt voltages, as in7, without a current
            channels.append((number, label or f"{chip}-{number}"))
    return channels


def _rail(folder: Path, number: int, label: str, opener: Opener) -> _Rail:
    for name in (f"power{number}_input", f"power{number}_average"):
        if (folder / name).exists():
            power = Attribute(folder / name, scale=_MICRO, opener=opener)
            return _Rail(label, (power,), power.read)
    current = Attribute(folder / f"curr{number}_input", scale=_MILLI, opener=opener)
    voltage = Attribute(folder / f"in{number}_input", scale=_MILLI, opener=opener)

    def power_w() -> float | None:
        amperes, volts = current.read(), voltage.read()
        return None if amperes is None or volts is None else amperes * volts

    return _Rail(label, (current, voltage), power_w)
