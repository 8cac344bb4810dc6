"""Power while a window runs: reads it every so often in a thread and hands on what each interval cost."""

import csv
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from budjoule.energy.errors import RunError, UsageError
from budjoule.energy.measurement import Measurement

_SHORTEST_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One interval of a window.

    Args:
        elapsed_s: From the window's beginning to the interval's end. [s]
        duration_s: Length of the interval. [s]
        energy_j: Its energy. [J]
        total_j: Energy of the window so far. [J]
        domains: Energy of each domain in the interval. [J]
        source: `measured` or `estimated`.
    """

    elapsed_s: float
    duration_s: float
    energy_j: float
    total_j: float
    domains: dict[str, float]
    source: str

    @property
    def power_w(self) -> float:
        """Mean power of the interval; 0 for one without length. [W]"""
        return self.energy_j / self.duration_s if self.duration_s else 0.0


def between(before: Measurement | None, now: Measurement) -> Sample:
    """The interval between two readings of one window; from its beginning where there is none before."""
    began_s, began_j, began = (before.duration_s, before.energy_j, before.domains) if before else (0.0, 0.0, {})
    return Sample(
        elapsed_s=now.duration_s,
        duration_s=now.duration_s - began_s,
        energy_j=now.energy_j - began_j,
        total_j=now.energy_j,
        domains={name: energy_j - began.get(name, 0.0) for name, energy_j in now.domains.items()},
        source=now.source,
    )


class Live:
    """Samples a window from a thread while the block runs; `finish` adds the last, shorter interval.

    Args:
        read: What the window has cost so far.
        interval_s: Time between two samples. [s]
        on_sample: Called with each sample, in the thread. One that raises `RunError` is not called again.
        on_failure: Called with that error.

    Raises:
        UsageError: The interval is shorter than 10 ms.
    """

    def __init__(
        self,
        read: Callable[[], Measurement],
        *,
        interval_s: float,
        on_sample: Sequence[Callable[[Sample], object]],
        on_failure: Callable[[RunError], object],
    ) -> None:
        if interval_s < _SHORTEST_S:
            raise UsageError(f"an interval of {interval_s} s is too short; give at least {_SHORTEST_S} s")
        self._read = read
        self._interval_s = interval_s
        self._on_sample = list(on_sample)
        self._on_failure = on_failure
        self._last: Measurement | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budjoule-live", daemon=True)

    def __enter__(self) -> "Live":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def finish(self, measurement: Measurement) -> None:
        """The last interval, from the finished measurement."""
        self._take(measurement)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._take(self._read())

    def _take(self, measurement: Measurement) -> None:
        sample = between(self._last, measurement)
        self._last = measurement
        for receive in tuple(self._on_sample):
            try:
                receive(sample)
            except RunError as error:
                self._on_sample.remove(receive)
                self._on_failure(error)


class CsvLog:
    """A row of CSV a sample, flushed at once, so that a run that is killed leaves what it has measured.

    Columns: `elapsed_s, duration_s, energy_j, power_w, total_j, source` and one `<domain>_j` each. The domains are those of
    the first sample, with which the file is opened: what never runs leaves none, and the old one as it was.

    Args:
        path: Where to write.
        force: Overwrite a file that exists.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self._path = path
        self._force = force
        self._file: TextIO | None = None
        self._domains: list[str] = []

    def __call__(self, sample: Sample) -> None:
        """Write one sample.

        Raises:
            RunError: The file exists and `force` is off, or it cannot be written.
        """
        try:
            if self._file is None:
                self._file = self._path.open("w" if self._force else "x", newline="", encoding="utf-8")
                self._domains = list(sample.domains)
                columns = ("elapsed_s", "duration_s", "energy_j", "power_w", "total_j", "source")
                csv.writer(self._file).writerow([*columns, *(f"{name}_j" for name in self._domains)])
            figures = (sample.elapsed_s, sample.duration_s, sample.energy_j, sample.power_w, sample.total_j)
            domains = (sample.domains.get(name) for name in self._domains)
            csv.writer(self._file).writerow([*map(_figure, figures), sample.source, *map(_figure, domains)])
            self._file.flush()
        except FileExistsError:
            raise RunError(f"{self._path} exists; give another name or --force to overwrite it") from None
        except OSError as error:
            raise RunError(
                f"cannot write {self._path}: {error.strerror}; check its folder, its permissions and the free space"
            ) from None

    def __enter__(self) -> "CsvLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # each row was flushed, or its failure raised
                self._file.close()


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
