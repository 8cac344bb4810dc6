"""Run the microbenchmarks on this machine, fit a profile to them, and hold it against the training steps that it has not seen."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from budjoule.calibration.fit import fit_profile
from budjoule.calibration.microbenchmarks import SUITE, Microbenchmark, Step, prepared
from budjoule.calibration.observation import Observation
from budjoule.calibration.this_machine import ThisMachine, this_machine
from budjoule.energy.device import DeviceProfile, load_profile, user_profile_folder
from budjoule.energy.errors import MeterError, UsageError
from budjoule.energy.measure import Window, measure
from budjoule.energy.meters import Meter
from budjoule.energy.meters.load import Processor
from budjoule.energy.predict import predict
from budjoule.energy.trace import trace

TIGHT_FRAC = 0.01  # relative standard error of the time at which a microbenchmark stops
NOISY_FRAC = 0.25  # spread between its quarters at which the machine counts as busy
BUSY_CORES = 0.25  # processor time that others took, in cores, at which PyTorch's threads wait for each other
WRONG_LOG = 0.3  # error of the held-out steps at which the profile is called unreliable
QUICK_S, FULL_S = 0.6, 5.0  # longest time of one microbenchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one microbenchmark took.

    Args:
        duration_s: Median time of one step. [s]
        energy_j: Energy of one step, None where no counter was read. [J]
        spread_frac: Spread of the time between the first and the last quarter of the repeats.
        others_cores: Processor time that other processes took meanwhile, in cores.
        meter: The counter that was read, in words; empty where there was none.
    """

    duration_s: float
    energy_j: float | None
    spread_frac: float
    others_cores: float = 0.0
    meter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted profile and what it was fitted and checked on.

    Args:
        profile: The new profile.
        prior: The profile it started from, on this machine's datasheet.
        readings: What each microbenchmark took, by its name.
        validation: Rows `{name, duration_s, estimated_duration_s, energy_j, estimated_energy_j}` of the held-out training steps.
        notes: What the reader should know.
    """

    profile: DeviceProfile
    prior: DeviceProfile
    readings: dict[str, Reading]
    validation: list[dict[str, Any]]
    notes: tuple[str, ...]


def read_step(
    step: Step,
    *,
    limit_s: float,
    clock: Callable[[], float] = time.perf_counter,
    processor: Processor | None = None,
    meter: "str | Meter | None" = None,
) -> Reading:
    """Warm up, repeat until the time is tight or up, and read the counter over all repeats where there is one.

    Args:
        step: What to repeat.
        limit_s: Longest time of the repeats. [s]
        clock: A monotonic clock. [s]
        processor: Tells what other processes take.
        meter: The counter to read; the default is the machine's own.
    """
    processor = processor or Processor()
    begin = clock()
    step()
    while clock() - begin < 0.1 * limit_s:
        step()
    times: list[float] = []
    window = _counter(meter)
    begin, begin_busy, begin_own = clock(), processor.busy_s()[0], processor.own_s()
    while not times or clock() - begin < limit_s:
        start = clock()
        step()
        times.append(clock() - start)
        few = window is not None or len(times) < 30
        if not few and np.std(times) / np.mean(times) / np.sqrt(len(times)) < TIGHT_FRAC:
            break
    measured = window.end() if window is not None else None
    others_s = (processor.busy_s()[0] - begin_busy) - (processor.own_s() - begin_own)
    quarter = max(1, len(times) // 4)
    first, last = np.median(times[:quarter]), np.median(times[-quarter:])
    has_energy = measured is not None and measured.energy_j > 0
    return Reading(
        # the counter saw every repeat, so with it the mean is the time that belongs to the joules
        duration_s=float(np.mean(times) if measured is not None else np.median(times)),
        energy_j=measured.energy_j / len(times) if measured is not None and has_energy else None,
        spread_frac=float(abs(last - first) / np.median(times)),
        # the machine's busy time is counted in steps of 10 ms, too coarse for a short run
        others_cores=max(0.0, others_s / (clock() - begin)) if clock() - begin > 0.1 else 0.0,
        meter=measured.method if measured is not None and has_energy else "",
    )


def idle_w(
    *, limit_s: float, meter: "str | Meter | None" = None, sleep: Callable[[float], None] = time.sleep
) -> float | None:
    """Power of the machine at rest, None where no counter tells. [W]"""
    window = _counter(meter)
    if window is None:
        return None
    sleep(limit_s)
    power_w = window.end().power_w
    return power_w if power_w > 0 else None


def _counter(meter: "str | Meter | None") -> Window | None:
    try:
        return measure("microbenchmark", meter=meter, require_measured=True).begin()
    except MeterError:
        return None


def calibrate(
    *,
    prior: str = "cpu-generic",
    quick: bool = False,
    progress: Callable[[str], None] = lambda name: None,
    read: Callable[[Microbenchmark, float], Reading] | None = None,
    suite: Sequence[Microbenchmark] = SUITE,
    machine: ThisMachine | None = None,
) -> Calibration:
    """Calibrate this machine's processor. Nothing is saved.

    Args:
        prior: The profile to start from.
        quick: Spend about a tenth of the time on each microbenchmark.
        progress: Called with each microbenchmark's name before it runs.
        read: Takes a microbenchmark and its longest time, and reads it; the default runs it for real.
        suite: The microbenchmarks.
        machine: Datasheet figures; the default looks at this machine.

    Raises:
        UsageError: The prior is no processor's profile.
    """
    base = load_profile(prior)
    if base.spec.kind != "cpu":
        raise UsageError(
            f"{base.name} is a {base.spec.kind} profile and it is the processor that is calibrated; start from cpu-generic"
        )
    limit_s = QUICK_S if quick else FULL_S
    read = read or (lambda benchmark, limit_s: read_step(prepared(benchmark), limit_s=limit_s))
    readings: dict[str, Reading] = {}
    observations: dict[str, Observation] = {}
    idle = None
    if machine is None:
        progress("idle")
        idle = idle_w(limit_s=limit_s)
    for benchmark in suite:
        progress(benchmark.name)
        readings[benchmark.name] = reading = read(benchmark, limit_s)
        observations[benchmark.name] = _observed(benchmark, reading)
    if machine is None:
        copied = observations["big copy"]
        bandwidth = copied.workload.moved_bytes / copied.duration_s
        machine = this_machine(
            threads=torch.get_num_threads(),
            dram_bytes_per_s=1.2 * bandwidth,  # a copy reaches about 0.8 of the peak
            idle_w=idle,
        )
    fitted = [observations[b.name] for b in suite if not b.held_out]
    profile = fit_profile(fitted, spec=machine.spec, prior=base, name="this-machine", title=machine.title)
    start = replace(profile, log_mean=base.log_mean, log_cov=base.log_cov)
    validation = [_validated(b.name, observations[b.name], profile) for b in suite if b.held_out]
    profile = _widened(profile, validation)
    notes = _notes(readings, machine, any(o.energy_j is not None for o in fitted), validation)
    return Calibration(
        profile=replace(
            profile, provenance={**profile.provenance, **_provenance(machine, readings, validation, notes)}
        ),
        prior=start,
        readings=readings,
        validation=validation,
        notes=notes,
    )


def _observed(benchmark: Microbenchmark, reading: Reading) -> Observation:
    module, x = benchmark.build()
    mode = "training" if benchmark.training else "inference"
    work = trace(module, x, mode=mode, optimizer="sgd", precision=benchmark.precision)
    return Observation(workload=work, duration_s=reading.duration_s, energy_j=reading.energy_j)


def _validated(name: str, o: Observation, profile: DeviceProfile) -> dict[str, Any]:
    e = predict(o.workload, device=profile)
    return {
        "name": name,
        "duration_s": o.duration_s,
        "estimated_duration_s": e.duration_s,
        "time_error_frac": e.duration_s / o.duration_s - 1,
        "energy_j": o.energy_j,
        "estimated_energy_j": e.energy_j,
        "energy_error_frac": e.energy_j / o.energy_j - 1 if o.energy_j is not None else None,
    }


def _widened(profile: DeviceProfile, validation: list[dict[str, Any]]) -> DeviceProfile:
    """Add the held-out steps' errors to the residuals: an interval must cover what the microbenchmarks do not show."""
    time_log = [np.log1p(row["time_error_frac"]) for row in validation]
    energy_log = [np.log1p(row["energy_error_frac"]) for row in validation if row["energy_error_frac"] is not None]
    return replace(
        profile,
        residual_time=float(np.hypot(profile.residual_time, np.mean(np.abs(time_log)) if time_log else 0.0)),
        residual_energy=float(
            np.hypot(profile.residual_energy, np.mean(np.abs(energy_log or time_log)) if time_log else 0.0)
        ),
    )


