"""Which setting to choose: the least energy, the least energy-delay product, or the least energy within a slow-down; and what it saves.

A saving is a ratio of two estimates that share coefficients, so its interval comes from their difference and not from both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from budjoule.energy.device import DeviceProfile
from budjoule.energy.errors import UsageError
from budjoule.energy.power_limit import under_power_limit
from budjoule.energy.predict import HALF_WIDTH_SCALES, UNRULED_SD, predict
from budjoule.energy.roofline import Roofline, features
from budjoule.energy.units import show
from budjoule.energy.whatif.sweep import Point, Sweep
from budjoule.energy.workload import Workload

GOALS = "energy, edp or energy@1.1x-time"
# Two settings share much of the model's own error: this share of its scale is taken for their difference, between clocks or limits
# and between batch sizes. How many measured savings then lie within, tests/benchmarks/regret.py prints, on the training steps measured
# for Zeus (You, Chung, Chowdhury, NSDI 2023): more than 90 % is wanted, as a chosen setting is one that looks best.
OWN_SHARE = {"limit": 0.5, "batch": 1.0}
_WITHIN = re.compile(r"energy@(\d+(?:\.\d+)?)x-time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the chosen setting has least of.

    Args:
        text: As the user wrote it.
        energy_delay: The energy-delay product counts, not the energy.
        slowdown: Time of an example at most, over that of the quickest setting; None for any time.
    """

    text: str
    energy_delay: bool = False
    slowdown: float | None = None

    @property
    def words(self) -> str:
        """The goal for people."""
        if self.slowdown is not None:
            return f"least energy within {self.slowdown:g} times the least time"
        return "least energy x time" if self.energy_delay else "least energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The setting to choose on one device, beside what would run otherwise.

    Args:
        goal: What it has least of.
        point: The setting.
        default: The given batch size at the given clock and limit, else at the device's own.
        saving_frac: Share of the default's energy an example that is saved; negative where more is needed.
        saving_low_frac: Lower end of its central 90 % interval.
        saving_high_frac: Upper end.
    """

    goal: Goal
    point: Point
    default: Point
    saving_frac: float
    saving_low_frac: float
    saving_high_frac: float

    @property
    def slowdown_frac(self) -> float:
        """Time of an example over the default's, less one."""
        return self.point.example_duration_s / self.default.example_duration_s - 1

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain data."""
        return {
            "device": self.point.estimate.device,
            **self.point.to_dict(),
            "saving_frac": self.saving_frac,
            "saving_low_frac": self.saving_low_frac,
            "saving_high_frac": self.saving_high_frac,
            "slowdown_frac": self.slowdown_frac,
            "default": self.default.to_dict(),
        }


def parse_goal(text: str) -> Goal:
    """Read what to choose by.

    Raises:
        UsageError: It is none of `energy`, `edp` and `energy@FACTORx-time`.

    >>> parse_goal("energy@1.1x-time").slowdown
    1.1
    """
    if text in ("energy", "edp"):
        return Goal(text=text, energy_delay=text == "edp")
    match = _WITHIN.fullmatch(text)
    if match is None:
        raise UsageError(f"cannot choose by {text!r}; give {GOALS}")
    if float(match[1]) < 1:
        raise UsageError(f"{text!r} asks for less time than the quickest setting takes; give a factor of at least 1")
    return Goal(text=text, slowdown=float(match[1]))


def split_axes(text: str) -> list[str]:
    """Axes written in one text, apart: a part with `=` begins a new one.

    >>> split_axes("batch=8,16,32,power-limit-w=100..250:25")
    ['batch=8,16,32', 'power-limit-w=100..250:25']
    """
    axes: list[str] = []
    for part in text.split(","):
        if "=" in part or not axes:
            axes.append(part)
        else:
            axes[-1] += f",{part}"
    return axes


def best_of(points: Sequence[Point], goal: Goal, default: Point) -> Point:
    """The setting that a goal names, of equals the quicker; the default where a slow-down is given and no setting keeps within it."""
    if goal.energy_delay:
        return min(points, key=lambda p: p.energy_delay)
    quickest_s = min(p.example_duration_s for p in (*points, default) if p.fits or not default.fits)
    longest_s = quickest_s * (goal.slowdown or float("inf"))
    allowed = [p for p in points if p.example_duration_s <= longest_s * (1 + 1e-9)] or [default]
    return min(allowed, key=lambda p: (p.example_energy_j, p.example_duration_s))


def choose(
    sweep: Sweep,
    goal: Goal,
    profiles: Sequence[DeviceProfile],
    given: Workload,
    *,
    clock_hz: float | None = None,
    power_limit_w: float | None = None,
) -> list[Choice]:
    """The setting to choose on each device of a sweep.

    Args:
        sweep: The settings tried.
        goal: What to have least of.
        profiles: The devices.
        given: What would run otherwise: the step at the batch size that was given.
        clock_hz: The clock that it would run at; None leaves it to the governor. [Hz]
        power_limit_w: The limit that it would run under; None is the device's own. [W]

    Raises:
        UsageError: A device's memory holds none of the settings.
    """
    choices = []
    for profile in profiles:
        if profile.name in sweep.devices:
            estimate = predict(given, device=profile, clock_hz=clock_hz, power_limit_w=power_limit_w)
            default = Point(
                batch=max(1, given.examples),
                wanted_clock_hz=clock_hz,
                power_limit_w=power_limit_w or profile.spec.power_limit_w,
                estimate=estimate,
                fits=given.peak_memory_bytes <= profile.spec.memory_bytes,
            )
            usable = [point for point in sweep.of(profile.name) if point.fits]
            if not usable:
                raise UsageError(
                    f"{profile.name}: its {show(profile.spec.memory_bytes, 'B')} of memory hold none of the settings; "
                    "give smaller batches, or leave the device out"
                )
            choices.append(saving(best_of(usable, goal, default), default, profile, goal))
    return choices


def saving(point: Point, default: Point, profile: DeviceProfile, goal: Goal) -> Choice:
    """What a setting saves, with the interval: the coefficients' part of the difference in log energy, and what of the model's error differs.

    It is no wider than the two estimates' own intervals allow.
    """
    here, there = _log_energies(point, profile), _log_energies(default, profile)
    difference = here - there
    same_batch = point.batch == default.batch
    own = OWN_SHARE["limit" if same_batch else "batch"] * profile.residual_energy
    unruled = UNRULED_SD * max(point.estimate.unruled_energy_frac, default.estimate.unruled_energy_frac)
    scale = np.sqrt(np.sum((difference[1:] - difference[0]) ** 2) + own**2 + unruled**2)
    half = HALF_WIDTH_SCALES * float(scale)
    if _setting(point, profile) == _setting(default, profile):
        half = 0.0  # the same run
    ratio = point.example_energy_j / default.example_energy_j
    widest = default.batch / point.batch  # of ratios of an example's energies
    least = widest * point.estimate.energy_low_j / default.estimate.energy_high_j
    most = widest * point.estimate.energy_high_j / default.estimate.energy_low_j
    return Choice(
        goal=goal,
        point=point,
        default=default,
        saving_frac=1 - ratio,
        saving_low_frac=1 - min(ratio * float(np.exp(half)), most),
        saving_high_frac=1 - max(ratio * float(np.exp(-half)), least),
    )


def _setting(point: Point, profile: DeviceProfile) -> tuple[int, float | None, float]:
    """What was asked for; no limit is the device's own."""
    return point.batch, point.wanted_clock_hz, point.power_limit_w or profile.spec.power_limit_w


def _log_energies(point: Point, profile: DeviceProfile) -> np.ndarray:
    """Log energy with the coefficients at their medians, then a deviation along each direction of their covariance."""
    spec = profile.spec
    count = len(profile.settings)
    _, cost = under_power_limit(
        Roofline(features(point.estimate.work, spec), profile, profile.settings),
        np.full(count, point.wanted_clock_hz or spec.clock_hz),
        np.full(count, point.power_limit_w or spec.power_limit_w),
        locked=point.wanted_clock_hz is not None,
    )
    result: np.ndarray = np.log(cost.energy_j)
    return result
