"""What a trace says of when devices are there: a CSV of spells, read once, and each device's moments from edge to edge."""

import bisect
import csv
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from budjoule.energy.errors import UsageError
from budjoule.training.clients.conditions import Moment

_AWAY = Moment(here=False, charging=False, unmetered=False, idle=False)
_FACTS = ("charging", "unmetered", "idle")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """How a device is at any time; it changes at the edges alone. Equal only to itself, since it may be long.

    Args:
        edges_s: When it changes, ascending. [s]
        moments: How it is before the first edge, and from each edge on.
    """

    edges_s: tuple[float, ...]
    moments: tuple[Moment, ...]

    def __call__(self, time_s: float) -> Moment:
        """How it is at a time."""
        return self.moments[bisect.bisect_right(self.edges_s, time_s)]


@cache
def timelines(path: str, *, charging: bool, unmetered: bool) -> tuple[Timeline, ...]:
    """The trace's devices, in the file's order.

    Args:
        path: A CSV file with the columns client, from_s, to_s and, where known, charging, unmetered, idle, battery_frac.
        charging: Whether a device is on a charger where the trace does not say.
        unmetered: Whether its link costs nothing by the byte where the trace does not say.

    Raises:
        UsageError: The file cannot be read, or says nothing.
    """
    usual = {"charging": charging, "unmetered": unmetered}
    by_client: dict[str, list[_Spell]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                says = {key: _yes(row[key]) for key in _FACTS if row.get(key)}
                moment = Moment(**{**usual, **says}, battery_frac=float(row.get("battery_frac") or 1.0))
                spell = _Spell(float(row["from_s"]), float(row["to_s"]), moment)
                if not 0 <= spell.from_s < spell.to_s:
                    raise ValueError(f"a spell from {spell.from_s:g} to {spell.to_s:g} s")
                if not 0 <= moment.battery_frac <= 1:
                    raise ValueError(f"a battery_frac of {moment.battery_frac:g}")
                by_client.setdefault(row["client"], []).append(spell)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"cannot read the availability trace {path}: {error}; it needs columns client, from_s and to_s, and may have "
            "battery_frac from 0 to 1, and charging, unmetered and idle as 1 or 0, true or false"
        ) from None
    if not by_client:
        raise UsageError(f"the availability trace {path} has no row; give client, from_s and to_s")
    return tuple(_timeline(spells) for spells in by_client.values())


def _yes(text: str) -> bool:
    said = {"true": True, "yes": True, "false": False, "no": False}.get(text.strip().lower())
    return bool(float(text)) if said is None else said


@dataclass(frozen=True, slots=True)
class _Spell:
    from_s: float
    to_s: float
    moment: Moment


def _timeline(spells: Sequence[_Spell]) -> Timeline:
    """Spells laid end to end; where some overlap, the first in the file holds."""
    coming = sorted(range(len(spells)), key=lambda place: spells[place].from_s, reverse=True)
    edges_s: list[float] = []
    moments, under_way = [_AWAY], list[int]()
    for edge_s in sorted({edge_s for spell in spells for edge_s in (spell.from_s, spell.to_s)}):
        while coming and spells[coming[-1]].from_s <= edge_s:
            heapq.heappush(under_way, coming.pop())
        while under_way and spells[under_way[0]].to_s <= edge_s:
            heapq.heappop(under_way)
        moment = spells[under_way[0]].moment if under_way else _AWAY
        if moment != moments[-1]:
            edges_s.append(edge_s)
            moments.append(moment)
    return Timeline(edges_s=tuple(edges_s), moments=tuple(moments))
