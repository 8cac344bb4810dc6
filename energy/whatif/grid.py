"""Many clocks at once: a workload's estimates at each of many locked clocks, by the same equations as `predict`.

Time and energy are those of `predict` at every clock. For the interval, each direction of the coefficients' uncertainty is run at a
few clocks and interpolated between them: all at every clock would take fifty times as long as the medians do.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from budjoule.energy.device import DeviceProfile
from budjoule.energy.estimate import Estimate
from budjoule.energy.power_limit import under_power_limit
from budjoule.energy.predict import WIDE, factor, predict, residuals
from budjoule.energy.roofline import Features, Roofline, features
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
    median = Roofline(f, profile, profile.settings[:1])
    clock_hz, cost = under_power_limit(median, wanted_hz, np.full(len(wanted_hz), limit_w), locked=True)
    op_s, op_j = median.op_costs(clock_hz)
    op_s, op_j = (
        op_s * (cost.duration_s / (op_s @ f.calls))[:, None],
        op_j * (cost.energy_j / (op_j @ f.calls))[:, None],
    )
    energy_j, duration_s = op_j[:, f.row_of] * f.row_calls, op_s[:, f.row_of] * f.row_calls
    unruled_frac = op_j @ f.unruled_calls / cost.energy_j
    found = _added(f, profile, wanted_hz, limit_w)
    if found is None:  # the interval has to be bounded, as `predict` does
        return [predict(work, device=profile, clock_hz=clock, power_limit_w=power_limit_w) for clock in clocks_hz]
    added_e, added_t = found
    own_e, own_t = residuals(work, profile)
    factor_e = factor(added_e, own_e, unruled_frac)
    factor_t = factor(added_t, own_t, unruled_frac)
    return [
        replace(
            like,
            energy_j=float(cost.energy_j[i]),
            energy_low_j=float(cost.energy_j[i] / factor_e[i]),
            energy_high_j=float(cost.energy_j[i] * factor_e[i]),
            idle_energy_j=float(cost.idle_energy_j[i]),
            duration_s=float(cost.duration_s[i]),
            duration_low_s=float(cost.duration_s[i] / factor_t[i]),
            duration_high_s=float(cost.duration_s[i] * factor_t[i]),
            clock_hz=float(clock_hz[i]),
            power_limited=bool(clock_hz[i] < wanted_hz[i]),
            unruled_energy_frac=float(unruled_frac[i]),
            row_energy_j=energy_j[i],
            row_duration_s=duration_s[i],
        )
        for i in range(len(wanted_hz))
    ]


def _added(
    f: Features, profile: DeviceProfile, wanted_hz: np.ndarray, limit_w: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """What each direction adds to log energy and log time, `(direction, clock)`; None where the clocks that the limit leaves differ much.

    A locked clock falls where the mean power passes the limit, and power rises with the clock: one solution from the highest
    clock is where each direction stops, whatever the clock asked for.
    """
    roofline = Roofline(f, profile, profile.settings)
    count = len(profile.settings)
    highest_hz, _ = under_power_limit(roofline, np.full(count, wanted_hz.max()), np.full(count, limit_w), locked=True)
    if highest_hz.min() * WIDE < highest_hz[0]:
        return None
    nodes_hz = np.geomspace(min(wanted_hz.min(), highest_hz.min()), highest_hz.max(), NODES)
    found = [roofline.at(np.full(count, node_hz)) for node_hz in nodes_hz]
    clocks = np.log(np.minimum(wanted_hz, highest_hz[:, None]))
    added = []
    for values in ([each.energy_j for each in found], [each.duration_s for each in found]):
        logs = np.log(values).T
        along = np.array([np.interp(at, np.log(nodes_hz), row) for at, row in zip(clocks, logs, strict=True)])
        added.append(along[1:] - along[0])
    return added[0], added[1]
