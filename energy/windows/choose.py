"""Chooses the meter of a window: the counters this machine has, else the labelled estimate; opened once a process."""

import os
import time
from typing import NamedTuple

from budjoule.energy.errors import MeterError, UsageError
from budjoule.energy.meters import METERS, Meter
from budjoule.energy.windows.together import Together
from budjoule.energy.windows.watch import Watch

# Meters that stand beside each other come in one group; the first group with a meter wins.
AUTOMATIC = (("rapl", "nvml", "amd"), ("apple",), ("hwmon",), ("battery",))
_FALLBACK = "load"
_FALLBACK_AGE_S = 1.0
_NO_PROCESSOR = (
    "the processor and its memory have no readable counter: their energy is not in the total ('budjoule doctor')"
)


class Choice(NamedTuple):
    """An open meter.

    Args:
        watch: The meter with its books.
        notes: Why it is this one, where a better one could not be had.
        chosen_s: When it was chosen. [s]
    """

    watch: Watch
    notes: tuple[str, ...]
    chosen_s: float


_open: dict[tuple[str, str], Choice] = {}


def choose(meter: str | Meter | None = None, *, require_measured: bool = False) -> Choice:
    """The meter for a window.

    Args:
        meter: A row of `METERS`, several joined by `+`, or an open meter; None for the best that there is.
        require_measured: Refuse an estimate.

    Raises:
        UsageError: There is no meter of that name.
        MeterError: The named meter cannot be had, or no counter can and one is required.
    """
    if meter is not None and not isinstance(meter, str):
        choice = Choice(Watch(meter), (), time.monotonic())
    else:
        choice = _shared(meter)
    if require_measured and choice.watch.meter.source != "measured":
        reason = "; ".join(choice.notes) or f"meter {choice.watch.meter.name!r} is an estimate"
        raise MeterError(
            f"no counter measures energy here: {reason}; leave require_measured (--require-measured) out to accept an estimate"
        )
    return choice


def forget(choice: Choice) -> None:
    """Open the meter anew next time: its counters cannot be read any more."""
    for key, other in list(_open.items()):
        if other is choice:
            del _open[key]
            choice.watch.retire()


def open_named(name: str) -> Meter:
    """Open one row of `METERS`, or several joined by `+`."""
    meters = []
    for part in name.split("+"):
        if part not in METERS:
            raise UsageError(f"no meter {part!r}; there are {', '.join(METERS)}")
        meters.append(METERS[part]())
    return meters[0] if len(meters) == 1 else Together(meters)


def _shared(name: str | None) -> Choice:
    key = (name or "", os.environ.get("BUDJOULE_SYSFS_ROOT", ""))
    choice = _open.get(key)
    # An estimate is looked at again now and then: the user may have made the counters readable meanwhile.
    if choice is not None and (
        name or choice.watch.meter.source == "measured" or time.monotonic() - choice.chosen_s < _FALLBACK_AGE_S
    ):
        return choice
    meter, notes = (open_named(name), ()) if name else _best()
    if choice is not None and choice.watch.meter.source == meter.source:  # still the same estimate: keep its books
        meter.close()
        fresh = Choice(choice.watch, notes, time.monotonic())
    else:
        fresh = Choice(Watch(meter), notes, time.monotonic())
    for old in [other for other in _open if other[0] == key[0] and other != key]:
        _open.pop(old).watch.retire()  # the tree moved; in tests that happens with every test
    _open[key] = fresh
    return fresh


def _best() -> tuple[Meter, tuple[str, ...]]:
    refused: dict[str, str] = {}
    for group in AUTOMATIC:
        meters: list[Meter] = []
        for name in group:
            try:
                meters.append(METERS[name]())
            except MeterError as error:
                refused[name] = str(error)
        denied = tuple(reason for reason in refused.values() if "permission denied" in reason)
        if meters:
            missing = (_NO_PROCESSOR,) if "rapl" in group and "rapl" in refused else ()
            return (meters[0] if len(meters) == 1 else Together(meters)), missing + denied
    return METERS[_FALLBACK](), denied or (
        f"no counter can be read here ({', '.join(refused)}): 'budjoule doctor' says why",
    )
