"""Run the microbenchmarks on this machine, fit a profile to them, and hold it against the training steps that it has not seen."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from budjoule.calibration.fit import fit_profile, simulate
from budjoule.calibration.load_levels import fit_load
from budjoule.calibration.microbenchmarks import SUITE, Microbenchmark, Prepared, prepare
from budjoule.calibration.notes import WRONG_LOG, missed_log, notes_on
from budjoule.calibration.observation import Observation
from budjoule.calibration.prior import prior_for
from budjoule.calibration.reading import Reading, idle_w, least_disturbed, throttled_in_all
from budjoule.calibration.target import Target, target_for
from budjoule.calibration.this_machine import ASSUMED_LIMIT, ThisMachine
from budjoule.energy.device import DeviceProfile, load_profile
from budjoule.energy.meters.load_model import LoadModel
from budjoule.energy.predict import predict

QUICK_S, FULL_S = 0.4, 4.5  # longest time of one microbenchmark [s]
WARM = 1.2  # time that a microbenchmark takes with its warm-up, over that
LEAST = 0.2  # share of its time that a microbenchmark gets even after slow ones
ROUNDS = 3  # passes over the suite: what disturbs for seconds then spoils one round and not a reading
SPOILT_LOG = float(np.log(2.0))  # error of the held-out steps at which a calibration is worth nothing
NAME = "this-machine"

Progress = Callable[[str, int, int], None]
Read = Callable[[Prepared, float], Reading]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted profile and what it was fitted and checked on.

    Args:
        profile: The new profile.
        prior: The profile it started from, on this machine's datasheet.
        readings: What each microbenchmark took, by its name.
        validation: Rows of the held-out training steps: `name, duration_s, estimated_duration_s, time_error_frac, energy_j,
            estimated_energy_j, energy_error_frac`.
        load_model: The processor's power against its load; None where no counter told it.
        notes: What the reader should know.
    """

    profile: DeviceProfile
    prior: DeviceProfile
    readings: dict[str, Reading]
    validation: list[dict[str, Any]]
    load_model: LoadModel | None = None
    notes: tuple[str, ...]

    @property
    def spoilt(self) -> bool:
        """The held-out steps are off by a factor of two and more, as where others kept the machine busy: no better than none."""
        return missed_log(self.validation) > SPOILT_LOG


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
        progress: Called before each part with its name, how many are done and how many there are.
        read: Takes a microbenchmark and its longest time, and reads it; the default runs it for real.
        suite: The microbenchmarks.
        target: What to calibrate; the default is what the prior is a profile of.
        machine: Datasheet figures; the default looks at this machine.

    Raises:
        UsageError: The prior is a GPU's profile and PyTorch sees no GPU.
    """
    base = load_profile(prior)
    target = target or target_for(base)
    limit_s = max(limit_s or (QUICK_S if quick else FULL_S), target.shortest_s)
    suite = [benchmark for benchmark in suite if target.kind in benchmark.kinds]
    progress("idle", 0, len(suite))
    idle = None if machine else idle_w(limit_s=limit_s, meters=target.meters, domain=target.conditions.domain)
    rounds = ROUNDS if limit_s >= ROUNDS * target.shortest_s else 1
    total = rounds * len(suite) + 3
    progress("tracing", 1, total)
    prepared = {b.name: prepare(b, cores=target.cores, device=target.device) for b in suite}
    took: dict[str, list[Reading]] = {name: [] for name in prepared}
    end_s = time.perf_counter() + WARM * limit_s * len(suite)
    for done, name in enumerate(list(prepared) * rounds):
        progress(name, done + 2, total)
        # what slow steps took too long, the rest makes up for, so that the whole ends in time on a slow machine too
        left_s = (end_s - time.perf_counter()) / WARM / (rounds * len(suite) - done)
        share_s = min(limit_s / rounds, max(left_s, LEAST * limit_s / rounds))
        took[name].append((read or target.read)(prepared[name], share_s))
    readings = {name: least_disturbed(each) for name, each in took.items()}
    observations = {
        name: Observation(workload=prepared[name].workload, duration_s=r.duration_s, energy_j=r.energy_j)
        for name, r in readings.items()
    }
    progress("load", total - 1, total)
    load_model = fit_load(target, limit_s=limit_s)
    progress("fit", total, total)
    machine = machine or target.machine(base.spec, observations, idle)
    fitted = [observations[b.name] for b in suite if not b.held_out]
    unlimited = ASSUMED_LIMIT in machine.assumed
    if unlimited:  # at the top clock, or the fit would explain the times by a limit that nobody has seen
        fitted = [replace(o, clock_hz=machine.spec.clock_hz) for o in fitted]
    profile = fit_profile(fitted, spec=machine.spec, prior=base, name=NAME, title=machine.title)
    if unlimited and not any(o.energy_j for o in fitted):
        profile = _unthrottled(profile, list(observations.values()))
    validation = [_validated(b.name, observations[b.name], profile) for b in suite if b.held_out]
    notes = notes_on(readings, machine, validation, processes=target.processes(), load_known=load_model is not None)
    added = _provenance(target, machine, readings, validation, notes)
    return Calibration(
        profile=replace(_widened(profile, validation), provenance={**profile.provenance, **added}),
        prior=prior_for(profile.spec, base, name=NAME, title=machine.title),
        readings=readings,
        validation=validation,
        load_model=load_model,
        notes=notes,
    )


def _unthrottled(profile: DeviceProfile, observations: Sequence[Observation]) -> DeviceProfile:
    """Raise an assumed power limit until it allows what ran: an invented limit must not slow estimates down."""
    for _ in range(50):  # the limit scales the power of a busy processor, so that it settles in a few passes
        log_time, log_energy = simulate(observations, profile, profile.log_mean[None])
        drawn_w = float(np.exp(log_energy - log_time).max())
        if drawn_w <= profile.spec.power_limit_w:
            break
        profile = replace(profile, spec=replace(profile.spec, power_limit_w=1.001 * drawn_w))
    return profile


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
    """Add the held-out steps' errors to the residuals: an interval must cover what the microbenchmarks do not show.

    A fit that they refute is not called one, however many runs it had.
    """
    if not validation:
        return profile
    time_log = [np.log1p(row["time_error_frac"]) for row in validation]
    energy_log = [np.log1p(row["energy_error_frac"]) for row in validation if row["energy_error_frac"] is not None]
    return replace(
        profile,
        status="few-shot" if profile.status == "fitted" and missed_log(validation) > WRONG_LOG else profile.status,
        residual_time=float(np.hypot(profile.residual_time, np.mean(np.abs(time_log)))),
        residual_energy=float(np.hypot(profile.residual_energy, np.mean(np.abs(energy_log or time_log)))),
    )


def _provenance(
    target: Target,
    machine: ThisMachine,
    readings: Mapping[str, Reading],
    validation: Sequence[Mapping[str, Any]],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    meters = sorted({reading.meter for reading in readings.values() if reading.meter})
    clocks = [reading.clock_hz for reading in readings.values() if reading.clock_hz]
    throttled = throttled_in_all(readings.values())
    errors = {
        key: float(f"{np.mean([abs(row[key]) for row in validation]):.4f}")
        for key in ("time_error_frac", "energy_error_frac")
        if validation and all(row[key] is not None for row in validation)
    }
    return {
        "source": f"microbenchmarks on this machine: {machine.title}",
        "meter": ", ".join(meters) or "none: time only",
        "modes": ["training"],  # the host's times are those of training steps
        "machine": platform.platform(),
        **({"driver": target.board.driver()} if target.board else {"threads": target.cores}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "clock_hz": [min(clocks), max(clocks)] if clocks else [],
        **({} if throttled is None else {"throttled": throttled}),
        "held_out_training_steps": errors,
        "notes": list(notes),
    }
