"""How a link varies: a share of its usual rate at any time, and other traffic on it, a function of seed and client alone.

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

_USUAL_S = {"two-state": 60.0, "diurnal": 86400.0, "adversarial": 3600.0}
_KNOWN = "constant, two-state:8, diurnal:8, adversarial:8, busy:10 min or trace:FILE"


class LinkState(Protocol):
    """A link's rate over time."""

    @property
    def lowest_rate_frac(self) -> float:
        """The worst share of the usual rate that can occur; reservations are made for it."""
        ...

    def rate_frac(self, time_s: float) -> float:
        """The share of the usual rate at a time. [s]"""
        ...

    def other_traffic_s(self, time_s: float) -> float:
        """When traffic that is not ours last held the radio awake, up to a time; minus infinity for never. [s]"""
        ...


class Quiet:
    """A link that carries our traffic alone."""

    __slots__ = ()

    def other_traffic_s(self, time_s: float) -> float:
        """Never."""
        return -math.inf


@dataclass(frozen=True, slots=True)
class Constant(Quiet):
    """`constant`: always the usual rate."""

    lowest_rate_frac: float = 1.0

    def rate_frac(self, time_s: float) -> float:
        """Always 1."""
        return 1.0


@dataclass(slots=True)
class TwoState(Quiet):
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
class Diurnal(Quiet):
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
class Adversarial(Quiet):
    """`adversarial:8`: made to mislead whoever learns from the past. Each leg lasts twice as long as the one before.

    On the first leg the rate climbs from an eighth to the usual one, every price the best ever seen; on the second it falls,
    and waiting for prices to come back does not help; and so on. A client's first leg is an hour, give or take a factor of
    the square root of two.
    """

    lowest_rate_frac: float
    leg_s: float

    def rate_frac(self, time_s: float) -> float:
        """Between the lowest share and 1, geometrically along a leg."""
        leg = int(math.log2(time_s / self.leg_s + 1))
        place = (time_s - self.leg_s * (2**leg - 1)) / (self.leg_s * 2**leg)
        fall = place if leg % 2 else 1 - place
        return float(self.lowest_rate_frac ** min(max(fall, 0.0), 1.0))


@dataclass(slots=True)
class Busy:
    """`busy:10 min`: the usual rate, and other traffic at random times, 10 min apart on average, that wakes the radio."""

    mean_gap_s: float
    rng: np.random.Generator
    lowest_rate_frac: float = 1.0
    _times_s: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._times_s = [float(self.rng.exponential(self.mean_gap_s))]

    def rate_frac(self, time_s: float) -> float:
        """Always 1."""
        return 1.0

    def other_traffic_s(self, time_s: float) -> float:
        """The last such time. Times may be asked in any order."""
        while self._times_s[-1] <= time_s:
            self._times_s.append(self._times_s[-1] + float(self.rng.exponential(self.mean_gap_s)))
        passed = bisect.bisect_right(self._times_s, time_s)
        return self._times_s[passed - 1] if passed else -math.inf


@dataclass(frozen=True, slots=True)
class Trace(Quiet):
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
        spec: `constant`, `busy:GAP`, `trace:FILE`, or `two-state`, `diurnal` or `adversarial` with `:FACTOR[:DURATION]`; the
            factor is how far the rate falls, the duration, such as `60 s` or `1 h`, is the mean dwell, the period or the
            first leg.
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
    if kind == "busy" and rest:
        return Busy(_duration_s(spec, rest), rng)
    factor_text, _, duration_text = rest.partition(":")
    try:
        factor = float(factor_text)
    except ValueError:
        factor = math.nan
    if kind not in _USUAL_S or not 1 <= factor < math.inf:
        raise UsageError(f"unknown link state {spec!r}; give {_KNOWN}")
    duration_s = _duration_s(spec, duration_text) if duration_text else _USUAL_S[kind]
    if kind == "two-state":
        return TwoState(1 / factor, duration_s, rng)
    if kind == "diurnal":
        return Diurnal(1 / factor, duration_s, float(rng.random()))
    return Adversarial(1 / factor, duration_s * 2.0 ** float(rng.uniform(-0.5, 0.5)))


def _duration_s(spec: str, text: str) -> float:
    duration_s = seconds(text)
    if not 0 < duration_s < math.inf:
        raise UsageError(f"link state {spec!r} needs a duration above 0")
    return duration_s


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
