"""Where no counter exists: an estimate of the processor's energy from its load, labelled as an estimate, wide where unknown.

``P(u) = idle + (busy - idle) (2 u - u^1.4)`` with load u: Fan, Weber, Barroso, Power provisioning for a warehouse-sized
computer, ISCA 2007, doi:10.1145/1250662.1250665. idle and busy come from this machine's calibration, else from its thermal
design power, else from its number of cores.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.rapl import thermal_design_power_w

_EXPONENT = 1.4
_SPAN_S = 0.1
_POLL_S = 1.0

# Typical package power over many machines: full load is 0.5 to 1.2 of the thermal design power, idle 0.05 to 0.3 of it.
_BUSY_PER_TDP, _IDLE_PER_TDP, _TDP_FACTOR = 0.75, 0.12, 3.0
# Published thermal design powers are 1.5 W (boards) to 24 W (overclocked desktops) for each physical core.
_BUSY_PER_CORE_W, _IDLE_PER_CORE_W, _CORE_FACTOR = 6.0, 1.2, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadModel:
    """Package power against load.

    Args:
        idle_w: Power at no load. [W]
        busy_w: Power with every core busy. [W]
        factor: The true energy lies within this factor either way (central 90 %).
        basis: Where the figures come from, in words.
        exponent: Curvature: 1.4 is Fan et al.'s, 1 a straight line.
    """

    idle_w: float
    busy_w: float
    factor: float
    basis: str
    exponent: float = _EXPONENT

    def __post_init__(self) -> None:
        if not 0 < self.idle_w <= self.busy_w or self.factor < 1:
            raise MeterError(
                f"a load model needs 0 < idle <= busy and a factor of at least 1, not {self.idle_w} W, {self.busy_w} W, {self.factor}"
            )

    def power_w(self, load_frac: float) -> float:
        """Package power at a load. [W]"""
        load_frac = min(max(load_frac, 0.0), 1.0)
        shape = 2 * load_frac - load_frac**self.exponent
        return float(self.idle_w + (self.busy_w - self.idle_w) * shape)


def model_from_tdp(tdp_w: float) -> LoadModel:
    """A load model for a processor of which only the thermal design power is known: good within a factor of 3."""
    return LoadModel(
        idle_w=_IDLE_PER_TDP * tdp_w,
        busy_w=_BUSY_PER_TDP * tdp_w,
        factor=_TDP_FACTOR,
        basis=f"a thermal design power of {tdp_w:g} W",
    )


def model_from_cores(cores: int) -> LoadModel:
    """A load model for a processor of which only the number of cores is known: good within a factor of 5."""
    return LoadModel(
        idle_w=_IDLE_PER_CORE_W * cores,
        busy_w=_BUSY_PER_CORE_W * cores,
        factor=_CORE_FACTOR,
        basis=f"{cores} cores of typical power, which is a guess",
    )


def this_machine(root: Path | None = None) -> LoadModel:
    """The best load model known for this machine."""
    tdp_w = thermal_design_power_w(root)
    return model_from_tdp(tdp_w) if tdp_w else model_from_cores(_cores())


def _cores() -> int:
    import psutil

    return int(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)


def energy_unseen_j(model: LoadModel, duration_s: float) -> tuple[float, float, float]:
    """Energy of a window of which nothing is known but its length: value, lower and upper end of the interval. [J]"""
    middle_w = (model.idle_w * model.busy_w) ** 0.5
    return middle_w * duration_s, model.idle_w / model.factor * duration_s, model.busy_w * model.factor * duration_s


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
                poll_s=_POLL_S,
                error_low_frac=1 - 1 / model.factor,
                error_high_frac=model.factor - 1,
            ),
        )
        self._processor = processor or Processor()
        self._clock = clock
        self._energy_j = 0.0
        self._others_frac = 0.0
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
        self._energy_j += self.model.power_w(load_frac) * elapsed_s
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
        self._long_s, self._long_own_s, self._busy_s, self._total_s = now_s, own_s, busy_s, total_s
        return load_frac


def open_load(root: Path | None = None) -> LoadMeter:
    """The load estimate for this machine."""
    return LoadMeter(this_machine(root))
