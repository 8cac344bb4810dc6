"""`budjoule measure -- CMD`: runs a command, its children included, and says what the machine spent meanwhile."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from budjoule.cli.child import run_child, wait_for_end, wait_for_signal
from budjoule.cli.measured import idle_power, lines, live_line, unmet
from budjoule.cli.output import check_output, note, print_json, save_measured, to_json
from budjoule.energy.errors import MeterError, UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.units import seconds
from budjoule.energy.windows.exporter import LOOPBACK, Exporter
from budjoule.energy.windows.live import CsvLog, Live, Sample
from budjoule.energy.windows.window import Window

_STDERR = 2
_ON_A_TERMINAL = "10 s"


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
    idle: Annotated[
        str | None,
        typer.Option(
            help="Also say what came on top of an idle machine: its power '12 W', or '10 s' to measure it first."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the JSON document to this file.")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(
            help="Show the power on stderr every so often, such as '1 s'; default '10 s' on a terminal, else 'off'."
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a row for every interval (1 s by default) to this file.")
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port; without CMD until interrupted."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address that --serve listens on.")] = LOOPBACK,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output files.")] = False,
) -> None:
    """Measure the energy of a command: budjoule measure [OPTIONS] -- CMD [ARGS]..."""
    command = _command(ctx.args, serving=serve is not None)
    for path in filter(None, (output, csv)):
        check_output(path, force=force)
    name = label or " ".join(command) or "the machine"
    with CsvLog(csv, force=force) if csv is not None else nullcontext() as log:
        try:
            floor = idle_power(idle, meter, require_measured)
            measuring = Window(name, meter=meter, require_measured=require_measured, idle=floor)
            live = _live(measuring, interval, log)
            measuring.begin()
        except MeterError:
            if as_json and require_measured:
                print_json(unmet(name))
            raise
        endpoint = (serve, host) if serve is not None else None
        measurement, exit_code = _run(command, measuring, live, endpoint, stdout=_STDERR if as_json else None)
    document = {**measurement.to_dict(), "command": command, "exit_code": exit_code}
    unsaved = save_measured(output, document, force=force)
    print(to_json(document) if as_json else lines(measurement, None if unsaved else output), flush=True)
    raise typer.Exit(exit_code or unsaved)


def _command(args: list[str], *, serving: bool) -> list[str]:
    if not args and not serving:
        raise UsageError("no command to measure; write it after '--', as in 'budjoule measure -- python train.py'")
    if args and args[0].startswith("-"):
        raise UsageError(f"unknown option {args[0]!r}; put the command after '--', and see 'budjoule measure --help'")
    return args


def _live(measuring: Window, interval: str | None, log: CsvLog | None) -> Live | None:
    receivers: list[Callable[[Sample], object]] = [] if log is None else [log]
    if interval is None and log is None and sys.stderr.isatty():
        interval = _ON_A_TERMINAL
    if interval == "off":
        interval = None
    elif interval is not None:
        receivers.append(lambda sample: note(live_line(sample)))
    if not receivers:
        return None
    return Live(
        measuring.read,
        interval_s=seconds(interval or "1 s"),
        on_sample=receivers,
        on_failure=lambda error: note(f"budjoule: {error}; the measurement goes on without it"),
    )


def _sampled(live: Live | None, wait: Callable[[], int]) -> int:
    """Wait while the window is sampled: from when the command runs, so that one that cannot leaves no log."""
    with live or nullcontext():
        return wait()


def _run(
    command: list[str],
    measuring: Window,
    live: Live | None,
    endpoint: tuple[int, str] | None,
    *,
    stdout: int | None,
) -> tuple[Measurement, int]:
    """Run the command, or wait for a signal, inside the open window, which ends with it whatever happens."""
    with ExitStack() as serving:  # closing an endpoint takes its time, which is none of the window's
        try:
            if endpoint is not None:
                exporter = serving.enter_context(Exporter(measuring.read, port=endpoint[0], host=endpoint[1]))
                note(f"serving {exporter.url}" + ("" if command else "; Ctrl-C ends it"))
            if command:
                exit_code = run_child(
                    command, stdout=stdout, wait=lambda child: _sampled(live, lambda: wait_for_end(child))
                )
            else:
                exit_code = _sampled(live, wait_for_signal)
        finally:
            measurement = measuring.end()
    if live is not None:
        live.finish(measurement)
    return measurement, exit_code
