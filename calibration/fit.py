"""From observations and a prior to a `DeviceProfile`: maximum a posteriori in log space, with the posterior's covariance.

``minimise  sum rho(z) + 1/2 (x - mu)' S^-1 (x - mu)``,  rho the soft L1 loss,
``z = (log t - log t_seen) / .07,  (log E - log E_seen) / .07,  (log P - log P_seen) / .1``
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import least_squares

from budjoule.calibration.observation import Observation
from budjoule.calibration.prior import prior_for
from budjoule.energy.coefficients import COEFFICIENTS, INDEX, NAMES
from budjoule.energy.device import DeviceProfile, DeviceSpec, load_profile
from budjoule.energy.errors import UsageError
from budjoule.energy.power_limit import under_power_limit
from budjoule.energy.predict import HALF_WIDTH_SCALES
from budjoule.energy.roofline import Cost, Roofline, features

SCALE_TIME = 0.07
SCALE_ENERGY = 0.07
SCALE_POWER = 0.1
STEP = 1e-4  # of a logarithm, for the Jacobian
RESIDUAL_RUNS = 8.0  # runs that the prior's residual counts for, against those observed
GROUP_RUNS = 8.0  # runs that one group counts for at most, such as a model over many batch sizes and power limits
PRIOR_RESIDUAL = 0.1  # the model's own error before any run has shown it (assumed)
FITTED_RUNS = 20  # runs with energy from which a profile counts as fitted, and not few-shot
PINNED = 0.7  # a coefficient is exercised when its posterior sd is below this share of the prior's

Group = tuple[Sequence[Observation], DeviceProfile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A maximum of the posterior: its place, covariance and the residuals of the runs there."""

    log_mean: np.ndarray
    log_cov: np.ndarray
    objective: float
    log_time: np.ndarray
    log_energy: np.ndarray


def fit_profile(
    observations: Sequence[Observation],
    *,
    spec: DeviceSpec | None = None,
    prior: "str | DeviceProfile | None" = None,
    name: str | None = None,
    title: str | None = None,
    idle_power_w: Sequence[tuple[float, float]] | None = None,
    voltage: Sequence[tuple[float, float]] | None = None,
    starts: int = 3,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
) -> DeviceProfile:
    """Fit a device's coefficients to measured runs; few runs are enough when a similar device serves as prior.

    Args:
        observations: Measured runs, at least one.
        spec: The device's datasheet figures; the default is the prior's (the same device again).
        prior: A fitted profile, or its name, to start from; None starts from the literature.
        name: The new profile's name; the default is the prior's.
        title: Its name for people.
        idle_power_w: Idle power against clock, where it was read: `(clock_hz, power_w)` pairs.
        voltage: Core voltage over its lowest value against clock: `(clock_hz, ratio)` pairs.
        starts: Starting points; the posterior can have several maxima, the best is kept.
        seed: Of the starting points.
        provenance: What to record about meter, machine and runs, beside date and errors.

    Raises:
        UsageError: There are no observations, or neither a spec nor a prior.

    Source: maximum a posteriori with Laplace's approximation, MacKay, Information Theory, Inference and Learning Algorithms, 2003, chapter 27.
    """
    if not observations:
        raise UsageError("fit_profile needs at least one observation; measure a run, or load a shipped profile instead")
    base = load_profile(prior) if prior is not None else None
    if base is None and spec is None:
        raise UsageError("fit_profile needs spec= (the device's datasheet figures) or prior= (a similar profile)")
    start = prior_for(spec, base, name=name, title=title, idle_power_w=idle_power_w, voltage=voltage)
    return posterior(best_fit(observations, start, starts=starts, seed=seed), start, base, provenance or {})


def posterior(
    fit: Fit, start: DeviceProfile, base: DeviceProfile | None, provenance: Mapping[str, Any]
) -> DeviceProfile:
    """The profile that a fit makes of its prior: coefficients, residuals, what was exercised, and the errors on its own runs."""
    sd, before = np.sqrt(np.diag(fit.log_cov)), np.sqrt(np.diag(start.log_cov))
    energies = fit.log_energy[np.isfinite(fit.log_energy)]
    runs = fit.log_time.size
    errors = {"runs": runs, "time_error_frac": float(f"{np.mean(np.abs(np.expm1(fit.log_time))):.4f}")}
    if energies.size:
        errors["energy_error_frac"] = float(f"{np.mean(np.abs(np.expm1(energies))):.4f}")
    return replace(
        start,
        status="fitted" if energies.size >= FITTED_RUNS else "few-shot" if energies.size else start.status,
        log_mean=fit.log_mean,
        log_cov=fit.log_cov,
        residual_time=_residual(fit.log_time, base.residual_time if base else PRIOR_RESIDUAL),
        residual_energy=_residual(energies, base.residual_energy if base else PRIOR_RESIDUAL),
        exercised=tuple(
            n for n in NAMES if sd[INDEX[n]] < PINNED * before[INDEX[n]] or (base is not None and n in base.exercised)
        ),
        provenance={
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "prior": base.name if base is not None else "literature",
            "in_sample": errors,
            **provenance,
        },
    )


