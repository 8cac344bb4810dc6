"""A recording as a meter: one that plays row after row, for tests, and one that plays a file in its own time."""

import csv
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain

RECORDING = "BUDJOULE_REPLAY"
_TOTAL = "recording"
# A recording keeps no intervals: those of the worst counter (RAPL's memory, 20 %) and of the widest estimate (a factor of 5).
_ERRORS_FRAC = {"measured": (0.2, 0.2), "estimated": (0.8, 4.0)}


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


class RecordedMeter:
    """Plays what `budjoule measure --csv` wrote, in its own time from when it is opened: a demonstration without a counter.

    Open it with `open_replay`. Its total is the recording's; the recording's domains are shown.

    Args:
        path: Where the recording came from.
        rows: Its rows, a column each.
        clock: A monotonic clock. [s]
    """

    name = "replay"
    notes = ("replayed: not what this machine drew",)

    def __init__(self, path: Path, rows: Sequence[Mapping[str, str]], *, clock: Callable[[], float]) -> None:
        domains = [name.removesuffix("_j") for name in rows[0] if name.endswith("_j")]
        shown = [name for name in domains if name not in ("energy", "total")]
        self.source = rows[0]["source"]
        low_frac, high_frac = _ERRORS_FRAC[self.source]
        self.method = f"replay of {path}"
        self.domains = (
            Domain(name=_TOTAL, error_low_frac=low_frac, error_high_frac=high_frac),
            *(Domain(name=name, parent=_TOTAL, counts=False) for name in shown),
        )
        self._times_s = [0.0, *(float(row["elapsed_s"]) for row in rows)]
        self._energies_j = [
            _added(rows, "energy_j"),
            *(_added(rows, f"{name}_j") for name in shown),
        ]
        self._clock = clock
        self._begin_s = clock()

    def read(self) -> list[float | None]:
        """Joules since the recording's beginning, straight between its rows and still after its end. [J]"""
        now_s = min(self._clock() - self._begin_s, self._times_s[-1])
        after = min(bisect_right(self._times_s, now_s), len(self._times_s) - 1)
        from_s, to_s = self._times_s[after - 1], self._times_s[after]
        share = (now_s - from_s) / (to_s - from_s) if to_s > from_s else 1.0
        return [sums[after - 1] + share * (sums[after] - sums[after - 1]) for sums in self._energies_j]

    def close(self) -> None:
        """Nothing is open."""


def open_replay(path: Path | None = None, *, clock: Callable[[], float] = time.perf_counter) -> RecordedMeter:
    """Open a recording.

    Args:
        path: A file of `budjoule measure --csv`; default `BUDJOULE_REPLAY`.
        clock: A monotonic clock. [s]

    Raises:
        MeterError: There is none, or it is no such file.
    """
    named = path or os.environ.get(RECORDING)
    if not named:
        raise MeterError(f"there is no recording; set {RECORDING} to a file of 'budjoule measure --csv'")
    try:
        with Path(named).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("it has no rows")
        return RecordedMeter(Path(named), rows, clock=clock)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MeterError(f"cannot replay {named}: {error}; give a file of 'budjoule measure --csv'") from None


def _added(rows: Sequence[Mapping[str, str]], column: str) -> list[float]:
    """Running sums of a column, from 0; a field that is empty adds nothing."""
    sums = [0.0]
    for row in rows:
        sums.append(sums[-1] + float(row[column] or 0.0))
    return sums
