"""The fit as a scikit-learn regressor: joules of workloads, cross-validated with everyone else's tools."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from budjoule.calibration.energies import energy_run, fit_energies
from budjoule.calibration.fit import fit_profile
from budjoule.calibration.observation import Observation
from budjoule.energy.errors import UsageError
from budjoule.energy.predict import predict
from budjoule.energy.workload import Workload

if TYPE_CHECKING:
    from budjoule.energy.device import DeviceProfile, DeviceSpec
    from budjoule.energy.estimate import Estimate

ROWS = "a Workload, an Observation, or (workload, clock_hz or None, power_limit_w or None)"
Row = tuple[
    Workload, float | None, float | None, float | None, str
]  # with time and group, where an observation has them


class EnergyEstimator(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Fits a device's coefficients to measured joules, and predicts the joules of other workloads there.

    A row of ``X`` is a `Workload`, an `Observation` (whose clock, limit, time and group are taken), or
    ``(workload, clock_hz or None, power_limit_w or None)``; ``X`` is a list of them or an object array.
    ``score`` is R^2 of joules; where they span decades, ``scoring="neg_mean_absolute_percentage_error"`` says more.

    Args:
        spec: The device's datasheet figures; the default is the prior's.
        prior: A fitted profile, or its name, to start from; None starts from the literature.
        name: Name of the profile that `fit` makes.
        starts: Starting points of the fit, where times are given.
        seed: Of the starting points.

    Attributes:
        profile_: The fitted `DeviceProfile`.
        coef_: Its coefficients' medians by name, in SI units.
    """

    def __init__(
        self,
        *,
        spec: "DeviceSpec | None" = None,
        prior: "str | DeviceProfile | None" = None,
        name: str | None = None,
        starts: int = 1,
        seed: int = 0,
    ) -> None:
        self.spec = spec
        self.prior = prior
        self.name = name
        self.starts = starts
        self.seed = seed

    def fit(
        self,
        X: "Sequence[Any] | np.ndarray",  # noqa: N803
        y: "Sequence[float] | np.ndarray",
        *,
        duration_s: "Sequence[float] | np.ndarray | None" = None,
        groups: "Sequence[Any] | np.ndarray | None" = None,
    ) -> "EnergyEstimator":
        """Fit to measured runs; `cross_val_score` hands times and groups on by its ``params=``.

        Args:
            X: What ran, row by row.
            y: Energy of one step of each. [J]
            duration_s: Time of one step of each; with it the coefficients of time are fitted too. [s]
            groups: Runs that share a group share errors, such as those of one model family.

        Raises:
            UsageError: A row is no workload, lengths differ, an energy is not positive, or there is neither spec nor prior.
        """
        rows = [_row(x) for x in X]
        for name, given in (("y", y), ("duration_s", duration_s), ("groups", groups)):
            if given is not None and np.shape(given) != (len(rows),):
                raise UsageError(f"X has {len(rows)} rows and {name} has shape {np.shape(given)}; give one value a row")
        times = [row[3] for row in rows] if duration_s is None else [float(time) for time in duration_s]
        how: dict[str, Any] = {"spec": self.spec, "prior": self.prior, "name": self.name}
        if any(time is None for time in times):
            runs = [
                energy_run(work, float(energy_j), clock_hz=clock_hz, power_limit_w=limit_w)
                for (work, clock_hz, limit_w, _, _), energy_j in zip(rows, y, strict=True)
            ]
            self.profile_ = fit_energies(runs, **how)
        else:
            observations = [
                Observation(
                    workload=work,
                    duration_s=time or 0.0,
                    energy_j=float(y[i]),
                    clock_hz=clock_hz,
                    power_limit_w=limit_w,
                    group=group if groups is None else str(groups[i]),
                )
                for i, ((work, clock_hz, limit_w, _, group), time) in enumerate(zip(rows, times, strict=True))
            ]
            self.profile_ = fit_profile(observations, **how, starts=self.starts, seed=self.seed)
        self.coef_ = self.profile_.coef_
        return self

    def estimates(self, X: "Sequence[Any] | np.ndarray") -> "list[Estimate]":  # noqa: N803
        """The estimate of each row, with its interval and its parts.

        Raises:
            NotFittedError: `fit` was not called.
        """
        check_is_fitted(self, "profile_")
        return [
            predict(work, device=self.profile_, clock_hz=clock_hz, power_limit_w=limit_w)
            for work, clock_hz, limit_w, _, _ in map(_row, X)
        ]

    def predict(self, X: "Sequence[Any] | np.ndarray") -> np.ndarray:  # noqa: N803
        """Expected energy of one step of each row. `(row,)` [J]

        Raises:
            NotFittedError: `fit` was not called.
        """
        return np.array([estimate.energy_j for estimate in self.estimates(X)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # rows hold workloads, not numbers
        tags.target_tags.positive_only = True
        tags.no_validation = True
        return tags


def _row(x: Any) -> Row:
    if isinstance(x, Observation):
        return x.workload, x.clock_hz, x.power_limit_w, x.duration_s, x.group
    parts: list[Any] = [x] if isinstance(x, Workload) else list(x) if isinstance(x, (tuple, list, np.ndarray)) else []
    if len(parts) == 1 and isinstance(parts[0], Observation):
        return _row(parts[0])
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], Workload):
        raise UsageError(f"a row of X is {type(x).__name__}; give {ROWS}")
    clock_hz, limit_w = [*(None if p is None or math.isnan(p) else float(p) for p in parts[1:]), None, None][:2]
    return parts[0], clock_hz, limit_w, None, ""