def covering(profile: DeviceProfile, unseen: np.ndarray) -> DeviceProfile:
    """Widen a profile's residuals so that 90 % of runs on models that its fit had not seen lie within.

    Args:
        profile: What was fitted on everything.
        unseen: Relative errors of energy and time by fits that had not seen the run's model, in the first two columns. `(run, 2 or more)`

    Source: the quantile of left-out residuals as in split conformal prediction, Lei et al., JASA 2018, arXiv 1604.04173.
    """
    energy, time = np.quantile(np.abs(np.log1p(unseen[:, :2])), 0.9, axis=0) / HALF_WIDTH_SCALES
    return replace(
        profile,
        residual_energy=max(profile.residual_energy, float(energy)),
        residual_time=max(profile.residual_time, float(time)),
    )


def _residual(residuals: np.ndarray, prior: float) -> float:
    """Scale of the model's own error: robust over the runs, shrunk towards the prior's when they are few."""
    if residuals.size == 0:
        return prior
    robust = 1.4826 * float(np.median(np.abs(residuals)))
    return float(np.sqrt((RESIDUAL_RUNS * prior**2 + residuals.size * robust**2) / (RESIDUAL_RUNS + residuals.size)))


def fit_pooled(
    runs: Mapping[str, Sequence[Observation]],
    starts_from: Mapping[str, DeviceProfile],
    *,
    starts: int = 1,
    seed: int = 0,
) -> dict[str, Fit]:
    """Fit several similar devices at once: what one device's runs leave open, the others' settle.

    ``x_device = mu + delta_device``, ``mu ~ N(literature, sd)``, ``delta ~ N(0, device_sd)``: a multilevel model, as in Gelman and Hill, 2007.

    Args:
        runs: Observations of each device.
        starts_from: The prior of each device, as `prior_for` makes it; its mean is the prior mean, shifts between devices included.
        starts: Starting points.
        seed: Of the starting points.
    """
    names = list(runs)
    count = len(NAMES)
    shared = np.diag([row.sd**2 for row in COEFFICIENTS])
    own = np.diag([row.device_sd**2 for row in COEFFICIENTS])
    cov = np.kron(np.ones((len(names), len(names))), shared) + np.kron(np.eye(len(names)), own)
    groups = [(runs[name], starts_from[name]) for name in names]
    mean = np.concatenate([starts_from[name].log_mean for name in names])
    best = _best(groups, mean, cov, starts=starts, seed=seed)
    return {name: _part(best, i, count, groups[i]) for i, name in enumerate(names)}


def best_fit(observations: Sequence[Observation], start: DeviceProfile, *, starts: int = 3, seed: int = 0) -> Fit:
    """The best of several maxima of one device's posterior."""
    group = (observations, start)
    return _part(_best([group], start.log_mean, start.log_cov, starts=starts, seed=seed), 0, len(NAMES), group)


def _part(best: tuple[np.ndarray, np.ndarray, float], i: int, count: int, group: "Group") -> Fit:
    observations, profile = group
    place = slice(i * count, (i + 1) * count)
    x = best[0][place]
    log_time, log_energy = simulate(observations, profile, x[None])
    seen = _seen(observations)
    return Fit(
        log_mean=x,
        log_cov=best[1][place, place],
        objective=best[2],
        log_time=log_time[0] - seen[0],
        log_energy=log_energy[0] - seen[1],
    )


