"""Power rails of boards and servers: INA monitors on Jetson and other boards, ACPI power meters.

Under `/sys/class/hwmon` a rail gives power (`power1_input`), or current and voltage (`curr1_input`, `in1_input`, as INA3221
does); JetPack 4's driver of the INA3221 gives power in its own folder (`in_power0_input`). It is integrated. Where a rail
feeds the whole board the others lie inside it; where none does they are taken as disjoint.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.sysfs import Attribute, Opener, product, read_text, sysfs_root

# Chips whose rails feed the machine; others (amdgpu, power supplies, cells of a battery) measure something else.
_CHIPS = re.compile(r"ina\d.*|power_meter")
_MILLI, _MICRO = 1e-3, 1e-6
# The fourth current of an INA3221 is the sum of its three, whose voltages differ; in4 to in7 are shunt voltages.
_INA3221_CHANNELS = 3
# Jetson Nano, TX1, TX2 and Xavier with JetPack 4: .../1-0040/iio:device0/in_power0_input, or iio_device for the folder.
_JETPACK4 = "bus/i2c/drivers/ina3221x"
# VDD_IN (Orin Nano, NX, Xavier NX), POM_5V_IN (Nano, TX2) and VDD_5V_IN feed the module; an ACPI power meter the server.
_TOTAL = re.compile(r"(vdd|pom|vin|vcc)?_?(5v0?_|12v0?_|5v|12v)?in|total|power_meter.*", re.IGNORECASE)
# On AGX Orin VDDQ is fed by VIN_SYS_5V0 (Jetson Linux developer guide, power monitors).
_INSIDE = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_POLL_S = 0.02
_UPDATE_S = 0.05
# The monitor's own error is 0.5 to 1 %; shunts on boards are of 1 to 5 %.
_ERROR_FRAC = 0.05


class _Channel(NamedTuple):
    """A rail as found: its label, and files whose product is watts, with SI units in one of each."""

    label: str
    folder: Path
    scales: dict[str, float]


class _Rail(NamedTuple):
    name: str
    files: tuple[Attribute, ...]

    def read(self) -> float | None:
        return product(self.files)


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
    for label, folder, scales in (*_hwmon(root), *_jetpack4(root)):
        try:
            files = tuple(Attribute(folder / name, scale=scale, opener=opener) for name, scale in scales.items())
        except PermissionError as error:
            denied.append(str(error.filename))
            continue
        except OSError:
            continue
        name = label if label not in rails else f"{label}@{folder.name}"
        rail = _Rail(name, files)
        if rail.read() is None:  # a channel that is not wired
            for file in files:
                file.close()
            continue
        rails[name] = rail
    if denied and not rails:
        raise MeterError(f"cannot read {denied[0]}: permission denied; run 'sudo chmod a+r {' '.join(denied)}'")
    if not rails:
        raise MeterError(
            f"no power rail (INA monitor or ACPI power meter) under {root}/class/hwmon or {root}/{_JETPACK4}"
        )
    if denied:
        notes.append(f"left out, permission denied: run 'sudo chmod a+r {' '.join(denied)}'")
    return HwmonMeter(list(rails.values()), notes)


def _hwmon(root: Path) -> Iterator[_Channel]:
    for folder in sorted((root / "class" / "hwmon").glob("*")):
        chip = read_text(folder / "name") or ""
        if not _CHIPS.fullmatch(chip):
            continue
        numbers = {
            int(match[1])
            for path in folder.iterdir()
            if (match := re.fullmatch(r"(?:power|curr)(\d+)_(?:input|average)", path.name))
        }
        for number in sorted(numbers):
            if chip.startswith("ina3221") and number > _INA3221_CHANNELS:
                continue
            labels = (read_text(folder / f"{name}{number}_label") for name in ("power", "in", "curr"))
            label = next(filter(None, labels), f"{chip}-{number}")
            powers = (f"power{number}_input", f"power{number}_average")
            power = next((name for name in powers if (folder / name).exists()), None)
            if label.upper() != "NC":
                yield _Channel(
                    label,
                    folder,
                    {power: _MICRO} if power else {f"curr{number}_input": _MILLI, f"in{number}_input": _MILLI},
                )


def _jetpack4(root: Path) -> Iterator[_Channel]:
    for path in sorted((root / _JETPACK4).glob("*/iio[:_]device*/in_power[0-9]_input")):
        number = path.name.removeprefix("in_power").removesuffix("_input")
        label = read_text(path.with_name(f"rail_name_{number}")) or f"ina3221-{path.parent.parent.name}-{number}"
        if label.upper() != "NC":
            yield _Channel(label, path.parent, {path.name: _MILLI})
