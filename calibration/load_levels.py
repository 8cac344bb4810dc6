"""How the processor's power grows with its load: at rest, with some threads at work, and with all of them part of the time.

Threads at work at the full clock alone would not do: where load is spread thin, clocks stay low, and a model that never saw that
misses the power by 33 % instead of 12 % (`tests/benchmarks/cpu_load.py`, `as calibrate`).
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from budjoule.calibration.microbenchmarks import PRODUCT, prepare
from budjoule.calibration.reading import open_counter
from budjoule.calibration.target import Target
from budjoule.energy.meters.load import Processor
from budjoule.energy.meters.load_model import LoadModel, LoadSample, fit_load_model

SHORTEST_S = 0.5  # the machine's busy time is counted in steps of 10 ms [s]
LOOK_S = 0.1  # time between two looks at the clock [s]
SPREAD_FRAC = 0.3  # share of the time that all threads work at the thinly spread level


def fit_load(
    target: Target,
    *,
    limit_s: float,
    processor: Processor | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> LoadModel | None:
    """Fit the load model that stands in where the counter cannot be read; None for a GPU, and where there is no counter.

    Args:
        target: The processor.
        limit_s: Time of each level. [s]
        processor: Tells the load.
        sleep: Rests for so long.
        clock: A monotonic clock. [s]
    """
    processor = processor or Processor()
    limit_s = max(limit_s, SHORTEST_S)
    idle = _sample(lambda: sleep(LOOK_S), target, limit_s, processor) if target.kind == "cpu" else None
    if idle is None:
        return None
    work = prepare(PRODUCT, cores=target.cores, device=target.device).step

    def work_and_rest() -> None:
        begin_s = clock()
        work()
        sleep((clock() - begin_s) * (1 / SPREAD_FRAC - 1))

    levels = [(threads, work) for threads in sorted({1, max(1, target.cores // 2), target.cores})]
    samples = [idle]
    before = torch.get_num_threads()
    try:
        for threads, step in (*levels, (target.cores, work_and_rest)):
            torch.set_num_threads(threads)
            sample = _sample(step, target, limit_s, processor)
            samples += [sample] if sample is not None else []
    finally:
        torch.set_num_threads(before)
    return fit_load_model(samples) if len({round(sample.load_frac, 3) for sample in samples}) > 1 else None


def _sample(step: Callable[[], None], target: Target, limit_s: float, processor: Processor) -> LoadSample | None:
    """Load, power and mean clock while a step repeats; None where no counter tells."""
    window = open_counter(target.meters)
    if window is None:
        return None
    clocks: list[float | None] = []
    begin_busy_s, begin_counted_s = processor.busy_s()
    while (elapsed_s := window.read().duration_s) < limit_s:
        step()
        if elapsed_s >= LOOK_S * (len(clocks) + 1):
            clocks.append(processor.clock_hz())
    measured = window.end()
    busy_s, counted_s = processor.busy_s()
    if measured.source != "measured" or measured.energy_j <= 0 or counted_s <= begin_counted_s:
        return None
    load_frac = min(max((busy_s - begin_busy_s) / (counted_s - begin_counted_s), 0.0), 1.0)
    known = [clock_hz for clock_hz in clocks if clock_hz]
    return LoadSample(load_frac, measured.power_w, float(np.mean(known)) if known else None)
