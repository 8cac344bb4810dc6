"""`budjoule report RECORD...`: shows run folders, estimates, sweeps, measurements and ledgers; reads files, runs nothing."""

from pathlib import Path
from typing import Annotated

import typer

from budjoule.cli.output import note, print_text, result_console, save
from budjoule.energy.errors import UsageError

FORMATS = ("console", "html", "json", "csv")
_SUFFIXES = {".html": "html", ".htm": "html", ".json": "json", ".csv": "csv"}


def report(
    records: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or JSON files of 'profile' or 'measure', or ledgers; all of one kind."),
    ],
    form: Annotated[
        str | None, typer.Option("--format", help="console, html, json or csv; default is the output file's suffix.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write to this file; a run's page is RUN/report.html by default."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Show what runs, estimates, sweeps, measurements or ledgers cost; several runs are compared."""
    chosen = _format(form, as_json, output)

    from budjoule.energy.reports.records import load_records
    from budjoule.energy.reports.reporters import REPORTERS, render_records

    found = load_records(records)
    if output is None and chosen == "html":
        # The default page is ours to renew; a file that the user named is not, unless told so.
        output, force = _page_path(records), True
    if output is not None:
        save(output, REPORTERS[chosen](found), force=force)
    elif chosen == "console":
        render_records(found, result_console())
        if len(records) == 1 and records[0].is_dir():
            note(f"next: budjoule report {records[0]} --format html")
    else:
        print_text(REPORTERS[chosen](found))


def _format(form: str | None, as_json: bool, output: Path | None) -> str:
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other; give one of them")
    if form is not None and form not in FORMATS:
        raise UsageError(f"unknown format {form!r}; give one of {', '.join(FORMATS)}")
    if as_json:
        return "json"
    suffix = output.suffix.lower() if output is not None else ""
    return form or _SUFFIXES.get(suffix, "console")


def _page_path(records: list[Path]) -> Path:
    if len(records) == 1:
        return records[0] / "report.html" if records[0].is_dir() else records[0].with_suffix(".html")
    return Path("report.html")
