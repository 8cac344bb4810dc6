"""What a run writes down as it goes: `events.jsonl`, and the totals that the summary is made of."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from budjoule.energy.errors import RunError
from budjoule.training.compression.update import Vector


@dataclass(slots=True, kw_only=True)
class Totals:
    """Counts over all clients, and when the target was reached.

    Args:
        uplink_bytes: Bytes sent by clients. [B]
        downlink_bytes: Bytes received by clients. [B]
        interrupted: Local blocks cut off because a device was needed or left.
        rejects: Refused arrivals by reason.
        diverged_in_a_row: Local blocks that ended in NaN or infinity since one did not.
        evaluated_version: The last version evaluated, -1 before the first.
        accuracy_frac: Its accuracy.
        loss: Its mean loss.
        time_to_target_s: When the target was reached. [s]
        energy_to_target_j: What had been spent by then. [J]
        uplink_bytes_to_target: What had been sent by then. [B]
        wall_duration_s: Real time the run took so far. [s]
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    interrupted: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    diverged_in_a_row: int = 0
    evaluated_version: int = -1
    accuracy_frac: float = 0.0
    loss: float = 0.0
    time_to_target_s: float | None = None
    energy_to_target_j: float | None = None
    uplink_bytes_to_target: int | None = None
    wall_duration_s: float = 0.0


DIVERGED = "divergence"  # why a run stopped: local training diverged, and nobody learns any more
DIVERGED_BLOCKS = 100  # in a row, whoever trained them
_NUMBER = re.compile(r"\d[\d.,e+-]*")


class Record:
    """Appends events to the run folder and keeps the totals.

    Args:
        path: `events.jsonl`.
        target_accuracy_frac: The accuracy that counts as reached.
        evaluate_every: Versions between evaluations.
        evaluate: Accuracy and loss of a model.
        spent_j: What all clients have spent. [J]

    Raises:
        RunError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        target_accuracy_frac: float,
        evaluate_every: int,
        evaluate: Callable[[Vector], tuple[float, float]],
        spent_j: Callable[[], float],
    ) -> None:
        self.totals = Totals()
        self._target = target_accuracy_frac
        self._every = evaluate_every
        self._evaluate = evaluate
        self._spent_j = spent_j
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; give another -o") from None

    @property
    def reached(self) -> bool:
        """The target was reached."""
        return self.totals.time_to_target_s is not None

    def due(self, version: int) -> bool:
        """Whether a version is to be evaluated."""
        return version % self._every == 0

    def evaluate(self, time_s: float, version: int, model: Vector) -> None:
        """Evaluate a version, unless it has been."""
        totals = self.totals
        if version == totals.evaluated_version:
            return
        totals.accuracy_frac, totals.loss = self._evaluate(model)
        totals.evaluated_version = version
        spent_j = self._spent_j()
        if not self.reached and totals.accuracy_frac >= self._target:
            totals.time_to_target_s, totals.energy_to_target_j = time_s, spent_j
            totals.uplink_bytes_to_target = totals.uplink_bytes
        self._write(
            "evaluate",
            time_s,
            version=version,
            accuracy_frac=totals.accuracy_frac,
            loss=totals.loss if abs(totals.loss) < float("inf") else None,
            spent_j=spent_j,
            uplink_bytes=totals.uplink_bytes,
            downlink_bytes=totals.downlink_bytes,
        )

    def sent(
        self,
        time_s: float,
        *,
        client: int,
        base_version: int,
        staleness: int,
        size_bytes: int,
        energy_j: float,
        level: int,
        spent_j: float,
        lost: bool,
    ) -> None:
        """A frame reached the server, or should have."""
        self._write(
            "send",
            time_s,
            client=client,
            base_version=base_version,
            staleness=staleness,
            size_bytes=size_bytes,
            energy_j=energy_j,
            level=level,
            spent_j=spent_j,
            **({"lost": True} if lost else {}),
        )

    def aggregated(self, time_s: float, version: int, updates: int, mean_staleness: float) -> None:
        """A new version was made."""
        self._write("aggregate", time_s, version=version, updates=updates, mean_staleness=mean_staleness)

    def rejected(self, time_s: float, client: int, reason: str) -> None:
        """An arrival was refused."""
        kind = _NUMBER.sub("N", reason.split(":")[0].split(";")[0])  # so that kinds stay few, whatever arrives
        self.totals.rejects[kind] = self.totals.rejects.get(kind, 0) + 1
        self._write("reject", time_s, client=client, reason=reason)

    def uplink(self, size_bytes: int) -> None:
        """A client sent. [B]"""
        self.totals.uplink_bytes += size_bytes

    def downlink(self, size_bytes: int) -> None:
        """A client received. [B]"""
        self.totals.downlink_bytes += size_bytes

    def numbers(self) -> dict[str, Any]:
        """The totals and how long the file is, everything before that point being handed to the system."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None
        return {"totals": asdict(self.totals), "events_bytes": self._file.tell()}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Take up where `numbers` was saved: what was written later is cut off."""
        self.totals = Totals(**numbers["totals"])
        if os.fstat(self._file.fileno()).st_size < numbers["events_bytes"]:
            raise RunError(
                f"{self._file.name} is shorter than its checkpoint says; it was changed, so train again into a new folder"
            )
        self._file.truncate(numbers["events_bytes"])
        self._file.seek(0, os.SEEK_END)

    def restart(self) -> None:
        """Begin with an empty file."""
        self._file.truncate(0)
        self._file.seek(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: str, time_s: float, **values: Any) -> None:
        line = json.dumps({"event": event, "time_s": time_s, **values}, separators=(",", ":"), allow_nan=False)
        try:
            self._file.write(line.encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"cannot write {self._file.name}: {error.strerror}; make room, then go on with --resume")
