"""What a power limit does: the clock falls until the power fits that the governor sees."""

from collections.abc import Callable

import numpy as np

from budjoule.energy.roofline import PARTS, TINY, Cost, Roofline

LIMIT_SHARPNESS = 3.0
ONSET = 0.4  # r from which a limit is felt
WINDOW_S = 0.1  # over which a governor looks at the power
TOLERANCE = 1e-10  # of log power
MOST_STEPS = 20
# The waves of a step's harmonics: cosines, then sines. `(part, wave)`
_HARMONICS = np.tile(np.arange(1, PARTS // 2 + 1), 2)
_PHASES = 2 * np.pi * np.outer(np.arange(PARTS), _HARMONICS[: PARTS // 2]) / PARTS
_BLUNTED_S2 = (2 * np.pi * WINDOW_S * _HARMONICS) ** 2
_ALL = np.ones((PARTS, 1))
_WAVES = np.hstack([np.cos(_PHASES), np.sin(_PHASES)]) * (2**0.5 / PARTS)


def under_power_limit(
    roofline: Roofline,
    clock_hz: np.ndarray,
    limit_w: np.ndarray,
    *,
    locked: bool = False,
    tolerance: float = TOLERANCE,
) -> tuple[np.ndarray, Cost]:
    """Lower each setting's clock until its power fits the limit, and give the clock and the cost there.

    What a GPU's governor holds under the limit is ``P``: the mean power and how it swings within the step (`held`). It does so
    softly. What counts is how far the free power lies above that at the lowest clock, below which no governor comes:
    ``P = P_low + (P_free - P_low) (1 + max(0, r^s - 0.4^s))^(-1/s)``, ``r = (P_free - P_low) / (P_limit - P_low)``, s = 3,
    chosen, like the governor's window, on the runs that the GPUs' profiles rest on.
    ResNet-50 on a V100 that draws 222 W free is measured at 207, 185 and 144 W under limits of 225, 200 and 150 W (data of Zeus, NSDI 2023).

    Args:
        roofline: The workload on a device, its coefficients filled in.
        clock_hz: Clock of each setting without the limit. `(setting,)` [Hz]
        limit_w: Board power limit of each setting. `(setting,)` [W]
        locked: The clock was set and not left to a GPU's governor: it falls only where the mean power passes the limit.
        tolerance: How near the logarithm of the power has to come; a fit's derivatives need the default.

    Returns:
        Clock of each setting, at least the spec's lowest, `(setting,)` [Hz]; and the cost at that clock.
    """
    spec = roofline.profile.spec
    hard = locked or spec.kind == "cpu"
    seen = _mean if hard else held
    top_w, at_top = seen(roofline, clock_hz)
    if not (top_w > (1.0 if hard else ONSET) * limit_w).any():
        return clock_hz, at_top
    lowest_hz = np.minimum(clock_hz, spec.lowest_hz)
    low_w, _ = seen(roofline, lowest_hz)
    target_w = np.minimum(top_w, limit_w) if hard else _soft_w(top_w, low_w, limit_w)
    over = target_w < (1 - tolerance) * top_w
    if not over.any():
        return clock_hz, at_top

    # power is close to a power law of V^2 f: in logarithms of these the root is nearly on the line between the ends
    log_hz, log_drive = roofline.profile.drive_curve

    def clock_of(drive: np.ndarray) -> np.ndarray:
        there_hz: np.ndarray = np.exp(np.interp(drive, log_drive, log_hz))
        return there_hz

    costs = [at_top]

    def excess(drive: np.ndarray) -> np.ndarray:
        power_w, costs[0] = seen(roofline, clock_of(drive))
        beyond: np.ndarray = np.log(power_w / target_w)
        return beyond

    low, high = (np.interp(np.log(end_hz), log_hz, log_drive) for end_hz in (lowest_hz, clock_hz))
    solved_hz = clock_of(_root(excess, low, high, np.log(low_w / target_w), np.log(top_w / target_w), tolerance))
    if over.all():
        return solved_hz, costs[0]  # the root is where it was looked for last
    clock_hz = np.where(over, solved_hz, clock_hz)
    return clock_hz, roofline.at(clock_hz)


def _soft_w(top_w: np.ndarray, low_w: np.ndarray, limit_w: np.ndarray) -> np.ndarray:
    """Mean power that is left under a limit, without a jump anywhere: a fit cannot follow one. [W]"""
    span, room = top_w - low_w, limit_w - low_w
    ratio = np.maximum(span, 0) / np.where(room > 0, room, 1.0)
    felt = np.maximum(ratio**LIMIT_SHARPNESS - ONSET**LIMIT_SHARPNESS, 0)
    left_w: np.ndarray = low_w + span * (1 + felt) ** (-1 / LIMIT_SHARPNESS)
    return np.where(room > 0, left_w, np.minimum(limit_w, top_w))


def held(roofline: Roofline, clock_hz: np.ndarray) -> tuple[np.ndarray, Cost]:
    """Power that a GPU's governor holds under the limit: the mean, and the root mean square of the swings that its window lets through.

    It looks at the power of a span of time, here 0.1 s: ops that take turns within it even out, as a transformer's do, while
    the wide layers of a convolutional net's long step and its narrow ones do not, and hold the mean down.
    On an A40 under 200 W ResNet-50 is measured at 191 W with steps of 37 ms and at 175 W with steps of 1.8 s (data of Zeus, NSDI 2023).
    The window is a low pass of the first order, ``1 / (1 + (2 pi WINDOW_S k / t)^2)`` of the power of the step's k-th harmonic.

    Returns:
        The power at a clock for each setting `(setting,)` [W], and the cost there.
    """
    cost, part_s, part_j = roofline.parts_at(clock_hz)
    device_s, device_j = np.maximum(part_s @ _ALL, TINY), part_j @ _ALL
    swing_w = part_j / np.maximum(part_s, TINY) - device_j / device_s
    # parts that take longer at this clock than at the top one count for more
    waves_w = (swing_w * np.sqrt(part_s * (PARTS / device_s))) @ _WAVES
    passed_squared_w = waves_w * waves_w / (1 + _BLUNTED_S2 / (device_s * device_s))
    root_mean_square_w = np.sqrt(passed_squared_w @ _ALL)[:, 0]
    return cost.energy_j / cost.duration_s + root_mean_square_w, cost


def _mean(roofline: Roofline, clock_hz: np.ndarray) -> tuple[np.ndarray, Cost]:
    cost = roofline.at(clock_hz)
    return cost.energy_j / cost.duration_s, cost


def _root(
    excess: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    at_low: np.ndarray,
    at_high: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    """Where a rising function passes zero between `low` and `high`, or `low` where it is above zero there already.

    Source: regula falsi as modified by Anderson and Bjorck, BIT 13, 1973, doi:10.1007/BF01951936.
    """
    stuck = at_low >= 0
    middle, value = high, at_high
    side = np.zeros_like(low)
    for _ in range(MOST_STEPS):
        width = np.where(at_high > at_low, at_high - at_low, 1.0)
        middle = np.where(stuck, low, low - at_low * (high - low) / width)
        value = excess(middle)
        if np.all(stuck | (np.abs(value) < tolerance)):
            break
        above = value > 0
        at_low = np.where(above & (side > 0), _drawn_in(at_low, value, at_high), at_low)
        at_high = np.where(~above & (side < 0), _drawn_in(at_high, value, at_low), at_high)
        low, at_low = np.where(above | stuck, low, middle), np.where(above, at_low, value)
        high, at_high = np.where(above & ~stuck, middle, high), np.where(above, value, at_high)
        side = np.where(above, 1.0, -1.0)
    return middle


def _drawn_in(stayed: np.ndarray, value: np.ndarray, replaced: np.ndarray) -> np.ndarray:
    """What an end that stays a second time counts for: less, by how far the other end has come towards zero."""
    left = 1 - value / np.where(replaced == 0, 1.0, replaced)
    result: np.ndarray = stayed * np.where(left > 0, left, 0.5)
    return result
