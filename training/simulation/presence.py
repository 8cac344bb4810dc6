"""When simulated devices are there, and how: charged at night, as a trace says, or always; joining late and leaving for good.

A day is cut into quarters of an hour in which nothing changes but by a trace, so that a client's next change is found by
looking ahead. The run's clock begins at midnight.
"""

import bisect
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.training.clients.conditions import DAY_S, HOUR_S, Moment, hold
from budjoule.training.config.config import Conditions, Config
from budjoule.training.simulation.timeline import Timeline, timelines

STEP_S = 900.0
_USE_FRAC = 0.6  # of a battery that a day off the charger takes, training apart
_CHARGE_S = 2 * HOUR_S  # from empty to full

Habit = Callable[[float], Moment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """When one client may work.

    Args:
        habit: How its device is at a time, training apart; the same all through a quarter of an hour.
        edges_s: When it changes besides, ascending. [s]
        conditions: What its owner asks for.
        joins_s: When it appears. [s]
        leaves_s: When it goes for good. [s]
        horizon_s: Beyond this nobody looks. [s]
        battery_j: What its battery holds; infinite on the mains. [J]
        daily: Whether the quarters of an hour differ.
    """

    habit: Habit
    edges_s: tuple[float, ...]
    conditions: Conditions
    joins_s: float
    leaves_s: float
    horizon_s: float
    battery_j: float
    daily: bool

    def moment(self, time_s: float, drained_j: float = 0.0) -> Moment:
        """How it is at a time.

        Args:
            time_s: When. [s]
            drained_j: What training took from the battery since it was last on its charger. [J]
        """
        usual = self.habit(time_s)
        left = max(0.0, usual.battery_frac - drained_j / self.battery_j)
        return Moment(
            here=usual.here and self.joins_s <= time_s < self.leaves_s and left > 0,
            charging=usual.charging,
            unmetered=usual.unmetered,
            idle=usual.idle,
            battery_frac=left,
            day_s=time_s % DAY_S,
        )

    def may_work(self, time_s: float, drained_j: float = 0.0) -> bool:
        """Whether it is there and its owner's conditions hold."""
        return hold(self.conditions, self.moment(time_s, drained_j))

    def changes_s(self, time_s: float) -> float:
        """When that changes next, training apart; infinity where it does not before the horizon. [s]"""
        return self._next_s(time_s, self.may_work)

    def turns_s(self, time_s: float) -> float:
        """When it may change next for a device whose battery training drains, so when to look: its charger counts too. [s]"""
        return self.changes_s(time_s) if self.battery_j == math.inf else self._next_s(time_s, self._turn)

    def _turn(self, time_s: float) -> tuple[bool, bool, float]:
        usual, works = self.habit(time_s), self.may_work(time_s)
        return works, usual.charging, works * usual.battery_frac

    def _next_s(self, time_s: float, what: Callable[[float], object]) -> float:
        now = what(time_s)
        comes = sorted(edge_s for edge_s in (self.joins_s, self.leaves_s) if edge_s > time_s)
        first = bisect.bisect_right(self.edges_s, time_s)
        rest = (self.edges_s[place] for place in range(first, len(self.edges_s)))
        for edge_s in heapq.merge(comes, rest, self._quarters(time_s)):
            if edge_s > self.horizon_s:
                break
            if what(edge_s) != now:
                return edge_s
        return math.inf

    def _quarters(self, time_s: float) -> Iterator[float]:
        step = int(time_s // STEP_S)
        while self.daily and step * STEP_S <= self.horizon_s:
            step += 1
            yield step * STEP_S


def unmetered(link: str) -> bool:
    """Whether a link costs nothing by the byte: Wi-Fi, and no mobile network."""
    return link.startswith("wifi")


def draw_presences(config: Config, free: Sequence[bool]) -> list[Presence]:
    """The presence of every client of a configuration.

    Args:
        config: The run's configuration.
        free: Whether each client's link costs nothing by the byte.

    Raises:
        UsageError: The availability is unknown or its trace cannot be read.
    """
    fleet, count = config.fleet, config.fleet.clients
    rng = np.random.default_rng([config.seed, 0xF1EE7, 7])
    joins_s = rng.uniform(0, fleet.arrival_s, count)
    stays_s = rng.exponential(1.0, count) * fleet.lifetime_s
    hours = config.conditions.hours is not None
    habits = [_habit(config, client, free[client]) for client in range(count)]
    return [
        Presence(
            habit=habits[client][0],
            edges_s=habits[client][1],
            conditions=config.conditions,
            joins_s=float(joins_s[client]),
            leaves_s=float(joins_s[client] + stays_s[client]),
            horizon_s=config.budget.horizon_s,
            battery_j=fleet.battery_j,
            daily=hours or fleet.availability == "charging-at-night",
        )
        for client in range(count)
    ]


def _habit(config: Config, client: int, unmetered: bool) -> tuple[Habit, tuple[float, ...]]:
    """A client's habit and the edges it has beside the quarters of an hour; clients alike share theirs."""
    kind, _, path = config.fleet.availability.partition(":")
    mains = config.fleet.battery_j == math.inf
    if kind == "trace" and path:
        devices = timelines(path, charging=mains, unmetered=unmetered)
        timeline = devices[client % len(devices)]
        return timeline, _telling(timeline, replace(config.conditions, hours=None), not mains)
    if config.fleet.availability == "always":
        return _always(mains, unmetered), ()
    if config.fleet.availability == "charging-at-night":
        return _Night(config.seed, client, unmetered), ()
    raise UsageError(
        f"unknown fleet.availability {config.fleet.availability!r}; give always, charging-at-night or trace:FILE"
    )


@cache
def _telling(timeline: Timeline, conditions: Conditions, drains: bool) -> tuple[float, ...]:
    """Those edges of a timeline that matter to such conditions, so that nobody looks at the others again and again. [s]"""

    def told(moment: Moment) -> tuple[object, ...]:
        works = moment.battery_frac > 0 and hold(conditions, moment)
        return (works, moment.charging, works * moment.battery_frac) if drains else (works,)

    sides = zip(timeline.edges_s, pairwise(map(told, timeline.moments)), strict=True)
    return tuple(edge_s for edge_s, (before, after) in sides if before != after)


@cache
def _always(charging: bool, unmetered: bool) -> Habit:
    moment = Moment(charging=charging, unmetered=unmetered)
    return lambda _time_s: moment


@dataclass(frozen=True, slots=True)
class _Night:
    """There while it charges at night; in use until half an hour after it was plugged in; every night a little different.

    Plugged in at 22:30 give or take an hour, for 7.5 hours give or take one: devices are eligible mostly at night, and
    several times more of them than by day (Bonawitz et al., Towards federated learning at scale, MLSys 2019,
    arXiv:1902.01046, section 9). The figures are an assumption.
    """

    seed: int
    client: int
    unmetered: bool

    def __call__(self, time_s: float) -> Moment:
        """How it is at a time."""
        time_s = time_s // STEP_S * STEP_S
        today = int(time_s // DAY_S)
        for day in (today - 1, today):
            begin_s, end_s = _plugged(self.seed, self.client, day)
            if begin_s <= time_s < end_s:
                level = min(1.0, 1.0 - _USE_FRAC + (time_s - begin_s) / _CHARGE_S)
                return Moment(unmetered=self.unmetered, idle=time_s >= begin_s + HOUR_S / 2, battery_frac=level)
        begin_s, end_s = _plugged(self.seed, self.client, today - 1)[1], _plugged(self.seed, self.client, today)[0]
        used = _USE_FRAC * min(1.0, max(0.0, (time_s - begin_s) / (end_s - begin_s)))
        return Moment(here=False, charging=False, unmetered=self.unmetered, idle=False, battery_frac=1.0 - used)


@lru_cache(maxsize=4096)
def _plugged(seed: int, client: int, day: int) -> tuple[float, float]:
    """When a device is plugged in on a day, and until when. [s, s]"""
    rng = np.random.default_rng([seed, client, 0xDA1, day + 1])
    begin_s = day * DAY_S + 22.5 * HOUR_S + rng.normal(0, HOUR_S)
    return begin_s, begin_s + max(HOUR_S, 7.5 * HOUR_S + rng.normal(0, HOUR_S))
