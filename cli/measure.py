"""`budjoule measure -- CMD`: runs a command, its children included, and says what the machine spent meanwhile."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from budjoule.cli.child import run_child
from budjoule.cli.output import note, print_json, save, to_json
from budjoule.energy.errors import MeterError, RunError, UsageError
from budjoule.energy.measurement import SCHEMA, Measurement
from budjoule.energy.meters.live import CsvLog, Live, Sample
from budjoule.energy.units import seconds, show
from budjoule.energy.window import Window

_STDERR = 2


def measure(
    ctx: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; the command's own stdout goes to stderr.")
    ] = False,
    require_measured: Annotated[
        bool, typer.Option("--require-measured", help="Refuse an estimate, before the command is run.")
    ] = False,
    meter: Annotated[str | None, typer.Option(help="The meter to read, such as rapl; see 'budjoule doctor'.")] = None,
    label: Annotated[str, typer.Option(help="A name for the measurement; default is the command.")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the JSON document to this file.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Show the power on stderr every so often, such as '1 s'.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a row for every interval (1 s by default) to this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output files.")] = False,
) -> None:
    """Measure the energy of a command: budjoule measure [OPTIONS] -- CMD [ARGS]..."""
    command = _command(ctx.args)
    if output is not None:
        _check_output(output, force=force)
    measuring = Window(label or " ".join(command), meter=meter, require_measured=require_measured)
    with CsvLog(csv, force=force) if csv is not None else nullcontext() as log:
        live = _live(measuring, interval, log)
        try:
            measuring.begin()
        except MeterError:
            if as_json and require_measured:
                print_json(_unmet(measuring.label))
            raise
        measurement, exit_code = _run(command, measuring, live, stdout=_STDERR if as_json else None)
    document = {**measurement.to_dict(), "command": command, "exit_code": exit_code}
    if output is not None:
        save(output, to_json(document) + "\n", force=force)
    print(to_json(document) if as_json else _lines(measurement, output), flush=True)
    raise typer.Exit(exit_code)


def _command(args: list[str]) -> list[str]:
    if not args:
        raise UsageError("no command to measure; write it after '--', as in 'budjoule measure -- python train.py'")
    if args[0].startswith("-"):
        raise UsageError(f"unknown option {args[0]!r}; put the command after '--', and see 'budjoule measure --help'")
    return args


def _check_output(path: Path, *, force: bool) -> None:
    """Before the command is run: an hour's measurement must not end in a file that cannot be written."""
    if path.exists() and not force:
        raise RunError(f"{path} exists; give another name or --force to overwrite it")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RunError(
            f"cannot write {path}: its folder {path.parent} does not exist or is not writable; give another path"
        )


def _run(command: list[str], measuring: Window, live: Live | None, *, stdout: int | None) -> tuple[Measurement, int]:
    """Run the command inside the window, which ends with it whatever happens."""
    try:
        with live or nullcontext():
            exit_code = run_child(command, stdout=stdout)
    finally:
        measurement = measuring.end()
    if live is not None:
        live.finish(measurement)
    return measurement, exit_code


def _live(measuring: Window, interval: str | None, log: CsvLog | None) -> Live | None:
    if interval is None and log is None:
        return None
    receivers: list[Callable[[Sample], object]] = [] if log is None else [log]
    if interval is not None:
        receivers.append(_show_live)
    return Live(measuring.read, interval_s=seconds(interval or "1 s"), on_sample=receivers)


def _show_live(sample: Sample) -> None:
    figures = f"{show(sample.power_w, 'W'):>8}  {show(sample.total_j, 'J'):>8} so far ({sample.source})"
    note(f"{show(sample.elapsed_s, 's'):>8}  {figures}")


def _unmet(label: str) -> dict[str, Any]:
    """The document of a refusal: nothing was measured, and the command was not run."""
    keys = ("begin_unix_s", "energy_j", "energy_low_j", "energy_high_j", "duration_s", "power_w")
    return {
        "schema": SCHEMA,
        "label": label,
        **dict.fromkeys(keys),
        "domains": {},
        "summed": [],
        "source": None,
        "method": None,
        "notes": [
            "no counter measures energy here, and --require-measured refuses an estimate: the command was not run"
        ],
        "exit_code": None,
    }


def _lines(measurement: Measurement, output: Path | None) -> str:
    rows = [str(measurement)]
    width = max(map(len, measurement.domains), default=0)
    for name, energy_j in measurement.domains.items():
        rows.append(
            f"  {name:<{width}}  {show(energy_j, 'J'):>8}"
            + ("" if name in measurement.summed else "  (shown, not added)")
        )
    rows += [f"  note: {note}" for note in measurement.notes]
    report = (
        f"budjoule report {output}"
        if output
        else "budjoule measure -o FILE -- CMD keeps the numbers for budjoule report"
    )
    rows.append(f"next: {report}")
    return "\n".join(rows)
