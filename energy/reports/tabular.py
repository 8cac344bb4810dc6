"""Records as plain data: one JSON document, or CSV with one row an evaluation, module, setting, domain or account."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from budjoule.energy.reports.ledger_rows import LedgerFile
from budjoule.energy.reports.records import EstimateFile, MeasurementFile, Record
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.sweep_file import SweepFile

REPORT_SCHEMA = "budjoule.report/1"


def as_document(records: Sequence[Record]) -> Any:
    """Records as JSON-ready data: one as it is, several as a list."""
    documents = [_run_document(record) if isinstance(record, Run) else record.to_dict() for record in records]
    return documents[0] if len(documents) == 1 else documents


def as_csv(records: Sequence[Record]) -> str:
    """Records as CSV with a header line; units are in the columns' names."""
    rows = [row for record in records for row in _rows(record)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _run_document(run: Run) -> dict[str, Any]:
    return {
        "schema": REPORT_SCHEMA,
        "name": run.name,
        "finished": run.finished,
        "source": run.source,
        "notes": list(run.notes),
        "run": run.header,
        "summary": run.summary,
        "totals": asdict(run.totals),
        "evaluations": [asdict(event) for event in run.evaluations],
        "sends": [asdict(event) for event in run.sends],
        "aggregates": [asdict(event) for event in run.aggregates],
        "rejects": [asdict(event) for event in run.rejects],
    }


def _rows(record: Record) -> list[Mapping[str, Any]]:
    if isinstance(record, Run):
        return [{"run": record.name, **asdict(event)} for event in record.evaluations]
    if isinstance(record, EstimateFile):
        lead = {"device": record.device, "model": record.model, "mode": record.mode, "precision": record.precision}
        return [
            {**lead, "module": row.name, **{k: v for k, v in asdict(row).items() if k != "name"}}
            for row in record.by_module
        ]
    if isinstance(record, SweepFile):
        return list(record.document["points"])
    if isinstance(record, MeasurementFile):
        flat = {key: value for key, value in asdict(record).items() if key not in ("domains", "summed", "notes")}
        return [flat | {f"{name}_j": energy_j for name, energy_j in record.domains.items()}]
    return _account_rows(record)


def _account_rows(record: LedgerFile) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for account in record.to_dict()["accounts"]:
        causes = account.pop("spent_by_cause_j")
        rows.append({**account, **{f"{cause}_j": energy_j for cause, energy_j in causes.items()}})
    return rows


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: such text gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
