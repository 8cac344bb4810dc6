"""From a workload and a device profile to an estimate: the model at the coefficients' medians, and an honest interval around it."""

import math
from typing import TYPE_CHECKING

import numpy as np

from budjoule.energy.coefficients import INDEX, NAMES
from budjoule.energy.device import DeviceProfile, load_profile
from budjoule.energy.errors import UsageError
from budjoule.energy.estimate import Estimate
from budjoule.energy.power_limit import under_power_limit
from budjoule.energy.roofline import Cost, Roofline, features
from budjoule.energy.units import show
from budjoule.energy.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path

# Central 90 % of Student's t with 4 degrees of freedom: residuals of runs on new models have heavier tails than a Gaussian.
HALF_WIDTH_SCALES = 2.132
WIDE = 2.0  # factor of an interval of time from which it is asked whether the clocks that a limit leaves reach so far
TOLERANCE = 1e-6  # of log power under a limit
OTHER_RUNTIME_SD = (
    0.25  # in log time and energy, of a mode that another runtime has to run (assumed: they differ up to twofold)
)
UNRULED_SD = 0.5  # what is not known of an op without a rule, in log energy (assumed)


def predict(
    work: Workload,
    *,
    device: "str | Path | DeviceProfile",
    clock_hz: float | None = None,
    power_limit_w: float | None = None,
) -> Estimate:
    """Predict time and energy of a traced workload on a device, with the central 90 % interval.

    The interval is the coefficients' posterior carried through the model, and the model's own residual:
    ``scale^2 = sum_j (log E(mean + root_j) - log E(mean))^2 + residual^2``, where the columns root_j square to the covariance;
    half-width ``2.13 scale`` in log energy. Under a limit time and energy lie no further than
    at the lowest clock, at the one found and without the limit, each with its own interval.

    Args:
        work: What `trace` returned.
        device: A profile's name, the path of a profile, or a `DeviceProfile`.
        clock_hz: Locked clock of the units; the default leaves it to the governor, up to the top clock. [Hz]
        power_limit_w: Power limit, instead of the board's own, which is the highest: the clock is lowered until the power fits. [W]

    Raises:
        UsageError: The device is unknown, or the clock or limit lies outside what it can do.
    """
    profile = load_profile(device)
    wanted_hz, limit_w = _asked(profile, clock_hz, power_limit_w)
    if not work.ops:
        raise UsageError(f"{work.model} ran no op, so there is nothing to estimate; does its forward use its inputs?")

    f = features(work, profile.spec)
    count = len(profile.settings)
    roofline = Roofline(f, profile, profile.settings)
    clocks, cost = under_power_limit(
        roofline,
        np.full(count, wanted_hz),
        np.full(count, limit_w),
        locked=clock_hz is not None,
        tolerance=TOLERANCE,
    )
    op_s, op_j = Roofline(f, profile, profile.settings[:1]).op_costs(clocks[:1])
    op_s, op_j = op_s * (cost.duration_s[0] / (op_s @ f.calls)), op_j * (cost.energy_j[0] / (op_j @ f.calls))
    unruled_frac = op_j @ f.unruled_calls / cost.energy_j[0]

    energy_j, duration_s = float(cost.energy_j[0]), float(cost.duration_s[0])
    own = residuals(work, profile)
    low, high = _interval(cost, own, unruled_frac)
    if high[1] > WIDE * duration_s and (clocks < wanted_hz).any():
        # directions that each bring the clock down add up as if there were any below the lowest
        ends_hz = (profile.spec.lowest_hz, clocks[0], wanted_hz)
        ends = [_interval(roofline.at(np.full(count, hz)), own, unruled_frac) for hz in ends_hz]
        low = np.maximum(low, np.min([end[0] for end in ends], axis=0))
        high = np.minimum(high, np.max([end[1] for end in ends], axis=0))
    return Estimate(
        work=work,
        device=profile.name,
        status=profile.status,
        energy_j=energy_j,
        energy_low_j=float(low[0]),
        energy_high_j=float(high[0]),
        idle_energy_j=float(cost.idle_energy_j[0]),
        duration_s=duration_s,
        duration_low_s=float(low[1]),
        duration_high_s=float(high[1]),
        clock_hz=float(clocks[0]),
        power_limited=bool(clocks[0] < wanted_hz),
        unruled_energy_frac=float(unruled_frac[0]),
        notes=_notes(work, profile, _added(cost.energy_j), energy_j / duration_s, limit_w),
        row_energy_j=op_j[0, f.row_of] * f.row_calls,
        row_duration_s=op_s[0, f.row_of] * f.row_calls,
    )


def _asked(profile: DeviceProfile, clock_hz: float | None, power_limit_w: float | None) -> tuple[float, float]:
    """Clock and limit that were asked for, or the device's own. [Hz], [W]

    Raises:
        UsageError: The device has no such clock or limit.
    """
    spec = profile.spec
    wanted_hz = spec.clock_hz if clock_hz is None else float(clock_hz)
    if not 0.05 * spec.clock_hz <= wanted_hz <= spec.highest_hz:
        raise UsageError(
            f"clock {wanted_hz / 1e6:g} MHz is outside what {profile.name} runs at (up to {spec.highest_hz / 1e6:g} MHz)"
        )
    limit_w = spec.power_limit_w if power_limit_w is None else float(power_limit_w)
    if not 0.0 < limit_w <= spec.power_limit_w * (1 + 1e-6):
        raise UsageError(
            f"power limit {limit_w:g} W is outside what {profile.name} can be set to (up to {spec.power_limit_w:g} W)"
        )
    return wanted_hz, limit_w


