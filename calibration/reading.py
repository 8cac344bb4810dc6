"""Reads one step: warm up, repeat until the time is tight or up, and say under what conditions it ran."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from budjoule.calibration.conditions import clock_hz, throttle_count
from budjoule.energy.errors import MeterError
from budjoule.energy.measure import measure
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters import Meter
from budjoule.energy.meters.load import Processor
from budjoule.energy.windows.window import Window

Meters = Sequence["str | Meter"]

TIGHT_FRAC = 0.01  # relative standard error of the median at which the repeats stop
FEWEST = 30  # repeats before that is judged
WARM_FRAC = 0.1  # time of the warm-up over that of the repeats
WARM_STEPS = 2  # steps of the warm-up at least: the first one allocates and chooses algorithms
MEDIAN_OVER_MEAN = 1.2533  # standard error of a median over that of a mean, of Gaussian noise: sqrt(pi / 2)
BUSY_CORES = 0.25  # processor time that others took, in cores, at which PyTorch's threads wait for each other
UNDISTURBED = 0.1  # quantile of the times that stands for a step nobody interrupted: others can only add time
BLOCK_S = 0.02  # how long a queue of steps is at least between two waits for a GPU [s]
COARSE_S = 0.1  # the machine's busy time is counted in steps of 10 ms, too coarse for a shorter run [s]
IDLE_S = 2.0  # shortest rest in which a counter that steps ten times a second tells the power [s]
UNSURE_ENERGY = 0.3  # half-width of a measured energy's interval over it, at which it tells nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where the clock and the energy of what is calibrated are read.

    Args:
        clock_hz: Its clock now, None where nothing tells. [Hz]
        throttle_count: How often heat has held it back so far, None where nothing tells.
        domain: The one domain of the counter that is its own; empty for the total.
    """

    clock_hz: Callable[[], float | None] = clock_hz
    throttle_count: Callable[[], int | None] = throttle_count
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one microbenchmark took.

    Args:
        duration_s: Median time of one step; where others kept the machine busy, that of a step they left alone. [s]
        energy_j: Energy of one step that takes so long, None where no counter was read or it stepped too seldom. [J]
        spread_frac: Difference of the time between the first and the last quarter of the repeats, or between rounds.
        error_frac: Relative standard error of the median time.
        others_cores: Processor time that other processes, or other guests of a shared host, took meanwhile, in cores.
        clock_hz: The clock at the end of the repeats, None where nothing tells. [Hz]
        throttled: How often heat held the device back meanwhile, None where nothing tells.
        meter: The counter that was read, in words; empty where there was none.
    """

    duration_s: float
    energy_j: float | None
    spread_frac: float
    error_frac: float = 0.0
    others_cores: float = 0.0
    clock_hz: float | None = None
    throttled: int | None = None
    meter: str = ""


def read_step(
    step: Callable[[], None],
    *,
    limit_s: float,
    clock: Callable[[], float] = time.perf_counter,
    processor: Processor | None = None,
    threads: int | None = None,
    meters: Meters = (),
    conditions: Conditions | None = None,
    synchronize: Callable[[], object] | None = None,
) -> Reading:
    """Warm up, repeat until the time is tight or up, and read the counter over all repeats where there is one.

    Args:
        step: What to repeat.
        limit_s: Longest time of the repeats. [s]
        clock: A monotonic clock. [s]
        processor: Tells what other processes take.
        threads: How many threads work on a step. Of a lone one the processor's time tells what it takes when it is not
            interrupted; several wait for each other in busy loops, and theirs does not.
        meters: The counters to try, in this order; none is no energy.
        conditions: Where clock, throttling and the counter's domain are read; the default is this machine's processor.
        synchronize: Waits for a GPU. Steps are then timed in blocks, so that the wait weighs little.
    """
    processor = processor or Processor()
    conditions = conditions or Conditions()
    wait = synchronize or (lambda: None)
    calls = _warmed(step, wait, WARM_FRAC * limit_s, clock, queued=synchronize is not None)
    times: list[float] = []
    alone: list[float] = []
    window = open_counter(meters, synchronize)
    begin_throttled, begin = conditions.throttle_count(), clock()
    begin_others, begin_own = _others_s(processor), processor.own_s()
    # a counter steps seldom and is read once, over the whole time
    while not times or (clock() - begin < limit_s and (window is not None or not _tight(times))):
        start, own = clock(), processor.own_s()
        for _ in range(calls):
            step()
        wait()
        times.append((clock() - start) / calls)
        alone.append((processor.own_s() - own) / calls)
    now_hz, throttled = conditions.clock_hz(), conditions.throttle_count()
    measured = window.end() if window is not None else None
    elapsed_s = clock() - begin
    own_s = processor.own_s() - begin_own
    others_s = _others_s(processor) - begin_others - own_s
    others_cores = max(0.0, others_s / elapsed_s) if elapsed_s > COARSE_S else 0.0
    energy_j = _energy_j(measured, conditions.domain)
    quarter = max(1, len(times) // 4)
    median, mean = float(np.median(times)), float(np.mean(times))
    if others_cores > BUSY_CORES:
        duration_s = float(np.quantile(alone if threads == 1 else times, UNDISTURBED))
    else:  # a counter saw every repeat: the mean is the time that belongs to the joules
        duration_s = mean if energy_j is not None else median
    return Reading(
        duration_s=duration_s,
        energy_j=energy_j / (len(times) * calls) * duration_s / mean if energy_j is not None else None,
        spread_frac=float(abs(np.median(times[-quarter:]) - np.median(times[:quarter])) / median),
        error_frac=_error_frac(times),
        others_cores=others_cores,
        clock_hz=now_hz,
        throttled=None if throttled is None or begin_throttled is None else max(0, throttled - begin_throttled),
        meter=measured.method if measured is not None and energy_j is not None else "",
    )


def least_disturbed(rounds: Sequence[Reading]) -> Reading:
    """One reading of several rounds of the same microbenchmark: the middle one of those in which others left the machine
    alone, or the shortest where they never did.

    Its `spread_frac` becomes the difference between the rounds it was chosen from.
    """
    metered = [reading for reading in rounds if reading.energy_j is not None] or rounds
    quiet = [reading for reading in metered if reading.others_cores <= BUSY_CORES]
    ordered = sorted(quiet or metered, key=lambda reading: reading.duration_s)
    chosen = ordered[len(ordered) // 2] if quiet else ordered[0]
    spread_frac = (ordered[-1].duration_s - ordered[0].duration_s) / chosen.duration_s
    return replace(chosen, spread_frac=max(spread_frac, chosen.spread_frac), throttled=throttled_in_all(rounds))


def throttled_in_all(readings: Iterable[Reading]) -> int | None:
    """How often heat held the device back during all of these; None where nothing tells."""
    known = [reading.throttled for reading in readings if reading.throttled is not None]
    return sum(known) if known else None


def idle_w(
    *, limit_s: float, meters: Meters, domain: str = "", sleep: Callable[[float], None] = time.sleep
) -> float | None:
    """Power of the machine at rest, None where no counter tells. [W]"""
    window = open_counter(meters)
    if window is None:
        return None
    sleep(max(limit_s, IDLE_S))
    measured = window.end()
    energy_j = _energy_j(measured, domain)
    return energy_j / measured.duration_s if energy_j is not None else None


def open_counter(meters: Meters, synchronize: Callable[[], object] | None = None) -> Window | None:
    """A window on the first of these meters that counts energy here; None if none does."""
    for meter in meters:
        try:
            return measure("microbenchmark", meter=meter, require_measured=True, synchronize=synchronize).begin()
        except MeterError:
            continue
    return None


def _energy_j(measured: Measurement | None, domain: str) -> float | None:
    """Joules of a domain, or in all; None where the counter stood still or its step is too coarse for the window."""
    if measured is None or measured.source != "measured":
        return None
    energy_j = measured.domains.get(domain, 0.0) if domain else measured.energy_j
    half_width_j = (measured.energy_high_j - measured.energy_low_j) / 2
    return energy_j if energy_j > 0 and half_width_j < UNSURE_ENERGY * measured.energy_j else None


def _others_s(processor: Processor) -> float:
    """Processor time that the machine's processes took, and that its host took from it for other guests. [s]"""
    return processor.busy_s()[0] + processor.stolen_s()


def _warmed(
    step: Callable[[], None], wait: Callable[[], object], limit_s: float, clock: Callable[[], float], *, queued: bool
) -> int:
    """Run the step until caches, clocks and algorithms have settled; how many steps a timed block holds."""
    begin, steps = clock(), 0
    while True:
        start = clock()
        step()
        wait()
        steps += 1
        end = clock()
        if end - begin >= limit_s and (steps >= WARM_STEPS or end - begin >= limit_s / WARM_FRAC):
            return max(1, int(BLOCK_S / max(end - start, 1e-7))) if queued else 1


def _error_frac(times: Sequence[float]) -> float:
    return float(MEDIAN_OVER_MEAN * np.std(times) / np.mean(times) / np.sqrt(len(times)))


def _tight(times: Sequence[float]) -> bool:
    # judged at every doubling, or the judging would cost more than a short step
    return len(times) >= FEWEST and len(times) & (len(times) - 1) == 0 and _error_frac(times) < TIGHT_FRAC
