"""When simulated devices are there, and how: charged at night, as a trace says, or always; joining late and leaving for good.

A day is cut into quarters of an hour in which nothing changes but by a trace, so that a client's next change is found by
looking ahead. The run's clock begins at midnight.
"""

import csv
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.training.clients.conditions import DAY_S, HOUR_S, Moment, hold
from budjoule.training.config.config import Conditions, Config

STEP_S = 900.0
_USE_FRAC = 0.6  # of a battery that a day off the charger takes, training apart
_CHARGE_S = 2 * HOUR_S  # from empty to full

Habit = Callable[[float], Moment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """When one client may work.

    Args:
        habit: How its device is at a time, training apart; the same all through a quarter of an hour.
        edges_s: When it changes besides. [s]
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
        now = self.may_work(time_s)
        rest = sorted(edge_s for edge_s in (*self.edges_s, self.joins_s, self.leaves_s) if edge_s > time_s)
        for edge_s in heapq.merge(rest, self._quarters(time_s)):
            if edge_s > self.horizon_s:
                break
            if self.may_work(edge_s) != now:
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
    """A client's habit and the edges it has beside the quarters of an hour."""
    kind, _, path = config.fleet.availability.partition(":")
    if kind == "trace" and path:
        return _traced(_read_trace(path), client)
    if config.fleet.availability == "always":
        moment = Moment(charging=config.fleet.battery_j == math.inf, unmetered=unmetered)
        return lambda _time_s: moment, ()
    if config.fleet.availability == "charging-at-night":
        return _night(config.seed, client, unmetered), ()
    raise UsageError(
        f"unknown fleet.availability {config.fleet.availability!r}; give always, charging-at-night or trace:FILE"
    )


def _night(seed: int, client: int, unmetered: bool) -> Habit:
    """There while it charges at night; in use until half an hour after it was plugged in; every night a little different.

    Plugged in at 22:30 give or take an hour, for 7.5 hours give or take one: devices are eligible mostly at night, and
    several times more of them than by day (Bonawitz et al., Towards federated learning at scale, MLSys 2019,
    arXiv:1902.01046, section 9). The figures are an assumption.
    """

    @cache
    def plugged(day: int) -> tuple[float, float]:
        rng = np.random.default_rng([seed, client, 0xDA1, day + 1])
        begin_s = day * DAY_S + 22.5 * HOUR_S + rng.normal(0, HOUR_S)
        return begin_s, begin_s + max(HOUR_S, 7.5 * HOUR_S + rng.normal(0, HOUR_S))

    def habit(time_s: float) -> Moment:
        time_s = time_s // STEP_S * STEP_S
        today = int(time_s // DAY_S)
        for day in (today - 1, today):
            begin_s, end_s = plugged(day)
            if begin_s <= time_s < end_s:
                level = min(1.0, 1.0 - _USE_FRAC + (time_s - begin_s) / _CHARGE_S)
                return Moment(unmetered=unmetered, idle=time_s >= begin_s + HOUR_S / 2, battery_frac=level)
        begin_s, end_s = plugged(today - 1)[1], plugged(today)[0]
        used = _USE_FRAC * min(1.0, max(0.0, (time_s - begin_s) / (end_s - begin_s)))
        return Moment(here=False, charging=False, unmetered=unmetered, idle=False, battery_frac=1.0 - used)

    return habit


@dataclass(frozen=True, slots=True)
class _Spell:
    from_s: float
    to_s: float
    moment: Moment


def _traced(spells: Sequence[Sequence[_Spell]], client: int) -> tuple[Habit, tuple[float, ...]]:
    mine = spells[client % len(spells)]
    away = Moment(here=False, charging=False, unmetered=False, idle=False)

    def habit(time_s: float) -> Moment:
        return next((spell.moment for spell in mine if spell.from_s <= time_s < spell.to_s), away)

    return habit, tuple(edge_s for spell in mine for edge_s in (spell.from_s, spell.to_s))


@cache
def _read_trace(path: str) -> tuple[tuple[_Spell, ...], ...]:
    """Spells by client from columns client, from_s, to_s and, where given, charging, unmetered, idle, battery_frac."""
    by_client: dict[str, list[_Spell]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                says = {key: bool(float(row[key])) for key in ("charging", "unmetered", "idle") if row.get(key)}
                moment = Moment(**says, battery_frac=float(row.get("battery_frac") or 1.0))
                spell = _Spell(float(row["from_s"]), float(row["to_s"]), moment)
                if not 0 <= spell.from_s < spell.to_s:
                    raise ValueError(f"a spell from {spell.from_s:g} to {spell.to_s:g} s")
                by_client.setdefault(row["client"], []).append(spell)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"cannot read the availability trace {path}: {error}; it needs columns client, from_s and to_s"
        ) from None
    if not by_client:
        raise UsageError(f"the availability trace {path} has no row; give client, from_s and to_s")
    return tuple(tuple(spells) for spells in by_client.values())
