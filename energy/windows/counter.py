"""Adds up one counter that wraps, resets, vanishes and comes late: pure, no clock and no file of its own.

Law: if the true power never passes the domain's limit, the true energy lies between `total_j` and
`total_j + unsure_j`; and `unsure_j` stays 0 while readings come in time and the counter is neither reset nor gone.
"""

import math
from typing import NamedTuple

from budjoule.energy.meters.meter import Domain

_MIN_POLL_S, _MAX_POLL_S = 0.005, 60.0
_SLACK_S = 1.0
_SLACK_RANGE_FRAC = 0.25


class Mark(NamedTuple):
    """A counter's books at one instant; the difference of two marks is what a window saw.

    Args:
        total_j: Energy counted. [J]
        unsure_j: Energy that may be missing from `total_j`. [J]
        steps: Readings that differed from the one before.
        resets: Times the counter fell without a wrap.
        late: Readings so late that energy may be missing.
        gaps: Readings that failed.
        read_s: When it was last read. [s]
    """

    total_j: float
    unsure_j: float
    steps: int
    resets: int
    late: int
    gaps: int
    read_s: float


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

    __slots__ = ("domain", "gaps", "last", "late", "read_s", "resets", "steps", "total_j", "unsure_j")

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.last: float | None = None
        self.read_s = 0.0
        self.total_j = self.unsure_j = 0.0
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
        last, elapsed_s = self.last, max(0.0, now_s - self.read_s)
        self.last, self.read_s = reading, now_s
        if last is None:  # it was unreadable at the start: anything up to the limit may have passed
            self.late += 1
            self.unsure_j += self.domain.limit_w * elapsed_s
            return
        if reading != last:
            self.steps += 1
        if self.domain.kind == "power":
            self.total_j += 0.5 * (last + reading) * elapsed_s
        else:
            self.total_j += self._passed_j(last, reading, elapsed_s)

    def _passed_j(self, last: float, reading: float, elapsed_s: float) -> float:
        range_j, most_j = self.domain.range_j, self.domain.limit_w * elapsed_s
        passed_j = reading - last
        if passed_j < 0:
            # A reader may be preempted between the counter and the clock: a second of slack. A reset lands inside it by rare
            # chance only, since real ranges are 65 kJ and more.
            slack_j = self.domain.limit_w * _SLACK_S
            if range_j is not None:
                slack_j = min(slack_j, _SLACK_RANGE_FRAC * range_j)
            if range_j is None or reading > range_j or passed_j + range_j > most_j + slack_j:
                self.resets += 1
                passed_j = min(reading, most_j + slack_j)
                self.unsure_j += max(0.0, most_j - passed_j)
                return passed_j
            passed_j += range_j
        if range_j is not None and most_j - passed_j >= range_j:
            self.late += 1
            self.unsure_j += range_j * math.floor((most_j - passed_j) / range_j)
        return passed_j

    def mark(self) -> Mark:
        """The books as they stand."""
        return Mark._make((self.total_j, self.unsure_j, self.steps, self.resets, self.late, self.gaps, self.read_s))
