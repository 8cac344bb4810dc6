"""A recorded trace as a meter: each reading is the next row. For tests, and to run a recording through the same books."""

from collections.abc import Sequence

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain


class ReplayMeter:
    """Plays rows of raw readings.

    Args:
        domains: What the columns are.
        rows: One row of raw readings a call, joules or watts by each domain's kind; None for a failed read.
        source: `measured` if the recording was.
        method: The recording in words.

    Raises:
        MeterError: A row does not fit the domains.
    """

    name = "replay"

    def __init__(
        self,
        domains: Sequence[Domain],
        rows: Sequence[Sequence[float | None]],
        *,
        source: str = "measured",
        method: str = "replay of a recorded trace",
    ) -> None:
        for number, row in enumerate(rows):
            if len(row) != len(domains):
                raise MeterError(
                    f"row {number} of the recording has {len(row)} readings; its domains are {len(domains)}"
                )
        if not rows:
            raise MeterError("the recording is empty; give at least one row of readings")
        self.domains = tuple(domains)
        self.notes: tuple[str, ...] = ()
        self.source = source
        self.method = method
        self._rows = [list(row) for row in rows]
        self._next = 0

    def read(self) -> list[float | None]:
        """The next row; the last one for ever once the recording is over."""
        row = self._rows[min(self._next, len(self._rows) - 1)]
        self._next += 1
        return row

    def close(self) -> None:
        """Nothing is open."""
