"""The fit where joules were read and no time: maximum a posteriori as in `fit_profile`, by the residuals of log energy alone.

What energy says of time comes through idle power and power limits; the rest of time's coefficients stays at the prior.
"""

import datetime
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from budjoule.calibration.fit import FITTED_RUNS, PINNED, RESIDUAL_RUNS, SCALE_ENERGY, STEP, simulate
from budjoule.calibration.observation import Observation
from budjoule.calibration.prior import prior_for
from budjoule.energy.coefficients import NAMES
from budjoule.energy.device import DeviceProfile, DeviceSpec, load_profile
from budjoule.energy.errors import UsageError
from budjoule.energy.workload import Workload

UNREAD_S = 1.0  # an observation has a time; nothing here reads it


def energy_run(
    workload: Workload, energy_j: float, *, clock_hz: float | None = None, power_limit_w: float | None = None
) -> Observation:
    """A run for `fit_energies`, of which no time is known."""
    return Observation(
        workload=workload, duration_s=UNREAD_S, energy_j=energy_j, clock_hz=clock_hz, power_limit_w=power_limit_w
    )


def fit_energies(
    runs: Sequence[Observation],
    *,
    spec: DeviceSpec | None = None,
    prior: "str | DeviceProfile | None" = None,
    name: str | None = None,
) -> DeviceProfile:
    """Fit a device's coefficients to joules; the runs' times are not looked at.

    Args:
        runs: What ran and its energy, as `energy_run` makes them.
        spec: The device's datasheet figures; the default is the prior's.
        prior: A fitted profile, or its name, to start from; None starts from the literature.
        name: The new profile's name; the default is the prior's.

    Raises:
        UsageError: There are no runs, or neither a spec nor a prior.
    """
    if not runs:
        raise UsageError("fit_energies needs at least one run")
    base = load_profile(prior) if prior is not None else None
    if base is None and spec is None:
        raise UsageError("a fit needs spec= (the device's datasheet figures) or prior= (a similar profile)")
    start = prior_for(spec, base, name=name)
    seen = np.log([run.energy_j or np.nan for run in runs])
    root = np.linalg.cholesky(start.log_cov + 1e-12 * np.eye(len(NAMES)))

    def scaled(settings: np.ndarray) -> np.ndarray:
        z = (simulate(runs, start, settings)[1] - seen) / SCALE_ENERGY
        soft: np.ndarray = z * np.sqrt(2 / (np.sqrt(1 + z**2) + 1))  # its square is twice the soft L1 loss
        return soft

    def residuals(u: np.ndarray) -> np.ndarray:
        return np.concatenate([scaled((start.log_mean + root @ u)[None])[0], u])

    def jacobian(u: np.ndarray) -> np.ndarray:
        here = start.log_mean + root @ u
        values = scaled(np.vstack([here, here + STEP * root.T]))
        return np.vstack([((values[1:] - values[0]) / STEP).T, np.eye(len(u))])

    found = least_squares(residuals, np.zeros(len(NAMES)), jac=jacobian, max_nfev=60)
    j = jacobian(found.x)
    mean, cov = start.log_mean + root @ found.x, root @ np.linalg.inv(j.T @ j) @ root.T
    return _profile(start, base, mean, cov, simulate(runs, start, mean[None])[1][0] - seen)


def _profile(
    start: DeviceProfile, base: DeviceProfile | None, mean: np.ndarray, cov: np.ndarray, off: np.ndarray
) -> DeviceProfile:
    robust = 1.4826 * float(np.median(np.abs(off)))
    known = RESIDUAL_RUNS * (base or start).residual_energy ** 2
    sd, before = np.sqrt(np.diag(cov)), np.sqrt(np.diag(start.log_cov))
    pinned = {n for i, n in enumerate(NAMES) if sd[i] < PINNED * before[i]} | set(base.exercised if base else ())
    return replace(
        start,
        status="fitted" if off.size >= FITTED_RUNS else "few-shot",
        log_mean=mean,
        log_cov=cov,
        residual_energy=float(np.sqrt((known + off.size * robust**2) / (RESIDUAL_RUNS + off.size))),
        exercised=tuple(n for n in NAMES if n in pinned),
        provenance={
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "prior": base.name if base is not None else "literature",
            "in_sample": {"runs": off.size, "energy_error_frac": float(f"{np.mean(np.abs(np.expm1(off))):.4f}")},
            "times": "none: fitted to energies alone",
        },
    )
