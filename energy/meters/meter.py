"""What a meter is: named domains, and a reading of each. Everything else (wraps, intervals, totals) is done around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

LIMIT_W = 1000.0
"""No package, board rail or GPU draws more: a counter that would imply more has been reset. [W]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One thing a meter covers, and how far its readings can be trusted.

    Args:
        name: Its name in results: `package-0`, `dram-0`, `gpu-1`.
        parent: The domain that contains it, so that a total adds each joule once.
        counts: It may stand in a total; a domain that does not is shown only.
        checked_by: It is believed only in a window where it moved at least as much as these domains together.
        kind: Readings are cumulative joules (`energy`) or watts to be integrated (`power`).
        range_j: Where the counter wraps to zero; None if it never does. [J]
        limit_w: More power than this is a fault of the counter. [W]
        unit_j: Smallest change the counter can show. [J]
        update_s: Time between two updates of the counter; a reading is at most this old. [s]
        poll_s: Longest time between two reads that loses nothing, beside the rule for wraps; None if there is no such time. [s]
        sampled_frac: The share of each update's time that the sensor looks at.
        error_low_frac: The true value is at least `1 - error_low_frac` of the reading (central 90 %).
        error_high_frac: The true value is at most `1 + error_high_frac` of the reading (central 90 %).
    """

    name: str
    parent: str | None = None
    counts: bool = True
    checked_by: tuple[str, ...] = ()
    kind: Literal["energy", "power"] = "energy"
    range_j: float | None = None
    limit_w: float = LIMIT_W
    unit_j: float = 0.0
    update_s: float = 0.0
    poll_s: float | None = None
    sampled_frac: float = 1.0
    error_low_frac: float = 0.0
    error_high_frac: float = 0.0

    def __post_init__(self) -> None:
        if self.range_j is not None and not self.range_j > 0:
            raise ValueError(f"domain {self.name}: a counter cannot wrap at {self.range_j} J")
        if not self.limit_w > 0:
            raise ValueError(f"domain {self.name}: the power limit must be positive, not {self.limit_w} W")
        if not 0 < self.sampled_frac <= 1:
            raise ValueError(f"domain {self.name}: a sensor cannot look at {self.sampled_frac} of the time")
        if not 0 <= self.error_low_frac <= 1 or self.error_high_frac < 0:
            raise ValueError(f"domain {self.name}: errors must be fractions of the reading")


class Meter(Protocol):
    """Reads the domains of one kind of counter. A new meter is one file with such a class, and one row in `METERS`.

    Attributes:
        name: The row's name.
        source: `measured` or `estimated`, as `Measurement.source`.
        method: The meter in words, and what it covers.
        domains: What it covers; fixed once opened.
        notes: What the reader of a result should know, such as domains that could not be opened.
    """

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def domains(self) -> Sequence[Domain]: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def read(self) -> Sequence[float | None]:
        """One raw reading a domain, in joules or watts by its `kind`; None where it cannot be read now."""
        ...

    def close(self) -> None:
        """Give the descriptors back."""
        ...