def _notes(
    readings: dict[str, Reading], machine: ThisMachine, has_energy: bool, validation: list[dict[str, Any]]
) -> tuple[str, ...]:
    notes = []
    if not has_energy:
        notes.append(
            "no energy counter was read: time is calibrated, the joules stay at their prior ('budjoule doctor' says what is missing)"
        )
    others = float(np.median([reading.others_cores for reading in readings.values()])) if readings else 0.0
    if others > BUSY_CORES:
        notes.append(
            f"other processes kept {others:.1f} cores busy, and PyTorch's threads then wait for each other: calibrate again when the machine is idle"
        )
    if noisy := [name for name, reading in readings.items() if reading.spread_frac > NOISY_FRAC]:
        notes.append(
            f"the machine was busy or throttled during {', '.join(noisy)}: times drifted by over {100 * NOISY_FRAC:.0f} %; calibrate again when it is idle"
        )
    errors = [row["time_error_frac"] for row in validation]
    if errors and np.mean(np.abs(np.log1p(errors))) > WRONG_LOG:
        said = " and ".join(f"{100 * error:+.0f} %" for error in errors)
        notes.append(
            f"the times of the held-out training steps are wrong by {said}: the interval is wide for it; a full run on an idle machine does better"
        )
    if torch.cuda.is_available():
        notes.append("the processor was calibrated; a GPU keeps its shipped profile ('budjoule devices')")
    if machine.assumed:
        notes.append(f"assumed, since no file here says it: {', '.join(machine.assumed)}")
    return tuple(notes)


def _provenance(
    machine: ThisMachine, readings: dict[str, Reading], validation: list[dict[str, Any]], notes: tuple[str, ...]
) -> dict[str, Any]:
    measured = any(reading.energy_j is not None for reading in readings.values())
    meters = sorted({reading.meter for reading in readings.values() if reading.meter})
    held_out: dict[str, Any] = (
        {"time_error_frac": float(f"{np.mean([abs(row['time_error_frac']) for row in validation]):.4f}")}
        if validation
        else {}
    )
    if validation and measured:
        held_out["energy_error_frac"] = float(f"{np.mean([abs(row['energy_error_frac']) for row in validation]):.4f}")
    return {
        "source": f"microbenchmarks on this machine: {machine.title}",
        "meter": (", ".join(meters) or "counters of this machine") if measured else "none: time only",
        "machine": platform.platform(),
        "torch": torch.__version__,
        "held_out_training_steps": held_out,
        "notes": list(notes),
    }


def default_path() -> Path:
    """Where the profile of this machine is looked for by every verb."""
    return user_profile_folder() / "this-machine.toml"
