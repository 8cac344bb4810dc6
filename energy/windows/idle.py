"""The machine's idle power: measured once, then taken off windows, which tell both what they cost and what they added."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

from budjoule.energy.errors import UsageError
from budjoule.energy.measure import measure
from budjoule.energy.measurement import Idle, Measurement
from budjoule.energy.meters import Meter
from budjoule.energy.units import seconds

_BUSY_FRAC = 0.1


def measure_idle(
    duration: float | str = 10.0,
    *,
    meter: str | Meter | None = None,
    require_measured: bool = False,
    wait: Callable[[float], object] = time.sleep,
) -> Measurement:
    """Measure the machine at rest, for `measure(..., idle=...)`.

    Args:
        duration: How long: seconds, or text such as `"30 s"`. Several times the slowest counter's step.
        meter: As in `measure`; the windows it is taken off must be read by the same one.
        require_measured: Refuse an estimate.
        wait: Passes the time.

    Raises:
        UsageError: The duration is not positive, or there is no meter of that name.
        MeterError: The meter cannot be had.
    """
    duration_s = seconds(duration)
    if duration_s <= 0:
        raise UsageError(f"an idle machine cannot be measured for {duration_s} s; give a duration such as '10 s'")
    from budjoule.energy.meters.load import Processor  # psutil

    processor = Processor()
    busy_s, total_s = processor.busy_s()
    with measure("idle", meter=meter, require_measured=require_measured) as window:
        wait(duration_s)
    measurement = window.measurement
    busy_s, total_s = (after - before for before, after in zip((busy_s, total_s), processor.busy_s(), strict=True))
    if busy_s > _BUSY_FRAC * total_s:
        note = f"the machine was {busy_s / total_s:.0%} busy meanwhile, so this is not its idle power: stop what runs"
        measurement = replace(measurement, notes=(note, *measurement.notes))
    return measurement


def idle_of(given: Measurement | float) -> Idle:
    """An idle power as `measure` takes it off: from a measurement at rest, or from a number of watts.

    Raises:
        UsageError: The power is negative or not finite, or the measurement has no length.
    """
    if isinstance(given, Measurement):
        if given.duration_s <= 0:
            raise UsageError("the idle measurement has no length; measure a machine at rest for some seconds")
        power, low, high = (
            energy_j / given.duration_s for energy_j in (given.energy_j, given.energy_low_j, given.energy_high_j)
        )
        return Idle(power, low, high, given.summed)
    if not 0 <= given < math.inf:
        raise UsageError(f"an idle power of {given} W is none; give watts of at least 0, or bj.measure_idle()")
    return Idle(float(given), float(given), float(given))
