"""Many clocks at once: a workload's estimates at each of many locked clocks, by the same equations as `predict`.

Time and energy are those of `predict` at every clock. For the interval, each direction of the coefficients' uncertainty is run at a
few clocks and interpolated between them: all at every clock would take fifty times as long as the medians do.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from budjoule.energy.device import DeviceProfile
from budjoule.energy.estimate import Estimate
from budjoule.energy.predict import HALF_WIDTH_SCALES, UNRULED_SD, predict
from budjoule.energy.roofline import Features, cost, features, under_power_limit
from budjoule.energy.workload import Workload

FEW = 12  # up to so many clocks, each is predicted alone
NODES = 10  # clocks at which the directions are run


def predict_clocks(
    work: Workload, profile: DeviceProfile, clocks_hz: Sequence[float], power_limit_w: float | None = None
) -> list[Estimate]:
    """Estimates at each of many locked clocks.

    Args:
        work: What `trace` returned.
        profile: The device.
        clocks_hz: Clocks within what the device runs at. [Hz]
        power_limit_w: Power limit, instead of the board's own. [W]

    Raises:
        UsageError: A clock or the limit lies outside what the device can do.
    """
    if len(clocks_hz) <= FEW:
        return [predict(work, device=profile, clock_hz=clock, power_limit_w=power_limit_w) for clock in clocks_hz]
    # a low clock, where no limit has to be solved for
    like = predict(work, device=profile, clock_hz=sorted(clocks_hz)[len(clocks_hz) // 4], power_limit_w=power_limit_w)
    f = features(work, profile.spec)
    wanted_hz = np.array(clocks_hz, dtype=float)
    limit_w = profile.spec.power_limit_w if power_limit_w is None else float(power_limit_w)
    clock_hz, log_energy, log_time = _directions(f, profile, wanted_hz, limit_w)

    median = cost(f, profile, np.tile(profile.log_mean, (len(wanted_hz), 1)), clock_hz)
    energy_j = median.op_energy_j[:, f.row_of] * f.row_calls
    energy_j *= (median.energy_j / energy_j.sum(axis=1))[:, None]
    duration_s = median.op_duration_s[:, f.row_of] * f.row_calls
    duration_s *= (median.duration_s / duration_s.sum(axis=1))[:, None]
    unruled_frac = energy_j[:, [not op.ruled for op in work.ops]].sum(axis=1) / median.energy_j
    factor_e = _factor(log_energy, profile.residual_energy, unruled_frac)
    factor_t = _factor(log_time, profile.residual_time, unruled_frac)
    return [
        replace(
            like,
            energy_j=float(median.energy_j[i]),
            energy_low_j=float(median.energy_j[i] / factor_e[i]),
            energy_high_j=float(median.energy_j[i] * factor_e[i]),
            idle_energy_j=float(median.idle_energy_j[i]),
            duration_s=float(median.duration_s[i]),
            duration_low_s=float(median.duration_s[i] / factor_t[i]),
            duration_high_s=float(median.duration_s[i] * factor_t[i]),
            clock_hz=float(clock_hz[i]),
            power_limited=bool(clock_hz[i] < wanted_hz[i]),
            unruled_energy_frac=float(unruled_frac[i]),
            row_energy_j=energy_j[i],
            row_duration_s=duration_s[i],
        )
        for i in range(len(wanted_hz))
    ]


def _directions(
    f: Features, profile: DeviceProfile, wanted_hz: np.ndarray, limit_w: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clock that the median runs at `(clock,)`, and what each direction adds to log energy and log time `(direction, clock)`.

    A locked clock falls where the mean power passes the limit, and power rises with the clock: one solution from the highest
    clock is where each direction stops, whatever the clock asked for.
    """
    settings = np.vstack([profile.log_mean, profile.log_mean + profile.factor.T])

    def limited(rows: np.ndarray, clocks: np.ndarray) -> np.ndarray:
        return under_power_limit(f, profile, rows, clocks, np.full(len(rows), limit_w), locked=True)[0]

    highest_hz = limited(settings, np.full(len(settings), wanted_hz.max()))
    clock_hz = wanted_hz.copy()
    above = wanted_hz > highest_hz[0]
    clock_hz[above] = limited(np.tile(profile.log_mean, (int(above.sum()), 1)), wanted_hz[above])

    nodes_hz = np.geomspace(min(wanted_hz.min(), highest_hz.min()), highest_hz.max(), NODES)
    found = cost(f, profile, np.repeat(settings, NODES, axis=0), np.tile(nodes_hz, len(settings)))
    added = []
    for values in (found.energy_j, found.duration_s):
        logs = np.log(values).reshape(len(settings), NODES)
        along = np.array(
            [
                np.interp(np.log(np.minimum(wanted_hz, stop)), np.log(nodes_hz), row)
                for row, stop in zip(logs, highest_hz, strict=True)
            ]
        )
        added.append(along[1:] - along[0])
    return clock_hz, added[0], added[1]


def _factor(added: np.ndarray, residual: float, unruled_frac: np.ndarray) -> np.ndarray:
    """Upper end over the expected value, with the same scale as in `predict`."""
    scale = np.sqrt(np.sum(added**2, axis=0) + residual**2 + (unruled_frac * UNRULED_SD) ** 2)
    result: np.ndarray = np.exp(HALF_WIDTH_SCALES * scale)
    return result
