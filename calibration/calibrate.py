"""Run the microbenchmarks on this machine, fit a profile to them, and hold it against the training steps that it has not seen."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from budjoule.calibration.fit import fit_profile, prior_for
from budjoule.calibration.microbenchmarks import SUITE, Microbenchmark, Prepared, prepare
from budjoule.calibration.notes import notes_on
from budjoule.calibration.observation import Observation
from budjoule.calibration.reading import Meters, Reading, idle_w, read_step
from budjoule.calibration.this_gpu import CORES_PER_UNIT, power_limit_w, this_gpu
from budjoule.calibration.this_machine import ThisMachine, this_machine
from budjoule.energy.device import DeviceProfile, DeviceSpec, load_profile
from budjoule.energy.errors import UsageError
from budjoule.energy.predict import predict

QUICK_S, FULL_S = 0.4, 4.5  # longest time of one microbenchmark [s]
WARM = 1.2  # time that a microbenchmark takes with its warm-up and tracing, over that
NAME = "this-machine"
COPY_FRAC = 0.8  # share of the peak bandwidth that a large copy reaches
COPY_NAME = "big copy"

Progress = Callable[[str, int, int], None]
Read = Callable[[Prepared, float], Reading]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is calibrated.

    Args:
        kind: `cpu` or `gpu`, as in `DeviceSpec`.
        device: PyTorch's name of it.
        cores: How many cores it is as strong as.
        meters: The counters that tell its energy, the best first.
        synchronize: Waits for a GPU.
    """

    kind: str
    device: str
    cores: int
    meters: Meters = ()
    synchronize: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted profile and what it was fitted and checked on.

    Args:
        profile: The new profile.
        prior: The profile it started from, on this machine's datasheet.
        readings: What each microbenchmark took, by its name.
        validation: Rows of the held-out training steps: `name, duration_s, estimated_duration_s, time_error_frac, energy_j,
            estimated_energy_j, energy_error_frac`.
        notes: What the reader should know.
    """

    profile: DeviceProfile
    prior: DeviceProfile
    readings: dict[str, Reading]
    validation: list[dict[str, Any]]
    notes: tuple[str, ...]


def calibrate(
    *,
    prior: str = "cpu-generic",
    quick: bool = False,
    limit_s: float | None = None,
    progress: Progress = lambda name, done, total: None,
    read: Read | None = None,
    suite: Sequence[Microbenchmark] = SUITE,
    target: Target | None = None,
    machine: ThisMachine | None = None,
) -> Calibration:
    """Calibrate this machine's processor, or its GPU where the prior is a GPU's profile. Nothing is saved.

    Args:
        prior: The profile to start from.
        quick: Spend about a tenth of the time on each microbenchmark.
        limit_s: Longest time of one microbenchmark, instead of the usual. [s]
        progress: Called before each microbenchmark with its name, how many are done and how many there are.
        read: Takes a microbenchmark and its longest time, and reads it; the default runs it for real.
        suite: The microbenchmarks.
        target: What to calibrate; the default is what the prior is a profile of.
        machine: Datasheet figures; the default looks at this machine.

    Raises:
        UsageError: The prior is a GPU's profile and PyTorch sees no GPU.
    """
    base = load_profile(prior)
    target = target or target_for(base)
    limit_s = limit_s or (QUICK_S if quick else FULL_S)
    suite = [benchmark for benchmark in suite if target.kind in benchmark.kinds]
    read = read or _reader(target)
    progress("idle", 0, len(suite) + 1)
    idle = idle_w(limit_s=limit_s, meters=target.meters) if machine is None else None
    readings: dict[str, Reading] = {}
    observations: dict[str, Observation] = {}
    end_s = time.perf_counter() + WARM * limit_s * len(suite)
    for i, benchmark in enumerate(suite):
        progress(benchmark.name, i + 1, len(suite) + 1)
        # what slow steps took too long, the rest makes up for, so that the whole ends in time on a slow machine too
        left_s = (end_s - time.perf_counter()) / WARM / (len(suite) - i)
        prepared = prepare(benchmark, cores=target.cores, device=target.device)
        readings[benchmark.name] = reading = read(prepared, min(limit_s, max(left_s, 0.0)))
        observations[benchmark.name] = Observation(
            workload=prepared.workload, duration_s=reading.duration_s, energy_j=reading.energy_j
        )
    progress("fit", len(suite) + 1, len(suite) + 1)
    machine = machine or _machine(target, base.spec, observations, idle)
    fitted = [observations[b.name] for b in suite if not b.held_out]
    profile = fit_profile(fitted, spec=machine.spec, prior=base, name=NAME, title=machine.title)
    validation = [_validated(b.name, observations[b.name], profile) for b in suite if b.held_out]
    notes = notes_on(readings, machine, validation)
    added = _provenance(machine, readings, validation, notes)
    return Calibration(
        profile=replace(_widened(profile, validation), provenance={**profile.provenance, **added}),
        prior=prior_for(machine.spec, base, name=NAME, title=machine.title),
        readings=readings,
        validation=validation,
        notes=notes,
    )


def target_for(base: DeviceProfile) -> Target:
    """What a profile is calibrated on here: this machine's processor, or its GPU.

    Raises:
        UsageError: The profile is a GPU's, and PyTorch sees no GPU here.
    """
    if base.spec.kind == "cpu":
        return Target(kind="cpu", device="cpu", cores=torch.get_num_threads(), meters=("rapl", "hwmon", "battery"))
    if not torch.cuda.is_available():
        raise UsageError(
            f"{base.name} is a GPU's profile and PyTorch sees no GPU here; start from cpu-generic to calibrate the processor"
        )
    units = torch.cuda.get_device_properties(0).multi_processor_count
    # NVML adds up all boards, so that with several nobody knows which one's joules they are
    meters = ("nvml", "hwmon") if torch.cuda.device_count() == 1 else ()
    return Target(
        kind="gpu", device="cuda", cores=CORES_PER_UNIT * units, meters=meters, synchronize=torch.cuda.synchronize
    )


def _reader(target: Target) -> Read:
    def read(prepared: Prepared, limit_s: float) -> Reading:
        return read_step(
            prepared.step,
            limit_s=limit_s,
            threads=target.cores if target.kind == "cpu" else None,
            meters=target.meters,
            synchronize=target.synchronize,
        )

    return read


def _machine(
    target: Target, like: DeviceSpec, observations: Mapping[str, Observation], idle: float | None
) -> ThisMachine:
    copied = observations[COPY_NAME]
    bandwidth = copied.workload.moved_bytes / copied.duration_s / COPY_FRAC
    if target.kind == "cpu":
        return this_machine(threads=target.cores, dram_bytes_per_s=bandwidth, idle_w=idle)
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        limit = None
    else:
        limit = power_limit_w(pynvml)
    return this_gpu(
        torch.cuda.get_device_properties(0), like=like, dram_bytes_per_s=bandwidth, idle_w=idle, power_limit_w=limit
    )


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


def _widened(profile: DeviceProfile, validation: Sequence[Mapping[str, Any]]) -> DeviceProfile:
    """Add the held-out steps' errors to the residuals: an interval must cover what the microbenchmarks do not show."""
    if not validation:
        return profile
    time_log = [np.log1p(row["time_error_frac"]) for row in validation]
    energy_log = [np.log1p(row["energy_error_frac"]) for row in validation if row["energy_error_frac"] is not None]
    return replace(
        profile,
        residual_time=float(np.hypot(profile.residual_time, np.mean(np.abs(time_log)))),
        residual_energy=float(np.hypot(profile.residual_energy, np.mean(np.abs(energy_log or time_log)))),
    )


def _provenance(
    machine: ThisMachine,
    readings: Mapping[str, Reading],
    validation: Sequence[Mapping[str, Any]],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    meters = sorted({reading.meter for reading in readings.values() if reading.meter})
    clocks = [reading.clock_hz for reading in readings.values() if reading.clock_hz]
    errors = {
        key: float(f"{np.mean([abs(row[key]) for row in validation]):.4f}")
        for key in ("time_error_frac", "energy_error_frac")
        if validation and all(row[key] is not None for row in validation)
    }
    return {
        "source": f"microbenchmarks on this machine: {machine.title}",
        "meter": ", ".join(meters) or "none: time only",
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "clock_hz": [min(clocks), max(clocks)] if clocks else [],
        "held_out_training_steps": errors,
        "notes": list(notes),
    }
