"""Which few runs should be measured? Those that leave least uncertainty about all the others, before anything is measured."""

from collections.abc import Sequence

import numpy as np

from budjoule.calibration.fit import SCALE_ENERGY, SCALE_POWER, SCALE_TIME, STEP, simulate
from budjoule.calibration.observation import Observation
from budjoule.energy.device import DeviceProfile
from budjoule.energy.errors import UsageError


def choose_runs(candidates: Sequence[Observation], prior: DeviceProfile, count: int) -> list[int]:
    """Choose runs greedily so that the mean posterior variance of log energy over all candidates falls most.

    Only the candidates' workloads, clocks and limits are looked at, never what was measured.

    Args:
        candidates: Runs that could be measured; measured values in them are ignored.
        prior: What is believed of the device before, such as `prior_for` makes it.
        count: How many to choose.

    Returns:
        Indices into `candidates`, the most useful first.

    Raises:
        UsageError: `count` is more than there are candidates.

    Source: greedy A-optimal (here I-optimal) design of experiments, Pukelsheim, Optimal Design of Experiments, 1993.
    """
    if not 0 <= count <= len(candidates):
        raise UsageError(f"cannot choose {count} of {len(candidates)} runs; ask for at most as many as there are")
    x = prior.log_mean
    log_time, log_energy = simulate(candidates, prior, np.vstack([x, x + STEP * np.eye(x.size)]))
    slope_time, slope_energy = ((log[1:] - log[0]).T / STEP for log in (log_time, log_energy))
    seen = np.stack(
        [slope_time / SCALE_TIME, slope_energy / SCALE_ENERGY, (slope_energy - slope_time) / SCALE_POWER], axis=1
    )
    cov = prior.log_cov.copy()
    chosen: list[int] = []
    while len(chosen) < count:
        left = [i for i in range(len(candidates)) if i not in chosen]
        updated = [_after(cov, seen[i]) for i in left]
        best = int(np.argmin([np.einsum("rc,cd,rd->", slope_energy, after, slope_energy) for after in updated]))
        chosen.append(left[best])
        cov = updated[best]
    return chosen


def _after(cov: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Covariance after observing unit-noise readings whose slopes are `rows`: Kalman's update."""
    gain = cov @ rows.T
    result: np.ndarray = cov - gain @ np.linalg.solve(rows @ gain + np.eye(len(rows)), gain.T)
    return result
