"""Adds up one counter that wraps, resets, vanishes and comes late: pure, no clock and no file of its own.

Law: if the true power never passes the domain's limit, the true energy lies between `total_j - over_j` and
`total_j + unsure_j`; and both stay 0 while readings come in time and the counter is neither reset nor gone.
"""

import math
from operator import attrgetter
from typing import NamedTuple

from budjoule.energy.meters.meter import Domain

_MIN_POLL_S, _MAX_POLL_S = 0.005, 60.0
_SLACK_S = 1.0
_SLACK_RANGE_FRAC = 0.25
_LATE_POLLS = 10  # a busy machine delays a poll by some; beyond that what passed between two readings is not known


class Mark(NamedTuple):
    """A counter's books at one instant; the difference of two marks is what a window saw.

    Args:
        total_j: Energy counted. [J]
        unsure_j: Energy that may be missing from `total_j`. [J]
        over_j: Energy in `total_j` that may not have passed. [J]
        steps: Readings that differed from the one before.
        resets: Times the counter fell without a wrap.
        late: Readings so late that what passed before them is not known.
        late_s: Time before those readings. [s]
        gaps: Readings that failed.
        read_s: When it was last read. [s]
    """

    total_j: float
    unsure_j: float
    over_j: float
    steps: int
    resets: int
    late: int
    late_s: float
    gaps: int
    read_s: float


_books = attrgetter(*Mark._fields)


def poll_s(domain: Domain) -> float | None:
    """Longest safe time between two reads of a counter. [s]

    ``range / (2 limit)``: half of the fastest wrap, so that one delayed poll still loses nothing; between 5 ms and 60 s.
    """
    waits = [] if domain.poll_s is None else [domain.poll_s]
    if domain.range_j is not None:
        waits.append(domain.range_j / (2 * domain.limit_w))
    return min(max(min(waits), _MIN_POLL_S), _MAX_POLL_S) if waits else None


class Counter:
    """The running books of one domain. Not thread-safe: its watch holds the lock."""

    __slots__ = ("domain", "last", *Mark._fields)

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.last: float | None = None
        self.read_s = self.late_s = 0.0
        self.total_j = self.unsure_j = self.over_j = 0.0
        self.steps = self.resets = self.late = self.gaps = 0

    def rebase(self, reading: float | None, now_s: float) -> None:
        """Start again from this reading: what passed since the last one belongs to no window."""
        self.last, self.read_s = reading, now_s

    def add(self, reading: float | None, now_s: float) -> None:
        """Book one reading.

        Args:
            reading: Raw joules or watts, by the domain's kind; None if the read failed.
            now_s: When it was read, on a monotonic clock. [s]
        """
        if reading is None:
            self.gaps += 1
            return
        domain, last, elapsed_s = self.domain, self.last, max(0.0, now_s - self.read_s)
        self.last, self.read_s = reading, now_s
        overdue = last is None or elapsed_s > _LATE_POLLS * (domain.poll_s or math.inf)
        passed_j, resets = 0.0, self.resets
        if last is not None:
            self.steps += reading != last
            if domain.kind == "energy":
                passed_j = self._passed_j(last, reading, elapsed_s)
            else:  # a rail that feeds back costs nothing
                passed_j = max(0.0, 0.5 * (last + reading) * elapsed_s)
                self.over_j += passed_j if overdue else 0.0
        rest_j = max(0.0, domain.limit_w * elapsed_s - passed_j)
        reset = self.resets > resets
        wraps_j = 0.0 if reset or domain.range_j is None else domain.range_j * (rest_j // domain.range_j)
        self.total_j += passed_j
        self.unsure_j += rest_j if overdue or reset else wraps_j
        if overdue or wraps_j:
            self.late += 1
            self.late_s += elapsed_s

    def _passed_j(self, last: float, reading: float, elapsed_s: float) -> float:
        """What the counter itself says of the time between two readings. [J]"""
        range_j, most_j = self.domain.range_j, self.domain.limit_w * elapsed_s
        if reading >= last:
            return reading - last
        # A reader may be preempted between the counter and the clock: a second of slack. A reset lands inside it by rare
        # chance only, since real ranges are 65 kJ and more.
        slack_j = self.domain.limit_w * _SLACK_S
        if range_j is not None:
            slack_j = min(slack_j, _SLACK_RANGE_FRAC * range_j)
            if reading <= range_j and reading - last + range_j <= most_j + slack_j:
                return reading - last + range_j
        self.resets += 1
        if reading < 0:  # a store's level: it was charged, or what was counted before was too much
            self.over_j += last - reading
        return min(max(0.0, reading), most_j + slack_j)

    def mark(self) -> Mark:
        """The books as they stand."""
        return Mark._make(_books(self))
