"""How a link's rate varies: a share of its usual rate at any time, a function of the seed and the client alone.

Nothing is drawn while a run goes on, so a state needs no checkpoint: the same specification gives the same path.
"""

import bisect
import csv
import math
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.energy.units import seconds

DWELL_S = 60.0
DAY_S = 86400.0


class LinkState(Protocol):
    """A link's rate over time."""

    @property
    def lowest_rate_frac(self) -> float:
        """The worst share of the usual rate that can occur; reservations are made for it."""
        ...

    def rate_frac(self, time_s: float) -> float:
        """The share of the usual rate at a time. [s]"""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """`constant`: always the usual rate."""

    lowest_rate_frac: float = 1.0

    def rate_frac(self, time_s: float) -> float:
        """Always 1."""
        return 1.0


@dataclass(slots=True)
class TwoState:
    """`two-state:8`: a Markov chain between the usual rate and an eighth of it, dwelling 60 s on average in each."""

    lowest_rate_frac: float
    dwell_s: float
    rng: np.random.Generator
    _starts_bad: bool = field(init=False)
    _switches_s: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._starts_bad = bool(self.rng.random() < 0.5)
        self._switches_s = [float(self.rng.exponential(self.dwell_s))]

    def rate_frac(self, time_s: float) -> float:
        """1 or the lowest share. Times may be asked in any order."""
        while self._switches_s[-1] <= time_s:
            self._switches_s.append(self._switches_s[-1] + float(self.rng.exponential(self.dwell_s)))
        passed = bisect.bisect_right(self._switches_s, time_s)
        return self.lowest_rate_frac if (passed % 2 == 1) != self._starts_bad else 1.0


@dataclass(frozen=True, slots=True)
class Diurnal:
    """`diurnal:8`: a slow swing between the usual rate and an eighth of it, once a day, each client in its own phase.

    ``rate_frac = lowest^((1 - cos(2 pi (t / period + phase))) / 2)``
    """

    lowest_rate_frac: float
    period_s: float
    phase: float

    def rate_frac(self, time_s: float) -> float:
        """Between the lowest share and 1."""
        swing = (1 - math.cos(2 * math.pi * (time_s / self.period_s + self.phase))) / 2
        return float(self.lowest_rate_frac**swing)


@dataclass(frozen=True, slots=True)
class Trace:
    """`trace:FILE`: rows of time and share from a CSV file, each holding until the next, over and over; random start."""

    times_s: tuple[float, ...]
    shares: tuple[float, ...]
    period_s: float
    offset_s: float

    @property
    def lowest_rate_frac(self) -> float:
        """The smallest share in the file."""
        return min(self.shares)

    def rate_frac(self, time_s: float) -> float:
        """The row that holds at that time."""
        place = (time_s + self.offset_s) % self.period_s
        return self.shares[max(0, bisect.bisect_right(self.times_s, place) - 1)]


def parse_link_state(spec: str, *, seed: int, client: int) -> LinkState:
    """A link state from its specification.

    Args:
        spec: `constant`, `two-state:FACTOR[:DWELL]`, `diurnal:FACTOR[:PERIOD]` or `trace:FILE`; the factor is how far
            the rate falls, dwell and period are durations such as `60 s` and `1 h`.
        seed: The run's seed.
        client: Number of the client; each has a path of its own.

    Raises:
        UsageError: The specification is unknown, out of range, or the file cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if spec == "constant":
        return Constant()
    rng = np.random.default_rng([seed, client, 0x11A7E])
    if kind == "trace" and rest:
        times_s, shares = _read_trace(rest)
        period_s = times_s[-1] + (times_s[-1] - times_s[-2] if len(times_s) > 1 else 1.0)
        return Trace(times_s, shares, period_s, float(rng.uniform(0, period_s)))
    factor_text, _, duration_text = rest.partition(":")
    try:
        factor = float(factor_text)
    except ValueError:
        factor = math.nan
    if kind not in ("two-state", "diurnal") or not 1 <= factor < math.inf:
        raise UsageError(f"unknown link state {spec!r}; give constant, two-state:8, diurnal:8 or trace:FILE")
    duration_s = seconds(duration_text) if duration_text else {"two-state": DWELL_S, "diurnal": DAY_S}[kind]
    if not duration_s > 0:
        raise UsageError(f"link state {spec!r} needs a duration above 0")
    if kind == "two-state":
        return TwoState(1 / factor, duration_s, rng)
    return Diurnal(1 / factor, duration_s, float(rng.random()))


@cache
def _read_trace(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = [(float(row["time_s"]), float(row["rate_frac"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"cannot read the link trace {path}: {error}; it needs columns time_s and rate_frac") from None
    times_s = tuple(time_s for time_s, _ in rows)
    shares = tuple(share for _, share in rows)
    ascending = all(a < b for a, b in pairwise(times_s))
    if not rows or times_s[0] != 0 or not ascending or not all(0 < share < math.inf for share in shares):
        raise UsageError(f"the link trace {path} needs times that rise from 0 and shares above 0")
    return times_s, shares
