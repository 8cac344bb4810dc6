"""The `Measurement` noun: what one window cost by a meter, with its interval, its domains and where it comes from."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch.profiler import profile

    from budjoule.energy.estimate import Estimate

SCHEMA = "budjoule.measurement/1"
SOURCES = ("measured", "estimated")


class Idle(NamedTuple):
    """What the machine draws at rest.

    Args:
        power_w: Mean power. [W]
        low_w: Lower end of the central 90 % interval. [W]
        high_w: Upper end of the central 90 % interval. [W]
        summed: The domains it is the power of; empty where it was given as a number.
    """

    power_w: float
    low_w: float
    high_w: float
    summed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The energy of one window, read from counters or, where none exists, estimated and labelled so.

    Args:
        energy_j: Energy of the window, each joule counted once. [J]
        energy_low_j: Lower end of the central 90 % interval. [J]
        energy_high_j: Upper end of the central 90 % interval. [J]
        duration_s: Length of the window on the monotonic clock. [s]
        domains: Energy of every domain seen, those inside another one included. [J]
        summed: The domains that add up to `energy_j`.
        source: `measured` by a counter or `estimated` by a model.
        method: The meter, in words, and what it covers.
        counter_step_j: The step of the counters summed, by which a reading may lie behind at either end of the window; None
            where there is no counter. [J]
        label: The window's name.
        begin_unix_s: When the window opened, on the wall clock; None if nobody looked. [s]
        idle: What the machine draws at rest, to tell what the window added to it; None if nobody measured that.
        notes: What the reader should know: faults seen, domains left out, how to get a better number.
    """

    energy_j: float
    energy_low_j: float
    energy_high_j: float
    duration_s: float
    domains: dict[str, float]
    summed: tuple[str, ...] = field(default=())
    source: str
    method: str
    counter_step_j: float | None = None
    label: str = ""
    begin_unix_s: float | None = None
    idle: Idle | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {SOURCES}, not {self.source!r}")
        if not (math.isfinite(self.energy_high_j) and 0 <= self.energy_low_j <= self.energy_j <= self.energy_high_j):
            raise ValueError(
                f"the interval {self.energy_low_j} to {self.energy_high_j} J does not hold {self.energy_j} J"
            )
        if not 0 <= self.duration_s < math.inf:
            raise ValueError(f"a window cannot last {self.duration_s} s")

    @property
    def power_w(self) -> float:
        """Mean power of the window; 0 for a window without length. [W]"""
        return self.energy_j / self.duration_s if self.duration_s else 0.0

    @property
    def net_energy_j(self) -> float | None:
        """What the window cost above idle, `max(E - P_idle t, 0)`; None where the idle power is not known. [J]"""
        return None if self.idle is None else max(0.0, self.energy_j - self.idle.power_w * self.duration_s)

    @property
    def net_energy_low_j(self) -> float | None:
        """Lower end of the net energy's interval: the least energy over the most idle power. [J]"""
        return None if self.idle is None else max(0.0, self.energy_low_j - self.idle.high_w * self.duration_s)

    @property
    def net_energy_high_j(self) -> float | None:
        """Upper end of the net energy's interval: the most energy over the least idle power. [J]"""
        return None if self.idle is None else max(0.0, self.energy_high_j - self.idle.low_w * self.duration_s)

    def split(
        self, estimate: "Estimate", *, by: str = "module", profiler: "profile | None" = None
    ) -> list[dict[str, Any]]:
        """What each module (or op) of a model cost: this total in an estimate's shares, see `budjoule.energy.split`."""
        from budjoule.energy.split import split

        return split(self, estimate, by=by, profiler=profiler)

    def to_dict(self) -> dict[str, Any]:
        """The measurement as plain data, ready for JSON."""
        return {
            "schema": SCHEMA,
            "label": self.label,
            "begin_unix_s": self.begin_unix_s,
            "energy_j": self.energy_j,
            "energy_low_j": self.energy_low_j,
            "energy_high_j": self.energy_high_j,
            "duration_s": self.duration_s,
            "power_w": self.power_w,
            "idle_w": None if self.idle is None else self.idle.power_w,
            "net_energy_j": self.net_energy_j,
            "net_energy_low_j": self.net_energy_low_j,
            "net_energy_high_j": self.net_energy_high_j,
            "domains": dict(self.domains),
            "summed": list(self.summed),
            "source": self.source,
            "method": self.method,
            "counter_step_j": self.counter_step_j,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """One line for people, with unit, interval and source.

        >>> print(Measurement(energy_j=12.0, energy_low_j=11, energy_high_j=13.5, duration_s=2, domains={"package-0": 12.0},
        ...                   summed=("package-0",), source="measured", method="RAPL"))
        12.0 J (11.0 J to 13.5 J) in 2.00 s, 6.00 W; measured: RAPL
        """
        from budjoule.energy.units import show  # a window that nobody prints need not compile its patterns

        interval = f"{show(self.energy_low_j, 'J')} to {show(self.energy_high_j, 'J')}"
        mean = f"in {show(self.duration_s, 's')}, {show(self.power_w, 'W')}"
        return f"{show(self.energy_j, 'J')} ({interval}) {mean}; {self.source}: {self.method}"
