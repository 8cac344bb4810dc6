"""The formats of `budjoule report`: one row a format, each from records of one kind to text."""

import io
import json
from collections.abc import Callable, Sequence

from rich.console import Console

from budjoule.energy.errors import UsageError
from budjoule.energy.reports.console import render_estimate_rows
from budjoule.energy.reports.estimate_page import estimate_page
from budjoule.energy.reports.ledger_rows import LedgerFile
from budjoule.energy.reports.record_console import render_ledgers, render_measurements
from budjoule.energy.reports.record_page import ledger_page, measurement_page
from budjoule.energy.reports.records import EstimateFile, MeasurementFile, Record
from budjoule.energy.reports.run_console import render_runs
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.run_page import run_page
from budjoule.energy.reports.sweep_choice import render_swept, swept_page
from budjoule.energy.reports.sweep_file import SweepFile
from budjoule.energy.reports.tabular import as_csv, as_document

TEXT_COLUMNS = 110


def render_records(records: Sequence[Record], console: Console) -> None:
    """Print records of one kind on a terminal."""
    if runs := [record for record in records if isinstance(record, Run)]:
        render_runs(runs, console)
    if estimates := [record for record in records if isinstance(record, EstimateFile)]:
        render_estimate_rows([record.to_dict() for record in estimates], console)
    for swept in (record for record in records if isinstance(record, SweepFile)):
        render_swept(swept.sweep, swept.choices, console, budget=swept.budget)
    if measurements := [record for record in records if isinstance(record, MeasurementFile)]:
        render_measurements(measurements, console)
    if ledgers := [record for record in records if isinstance(record, LedgerFile)]:
        render_ledgers(ledgers, console)


def as_text(records: Sequence[Record]) -> str:
    """What a terminal would show, without colours, for a file."""
    file = io.StringIO()
    render_records(records, Console(file=file, width=TEXT_COLUMNS, markup=False, highlight=False, color_system=None))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def as_html(records: Sequence[Record]) -> str:
    """One self-contained page."""
    if runs := [record for record in records if isinstance(record, Run)]:
        return run_page(runs)
    if estimates := [record for record in records if isinstance(record, EstimateFile)]:
        return estimate_page([record.to_dict() for record in estimates])
    if sweeps := [record for record in records if isinstance(record, SweepFile)]:
        if len(sweeps) > 1:
            raise UsageError(f"a page shows one sweep, and {len(sweeps)} were given; write a page each")
        return swept_page(sweeps[0].sweep, sweeps[0].choices, budget=sweeps[0].budget)
    if measurements := [record for record in records if isinstance(record, MeasurementFile)]:
        return measurement_page(measurements)
    return ledger_page([record for record in records if isinstance(record, LedgerFile)])


def as_json(records: Sequence[Record]) -> str:
    """One JSON document; a list when there are several records."""
    return json.dumps(as_document(records), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


REPORTERS: dict[str, Callable[[Sequence[Record]], str]] = {
    "console": as_text,
    "html": as_html,
    "json": as_json,
    "csv": as_csv,
}
