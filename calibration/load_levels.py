"""How the processor's power grows with its load: at rest, then a product on one thread, on half of them and on all."""

import time
from collections.abc import Callable

import torch

from budjoule.calibration.microbenchmarks import PRODUCT, prepare
from budjoule.calibration.reading import open_counter
from budjoule.calibration.target import Target
from budjoule.energy.meters.load import Processor
from budjoule.energy.meters.load_model import LoadModel, LoadSample, fit_load_model

SHORTEST_S = 0.5  # the machine's busy time is counted in steps of 10 ms [s]
REST_S = 0.01


def fit_load(
    target: Target,
    *,
    limit_s: float,
    processor: Processor | None = None,
    rest: Callable[[], None] = lambda: time.sleep(REST_S),
) -> LoadModel | None:
    """Fit the load model that stands in where the counter cannot be read; None for a GPU, and where there is no counter.

    Args:
        target: The processor.
        limit_s: Time of each level. [s]
        processor: Tells the load.
        rest: Waits a moment.
    """
    processor = processor or Processor()
    limit_s = max(limit_s, SHORTEST_S)
    idle = _sample(rest, target, limit_s, processor) if target.kind == "cpu" else None
    if idle is None:
        return None
    samples = [idle]
    step = prepare(PRODUCT, cores=target.cores, device=target.device).step
    before = torch.get_num_threads()
    try:
        for threads in sorted({1, max(1, target.cores // 2), target.cores}):
            torch.set_num_threads(threads)
            sample = _sample(step, target, limit_s, processor)
            samples += [sample] if sample is not None else []
    finally:
        torch.set_num_threads(before)
    return fit_load_model(samples) if len({round(sample.load_frac, 3) for sample in samples}) > 1 else None


def _sample(step: Callable[[], None], target: Target, limit_s: float, processor: Processor) -> LoadSample | None:
    """Load and power while a step repeats; None where no counter tells."""
    window = open_counter(target.meters)
    if window is None:
        return None
    begin_busy_s, begin_counted_s = processor.busy_s()
    while window.read().duration_s < limit_s:
        step()
    clock_hz = processor.clock_hz()
    measured = window.end()
    busy_s, counted_s = processor.busy_s()
    if measured.source != "measured" or measured.energy_j <= 0 or counted_s <= begin_counted_s:
        return None
    load_frac = min(max((busy_s - begin_busy_s) / (counted_s - begin_counted_s), 0.0), 1.0)
    return LoadSample(load_frac, measured.power_w, clock_hz)
