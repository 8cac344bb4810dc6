"""Keeps a meter's books while windows are open: many windows, nested or in threads, share one watch and one poll thread.

The thread is parked while no window is open, and no window waits for it.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from budjoule.energy.meters.meter import Meter
from budjoule.energy.windows.counter import Counter, Mark, poll_s
from budjoule.energy.windows.together import readings_of


class Stamp(NamedTuple):
    """All counters of a watch at one instant.

    Args:
        at_s: When, on the watch's clock. [s]
        marks: The books of each domain, in the meter's order.
    """

    at_s: float
    marks: tuple[Mark, ...]


class Watch:
    """A meter with its books.

    Args:
        meter: Read at both ends of a window, and in between as often as its counters need.
        clock: A monotonic clock. [s]
        attended: The process's poll thread reads it while a window is open; without it, call `poll` in time.
    """

    def __init__(self, meter: Meter, *, clock: Callable[[], float] = time.perf_counter, attended: bool = True) -> None:
        self.meter = meter
        self.open_windows = 0
        self.poll_s = min((wait for wait in map(poll_s, meter.domains) if wait is not None), default=None)
        self._clock = clock
        self._attended = attended and self.poll_s is not None
        self._counters = [Counter(domain) for domain in meter.domains]
        self._lock = threading.Lock()
        self._retired = False
        _watches.add(self)

    @property
    def readable(self) -> bool:
        """At least one domain that may stand in a total could be read at the last reading."""
        return any(counter.last is not None and counter.domain.counts for counter in self._counters)

    def begin(self) -> Stamp:
        """Open a window. Ended by `end` or `leave`, in any thread and any order."""
        with self._lock:
            readings, now_s = readings_of(self.meter), self._clock()
            for counter, reading in zip(self._counters, readings, strict=True):
                if self.open_windows:
                    counter.add(reading, now_s)
                else:
                    counter.rebase(reading, now_s)
            self.open_windows += 1
            stamp = self._stamp(now_s)
        if self._attended:
            _attendant.call(self)
        return stamp

    def poll(self) -> Stamp:
        """Read the counters now and book them."""
        with self._lock:
            return self._poll()

    def end(self) -> Stamp:
        """Read the counters and close a window."""
        with self._lock:
            stamp = self._poll()
            self._leave()
            return stamp

    def leave(self) -> None:
        """Close a window without a reading."""
        with self._lock:
            self._leave()

    def retire(self) -> None:
        """Close the meter as soon as no window is open on it."""
        with self._lock:
            self._retired = True
            if not self.open_windows:
                self.meter.close()

    def forked(self) -> None:
        """In a child process: another thread may have held the lock when it was copied, and the poll thread stayed behind."""
        self._lock = threading.Lock()
        if self._attended and self.open_windows:
            _attendant.call(self)

    def _leave(self) -> None:
        self.open_windows -= 1
        if self._retired and not self.open_windows:
            self.meter.close()

    def _poll(self) -> Stamp:
        now_s = self._clock()
        for counter, reading in zip(self._counters, readings_of(self.meter), strict=True):
            counter.add(reading, now_s)
        return self._stamp(now_s)

    def _stamp(self, now_s: float) -> Stamp:
        return Stamp(now_s, tuple([counter.mark() for counter in self._counters]))


class Attendant:
    """The one poll thread of a process: sleeps until the next watch is due, parks when no window is open."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due_s: weakref.WeakKeyDictionary[Watch, float] = (
            weakref.WeakKeyDictionary()
        )  # a watch nobody holds needs no poll
        self._until_s = float("inf")
        self._thread: threading.Thread | None = None

    def call(self, watch: Watch) -> None:
        """A window was opened on this watch: poll it until none is open."""
        with self._condition:
            if watch in self._due_s:  # due within one poll interval anyway; not waking the thread keeps a window cheap
                return
            self._due_s[watch] = due_s = time.monotonic() + (watch.poll_s or 0.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="budjoule-meter", daemon=True)
                self._thread.start()
            elif due_s < self._until_s:
                self._condition.notify()

    def forked(self) -> None:
        """In a child process: the thread stayed behind; a watch with an open window, or the next one, starts a new one."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        while True:
            for watch in self._await_due():
                watch.poll()

    def _await_due(self) -> list[Watch]:
        with self._condition:
            while True:
                now_s = time.monotonic()
                due = [watch for watch, due_s in self._due_s.items() if due_s <= now_s]
                for watch in due:
                    if watch.open_windows:
                        self._due_s[watch] = now_s + (watch.poll_s or 0.0)
                    else:
                        del self._due_s[watch]
                if busy := [watch for watch in due if watch.open_windows]:
                    return busy
                self._until_s = min(self._due_s.values(), default=float("inf"))
                self._condition.wait(None if not self._due_s else max(0.0, self._until_s - now_s))


_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()
_attendant = Attendant()


def _after_fork() -> None:
    _attendant.forked()
    for watch in list(_watches):
        watch.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
