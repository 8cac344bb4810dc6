"""What a reader of a calibration should know: what was not measured, what disturbed it, and what the machine did not tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from budjoule.calibration.reading import BUSY_CORES, Reading
from budjoule.calibration.this_machine import ThisMachine

NOISY_FRAC = 0.25  # spread between the quarters of a microbenchmark at which the machine counts as busy
UNSURE_FRAC = 0.05  # standard error of a time at which it counts as not settled
SLOW_FRAC = 0.85  # clock over the highest one seen at which a processor counts as held back
WRONG_LOG = 0.3  # error of the held-out steps at which the profile is called unreliable
_UNLOADED = (
    "power was not fitted against load, which stands in where the counter cannot be read: the processor was as busy at rest "
    "as at work, or its counter stood still; calibrate again when the machine is idle"
)


def notes_on(
    readings: Mapping[str, Reading],
    machine: ThisMachine,
    validation: Sequence[Mapping[str, Any]],
    *,
    processes: int | None = None,
    load_known: bool = False,
) -> tuple[str, ...]:
    """Say what is missing or doubtful, the most important first, each with its remedy.

    Args:
        readings: What each microbenchmark took, by its name.
        machine: The datasheet, with what was assumed.
        validation: Rows of the held-out steps, with `time_error_frac` and `energy_error_frac`.
        processes: How many processes compute on the GPU, this one among them; None for a processor, or where unknown.
        load_known: A processor's power was fitted against its load.
    """
    # where others kept the machine busy, that is why times drift
    kind = machine.spec.kind
    disturbed = _others(readings, kind) or _drifts(readings)
    found = [_unmeasured(readings), _sharing(processes), disturbed, _heat(readings, kind), _misses(validation)]
    if kind == "cpu" and not load_known and any(reading.meter for reading in readings.values()):
        found.append(_UNLOADED)
    notes = [text for text in found if text]
    if machine.assumed:
        notes.append(f"assumed, since nothing on this machine says it: {', '.join(machine.assumed)}")
    return tuple(notes)


def missed_log(validation: Sequence[Mapping[str, Any]]) -> float:
    """How far the held-out steps are off in time or energy, the worse of the two as a mean of logarithms; 0 for none."""
    return max(_off_log(_errors(validation, what)) for what in ("time", "energy"))


def _errors(validation: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    return [row[f"{what}_error_frac"] for row in validation if row[f"{what}_error_frac"] is not None]


def _off_log(errors: Sequence[float]) -> float:
    return float(np.mean(np.abs(np.log1p(errors)))) if errors else 0.0


def _unmeasured(readings: Mapping[str, Reading]) -> str:
    without = [name for name, reading in readings.items() if reading.energy_j is None]
    if not without:
        return ""
    if len(without) < len(readings):
        return f"the counter stepped too seldom to tell the joules of {_list(without)}: a run without --quick gives it longer"
    return "no energy counter was read: time is calibrated, the joules stay at their prior ('budjoule doctor' says what is missing)"


def _sharing(processes: int | None) -> str:
    if processes is None or processes < 2:
        return ""
    return f"{processes - 1} other processes have work on this GPU: their time and joules are counted; calibrate again when they are done"


def _others(readings: Mapping[str, Reading], kind: str) -> str:
    others = float(np.median([reading.others_cores for reading in readings.values()])) if readings else 0.0
    if others <= BUSY_CORES:
        return ""
    metered = kind == "cpu" and any(reading.energy_j is not None for reading in readings.values())
    effect = "their joules are counted as the steps'" if metered else "the times are those of the least disturbed steps"
    way_out = ", or with OMP_NUM_THREADS=1 for what one thread takes" if kind == "cpu" else ""
    waits = "PyTorch's threads then wait for each other" if kind == "cpu" else "launches then come late"
    return (
        f"other processes, or other guests of this machine's host, kept {others:.1f} cores busy, and {waits}; {effect}: "
        f"calibrate again when the machine is idle{way_out}"
    )


def _drifts(readings: Mapping[str, Reading]) -> str:
    noisy = [name for name, r in readings.items() if r.spread_frac > NOISY_FRAC or r.error_frac > UNSURE_FRAC]
    if not noisy:
        return ""
    return f"the times of {_list(noisy)} drifted or did not settle: the machine was busy or throttled; calibrate again when it is idle"


def _heat(readings: Mapping[str, Reading], kind: str) -> str:
    hot = [name for name, reading in readings.items() if reading.throttled]
    if hot:
        what = "processor" if kind == "cpu" else "GPU"
        return f"heat held the {what} back during {_list(hot)}: let it cool, then calibrate again"
    clocks = {name: reading.clock_hz for name, reading in readings.items() if reading.clock_hz}
    highest = max(clocks.values(), default=0.0)
    slow = [name for name, clock in clocks.items() if clock < SLOW_FRAC * highest]
    if not slow:
        return ""
    lowest = min(clocks.values())
    return f"the clock ran between {lowest / 1e9:.2f} and {highest / 1e9:.2f} GHz, lowest during {_list(slow)}: efficiencies are those at these clocks"


def _misses(validation: Sequence[Mapping[str, Any]]) -> str:
    wrong = []
    for what, those in (("time", "times"), ("energy", "joules")):
        errors = _errors(validation, what)
        if _off_log(errors) > WRONG_LOG:
            said = " and ".join(f"{100 * error:+.0f} %" for error in errors)
            wrong.append(f"the {those} of the held-out training steps are wrong by {said}")
    if not wrong:
        return ""
    return f"{', '.join(wrong)}: the interval is wide for it; a full run on an idle machine does better"


def _list(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} others"
