"""When a device may work: the owner's conditions held against a moment, as a phone's job scheduler does."""

from dataclasses import dataclass

from budjoule.training.config.config import Conditions

HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How a device is just now.

    Args:
        here: It is switched on and can be reached at all.
        charging: It is connected to a charger.
        unmetered: Its link costs nothing by the byte.
        idle: Nobody uses it.
        battery_frac: Charge of its battery; 1 where it has none.
        day_s: Time of its day. [s]
    """

    here: bool = True
    charging: bool = True
    unmetered: bool = True
    idle: bool = True
    battery_frac: float = 1.0
    day_s: float = 0.0


def hold(conditions: Conditions, moment: Moment) -> bool:
    """Whether a device may work at a moment.

    >>> from budjoule.training.config.config import load_config
    >>> night = load_config({"conditions": {"hours": "22-6"}}).conditions
    >>> hold(night, Moment(day_s=23 * HOUR_S)), hold(night, Moment(day_s=12 * HOUR_S))
    (True, False)
    """
    return (
        moment.here
        and moment.charging >= conditions.charging
        and moment.unmetered >= conditions.unmetered
        and moment.idle >= conditions.idle
        and moment.battery_frac >= conditions.battery_frac
        and _within(conditions.hours, moment.day_s)
    )


def _within(hours: tuple[float, float] | None, day_s: float) -> bool:
    if hours is None:
        return True
    begin_s, end_s = (hour * HOUR_S for hour in hours)
    return begin_s <= day_s < end_s if begin_s < end_s else day_s >= begin_s or day_s < end_s
