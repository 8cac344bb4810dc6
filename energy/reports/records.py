"""Opens any record that a verb writes: a run folder, estimates, sweeps or measurements as JSON, a ledger's database."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from budjoule.energy.errors import RunError, UsageError
from budjoule.energy.reports.ledger_rows import LedgerFile, load_ledger
from budjoule.energy.reports.rows import Number
from budjoule.energy.reports.run_folder import Run, checked, load_run
from budjoule.energy.reports.sweep_file import SCHEMA as SWEEP_SCHEMA
from budjoule.energy.reports.sweep_file import SweepFile, sweep_file

ESTIMATE_SCHEMA = "budjoule.estimate/1"
MEASUREMENT_SCHEMA = "budjoule.measurement/1"
RUN_FILES = ("run.json", "events.jsonl", "summary.json")
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """A row of an estimate's `by_op` or `by_module`."""

    name: str
    calls: int
    energy_j: Positive
    duration_s: Positive
    flop: int
    moved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateFile:
    """An estimate read back from JSON."""

    device: str
    model: str
    mode: str
    precision: str
    clock_hz: Positive
    energy_j: Positive
    energy_low_j: Positive
    energy_high_j: Positive
    duration_s: Positive
    power_w: Positive
    flop: int
    moved_bytes: int
    unruled_energy_frac: Positive
    by_op: list[CostRow]
    by_module: list[CostRow]
    source: str = "estimated"
    status: str = "-"
    optimizer: str | None = None
    power_limited: bool = False
    peak_memory_bytes: int = 0
    idle_energy_j: Positive = 0.0
    duration_low_s: Positive | None = None
    duration_high_s: Positive | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, with its schema."""
        return {"schema": ESTIMATE_SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementFile:
    """A measurement read back from JSON; its energy is None where `--require-measured` was not met."""

    energy_j: Positive | None
    energy_low_j: Positive | None = None
    energy_high_j: Positive | None = None
    duration_s: Positive | None = None
    power_w: Positive | None = None
    idle_w: Positive | None = None
    net_energy_j: Positive | None = None
    net_energy_low_j: Positive | None = None
    net_energy_high_j: Positive | None = None
    domains: dict[str, Number] = field(default_factory=dict)
    summed: list[str] = field(default_factory=list)
    source: str | None = None
    method: str | None = None
    label: str = ""
    notes: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, with its schema."""
        return {"schema": MEASUREMENT_SCHEMA, **asdict(self)}


Record = Run | EstimateFile | SweepFile | MeasurementFile | LedgerFile


def load_records(paths: Sequence[Path]) -> list[Record]:
    """Open records, which must be of one kind to be shown together.

    Args:
        paths: Run folders, JSON files of `profile --json` or `measure --json`, or ledgers.

    Raises:
        RunError: One is missing, malformed or of a kind that no report shows.
        UsageError: They are of several kinds.
    """
    records = [record for path in paths for record in _load(path)]
    kinds = {type(record) for record in records}
    if len(kinds) > 1:
        raise UsageError(
            "runs, estimates, sweeps, measurements and ledgers cannot share one report; give records of one kind"
        )
    return _told_apart(records)


def _told_apart(records: list[Record]) -> list[Record]:
    """Runs of one name, as of several seeds or sweeps, take their parent folder's name before theirs."""
    counts = Counter(record.name for record in records if isinstance(record, Run))
    return [
        replace(record, name="/".join(record.path.resolve().parts[-2:]))
        if isinstance(record, Run) and counts[record.name] > 1
        else record
        for record in records
    ]


def _load(path: Path) -> Sequence[Record]:
    if path.is_dir():
        return [load_run(path)]
    if not path.exists():
        raise RunError(f"{path} does not exist; give a run folder, a JSON file of 'profile' or 'measure', or a ledger")
    if path.name in RUN_FILES:
        return [load_run(path.parent)]
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    return [load_ledger(path)] if head == b"SQLite format 3\0" or path.suffix == ".db" else _load_json(path)


def _load_json(path: Path) -> Sequence[Record]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is no record that a report can show: no valid JSON ({error})") from None
    documents = document if isinstance(document, list) else [document]
    if not documents:
        raise RunError(f"{path} is an empty list: it holds no record to show")
    return [
        _from_json(entry, f"{path}, entry {index}" if len(documents) > 1 else str(path))
        for index, entry in enumerate(documents, start=1)
    ]


def _from_json(entry: object, where: str) -> Record:
    schema = entry.get("schema") if isinstance(entry, dict) else None
    if isinstance(entry, dict) and schema == SWEEP_SCHEMA:
        return sweep_file(entry, where)
    if schema == ESTIMATE_SCHEMA:
        return checked(TypeAdapter(EstimateFile), entry, where)
    if schema == MEASUREMENT_SCHEMA:
        return checked(TypeAdapter(MeasurementFile), entry, where)
    known = f"{ESTIMATE_SCHEMA} (budjoule profile --json), {SWEEP_SCHEMA} (with --sweep) and {MEASUREMENT_SCHEMA} (budjoule measure --json)"
    raise RunError(f"{where} has schema {schema!r}; reports read {known}, run folders and ledgers")