def _best(
    groups: "list[Group]", mean: np.ndarray, cov: np.ndarray, *, starts: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Place, covariance and objective of the best maximum of the joint posterior of several devices."""
    random = np.random.default_rng(seed)
    root = np.linalg.cholesky(cov + 1e-12 * np.eye(mean.size))
    points = [mean] + [mean + 0.7 * root @ random.standard_normal(mean.size) for _ in range(starts - 1)]
    return min((_maximum(groups, mean, root, point) for point in points), key=lambda best: best[2])


def _maximum(
    groups: "list[Group]", mean: np.ndarray, root: np.ndarray, point: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """A maximum found in ``u = root^-1 (x - mean)``, where the prior is a unit ball: the steps are well scaled whatever the units."""
    seen = [_seen(observations) for observations, _ in groups]
    weights = [_weights(observations) for observations, _ in groups]
    count = len(NAMES)

    def residuals(u: np.ndarray) -> np.ndarray:
        x = mean + root @ u
        parts = [
            _soft(_scaled(simulate(o, profile, x[None, i * count : (i + 1) * count]), seen[i]))[0] * weights[i]
            for i, (o, profile) in enumerate(groups)
        ]
        return np.concatenate([*parts, u])

    def jacobian(u: np.ndarray) -> np.ndarray:
        x = mean + root @ u
        blocks = []
        for i, (o, profile) in enumerate(groups):
            part = slice(i * count, (i + 1) * count)
            here = x[part]
            data = (
                _soft(_scaled(simulate(o, profile, np.vstack([here, here + STEP * np.eye(count)])), seen[i]))
                * weights[i]
            )
            blocks.append(((data[1:] - data[0]) / STEP).T @ root[part])
        return np.vstack([*blocks, np.eye(u.size)])

    start = solve_triangular(root, point - mean, lower=True)
    found = least_squares(residuals, start, jac=jacobian, method="trf", max_nfev=60)
    j = jacobian(found.x)
    return mean + root @ found.x, root @ np.linalg.inv(j.T @ j) @ root.T, float(found.cost)


def _seen(observations: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray]:
    time = np.log([o.duration_s for o in observations])
    energy = np.array([np.log(o.energy_j) if o.energy_j is not None else np.nan for o in observations])
    return time, energy


def simulate(
    observations: Sequence[Observation], profile: DeviceProfile, settings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log time and log energy of each run under each setting of coefficients. `(setting, run)`"""
    log_time = np.empty((len(settings), len(observations)))
    log_energy = np.empty_like(log_time)
    for i, o in enumerate(observations):
        result = _cost(o, profile, settings)
        log_time[:, i] = np.log(result.duration_s)
        log_energy[:, i] = np.log(result.energy_j)
    return log_time, log_energy


def _cost(o: Observation, profile: DeviceProfile, settings: np.ndarray) -> Cost:
    roofline = Roofline(features(o.workload, profile.spec), profile, settings)
    clock = np.full(len(settings), o.clock_hz or profile.spec.clock_hz)
    if o.power_limit_w is None and (o.clock_hz is not None or o.energy_j is None):
        # the clock was read while the run was under any limit; and a time alone says nothing of power
        return roofline.at(clock)
    limit = np.full(len(settings), o.power_limit_w or profile.spec.power_limit_w)
    return under_power_limit(roofline, clock, limit, locked=o.clock_hz is not None)[1]


def _scaled(simulated: tuple[np.ndarray, np.ndarray], seen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    time = simulated[0] - seen[0]
    energy = simulated[1] - seen[1]
    has_energy = np.isfinite(seen[1])
    return np.hstack(
        [time / SCALE_TIME, energy[:, has_energy] / SCALE_ENERGY, (energy - time)[:, has_energy] / SCALE_POWER]
    )


def _weights(observations: Sequence[Observation]) -> np.ndarray:
    """Root of each residual's weight: runs of one group share errors, so that a group counts for `GROUP_RUNS` runs at most."""
    sizes = Counter(o.group for o in observations)
    root = np.array([min(1.0, GROUP_RUNS / sizes[o.group]) if o.group else 1.0 for o in observations]) ** 0.5
    has_energy = np.array([o.energy_j is not None for o in observations], dtype=bool)
    result: np.ndarray = np.concatenate([root, root[has_energy], root[has_energy]])
    return result


def _soft(z: np.ndarray) -> np.ndarray:
    """The root of twice the soft L1 loss, so that a plain sum of squares is the robust one: ``z'^2 / 2 = sqrt(1 + z^2) - 1``."""
    size = np.abs(z)
    # 2 (sqrt(1 + z^2) - 1) = 2 z^2 / (sqrt(1 + z^2) + 1), which keeps its digits near zero
    result: np.ndarray = np.sign(z) * size * np.sqrt(2 / (np.sqrt(1 + z**2) + 1))
    return result