def _added(value: np.ndarray) -> np.ndarray:
    """What each direction of the coefficients' uncertainty adds to the logarithm. `(direction,)`"""
    result: np.ndarray = np.log(value[1:]) - np.log(value[0])
    return result


def _mode_seen(work: Workload, profile: DeviceProfile) -> bool:
    """Whether the profile was fitted on runs in the workload's mode; of one that does not say, it is taken so."""
    return work.mode in profile.provenance.get("modes", (work.mode,))


def residuals(work: Workload, profile: DeviceProfile) -> tuple[float, float]:
    """Scale of the model's own error of log energy and of log time, wider in a mode that the profile's runtime was not run in."""
    beyond = OTHER_RUNTIME_SD if "runtime" in profile.provenance and not _mode_seen(work, profile) else 0.0
    return math.hypot(profile.residual_energy, beyond), math.hypot(profile.residual_time, beyond)


def _interval(cost: Cost, own: tuple[float, float], unruled_frac: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The central 90 % of energy and time, from their values at the medians and along each direction. `(2,)` [J], [s]"""
    middle = np.array([cost.energy_j[0], cost.duration_s[0]])
    each = zip((cost.energy_j, cost.duration_s), own, strict=True)
    wide = np.hstack([factor(_added(value), residual, unruled_frac) for value, residual in each])
    return middle / wide, middle * wide


def factor(added: np.ndarray, residual: float, unruled_frac: np.ndarray) -> np.ndarray:
    """Upper end of the central 90 % over the expected value, which is what the lower end is under it.

    Args:
        added: What each direction of the coefficients' uncertainty adds to the logarithm. `(direction, ...)`
        residual: Scale of the model's own error of the logarithm.
        unruled_frac: Share of the energy that rests on ops without a rule.
    """
    scale = np.sqrt(np.sum(added**2, axis=0) + residual**2 + (unruled_frac * UNRULED_SD) ** 2)
    result: np.ndarray = np.exp(HALF_WIDTH_SCALES * scale)
    return result


def _notes(
    work: Workload, profile: DeviceProfile, added: np.ndarray, power_w: float, limit_w: float
) -> tuple[str, ...]:
    notes = list(work.notes)
    if work.unruled:
        most = sorted(work.unruled, key=lambda name: -work.unruled[name])[:5]
        notes.append(f"no rule for {', '.join(most)}: counted as element-wise from tensor sizes")
    if power_w > 1.02 * limit_w:
        notes.append(f"the lowest clock still draws {power_w:.0f} W, more than the limit of {limit_w:.0f} W")
    if work.peak_memory_bytes > profile.spec.memory_bytes:
        needed, there = show(work.peak_memory_bytes, "B"), show(profile.spec.memory_bytes, "B")
        notes.append(
            f"the step's tensors need {needed}, more than the {there} of {profile.name}: it would not run there"
        )
    if runtime := profile.provenance.get("runtime"):
        notes.append(f"{profile.name} speaks for {runtime}")
    if (unit := work.precision.removesuffix("-mixed")) not in profile.spec.flop_per_clock:
        notes.append(f"{profile.name} has no unit for {unit}: its products were taken at the rate of fp32")
    if not _mode_seen(work, profile):
        fitted = profile.name if profile.has_runs else f"what {profile.name} was derived from"
        modes = " and ".join(profile.provenance["modes"])
        notes.append(f"{fitted} was fitted on {modes} runs; {work.mode} is outside what it has seen")
    if profile.status == "forecast" and "pooled_with" in profile.provenance:
        notes.append(
            f"{profile.name} is what fitted devices have in common: no run on the device that you have is in it"
        )
    elif not profile.has_runs:
        notes.append(f"{profile.name} is a {profile.status} profile: no run on this device stands behind it")
    elif profile.status in ("literature", "forecast"):
        notes.append(f"no run on {profile.name} had its joules measured: its time is fitted, its energy is a forecast")
    elif unpinned := _unpinned(profile, added):
        notes.append(f"no run pinned {', '.join(unpinned)}, which this workload leans on: the interval is wider for it")
    return tuple(notes)


def _unpinned(profile: DeviceProfile, added: np.ndarray) -> list[str]:
    """Coefficients that no run exercised and that matter here: a posterior sd of each moves log energy by over 3 %."""
    # the least gradient that adds this along the directions, which are orthogonal
    gradient = profile.factor @ (added / np.sum(profile.factor**2, axis=0))
    moved = np.abs(gradient) * np.sqrt(np.diag(profile.log_cov))
    return [name for name in NAMES if moved[INDEX[name]] > 0.03 and name not in profile.exercised]
