"""Where no counter exists: an estimate of the processor's energy from its load, labelled as an estimate, wide where unknown."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from budjoule.energy.meters.load_model import LoadModel, this_machine
from budjoule.energy.meters.meter import Domain

_SPAN_S = 0.1
_POLL_S = 1.0


class Processor:
    """What the load estimate reads: busy time of the machine and of this process."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self.threads = int(psutil.cpu_count() or 1)

    def busy_s(self) -> tuple[float, float]:
        """Seconds that all threads of the machine were busy, and were counted at all, since boot. [s]"""
        times = self._psutil.cpu_times()
        # Guest time is contained in user and nice; stolen time ran on someone else's account.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle_s = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
        return total_s - idle_s, total_s

    def stolen_s(self) -> float:
        """Seconds that a shared host has taken from this machine's threads for other guests, since boot. [s]"""
        return float(getattr(self._psutil.cpu_times(), "steal", 0.0))

    def clock_hz(self) -> float | None:
        """Mean clock of the processor now; None where it does not tell. [Hz]"""
        clock = self._psutil.cpu_freq()
        return clock.current * 1e6 if clock is not None and clock.current else None

    def own_s(self) -> float:
        """Processor seconds of this process and of its children that have ended. [s]"""
        own_s = time.process_time()
        try:
            import resource
        except ImportError:  # not on Windows
            return own_s
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return own_s + children.ru_utime + children.ru_stime


class LoadMeter:
    """Integrates `LoadModel` over the load. Open it with `open_load`.

    The system's busy time has a step of 10 ms, so that spans below 0.1 s are judged by this process's own processor time
    (which has none) on top of what the rest of the machine did in the last long span.

    Args:
        model: Power against load.
        processor: Busy times.
        clock: A monotonic clock. [s]
    """

    name = "load"
    source = "estimated"
    notes: tuple[str, ...] = ()

    def __init__(
        self, model: LoadModel, *, processor: Processor | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model = model
        self.method = (
            f"processor load and {model.basis}: all processes of the machine, processor package only, no counter"
        )
        self.domains = (
            Domain(
                name="package",
                limit_w=model.power_w(1.0) * model.factor,
                poll_s=_POLL_S,
                error_low_frac=1 - 1 / model.factor,
                error_high_frac=model.factor - 1,
            ),
        )
        self._processor = processor or Processor()
        self._clock = clock
        self._energy_j = 0.0
        self._others_frac = 0.0
        self._clock_hz: float | None = None
        self._read_s = self._long_s = clock()
        self._own_s = self._long_own_s = self._processor.own_s()
        self._busy_s, self._total_s = self._processor.busy_s()

    def read(self) -> Sequence[float]:
        """Estimated joules since the meter was opened. [J]"""
        now_s, own_s = self._clock(), self._processor.own_s()
        elapsed_s = now_s - self._read_s
        if elapsed_s <= 0:
            return (self._energy_j,)
        load_frac = self._own_frac(own_s - self._own_s, elapsed_s) + self._others_frac
        if now_s - self._long_s >= _SPAN_S:
            load_frac = self._system_frac(now_s, own_s, load_frac)
        self._energy_j += self.model.power_w(load_frac, self._clock_hz) * elapsed_s
        self._read_s, self._own_s = now_s, own_s
        return (self._energy_j,)

    def close(self) -> None:
        """Nothing is open."""

    def _own_frac(self, own_s: float, elapsed_s: float) -> float:
        return min(1.0, own_s / (elapsed_s * self._processor.threads))

    def _system_frac(self, now_s: float, own_s: float, fallback_frac: float) -> float:
        busy_s, total_s = self._processor.busy_s()
        counted_s = total_s - self._total_s
        if counted_s <= 0:
            return fallback_frac
        load_frac = min(1.0, max(0.0, (busy_s - self._busy_s) / counted_s))
        own_frac = self._own_frac(own_s - self._long_own_s, now_s - self._long_s)
        self._others_frac = max(0.0, load_frac - own_frac)
        if self.model.clock_w:
            self._clock_hz = self._processor.clock_hz()
        self._long_s, self._long_own_s, self._busy_s, self._total_s = now_s, own_s, busy_s, total_s
        return load_frac


def open_load(root: Path | None = None) -> LoadMeter:
    """The load estimate for this machine."""
    return LoadMeter(this_machine(root))
