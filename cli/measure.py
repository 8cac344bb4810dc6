"""`budjoule measure -- CMD`: runs a command, its children included, and says what the machine spent meanwhile."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from budjoule.cli.output import print_json, save, to_json
from budjoule.energy.errors import BudjouleError, MeterError, RunError, UsageError
from budjoule.energy.measure import Window
from budjoule.energy.measurement import SCHEMA, Measurement

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
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
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Measure the energy of a command: budjoule measure [OPTIONS] -- CMD [ARGS]..."""
    command = _command(ctx.args)
    if output is not None:
        _check_output(output, force=force)
    measuring = Window(label or " ".join(command), meter=meter, require_measured=require_measured)
    try:
        measuring.begin()
    except MeterError:
        if as_json and require_measured:
            print_json(_unmet(label or " ".join(command)))
        raise
    measurement, exit_code = _run(command, measuring, stdout=_STDERR if as_json else None)
    document = {**measurement.to_dict(), "command": command, "exit_code": exit_code}
    if output is not None:
        save(output, to_json(document) + "\n", force=force)
    print(to_json(document) if as_json else _lines(measurement), flush=True)
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


def _run(command: list[str], measuring: Window, *, stdout: int | None) -> tuple[Measurement, int]:
    """Run the command inside the window; signals go on to it, and its end is waited for."""
    with _forwarding() as adopt:
        try:
            child = subprocess.Popen(command, stdout=stdout)
        except OSError as error:
            measuring.end()
            raise _cannot_run(command[0], error) from None
        adopt(child)
        code = child.wait()
    return measuring.end(), code if code >= 0 else 128 - code  # a shell says 128 + N for signal N


def _cannot_run(name: str, error: OSError) -> BudjouleError:
    if isinstance(error, FileNotFoundError):
        refusal = UsageError(f"command {name!r} not found; check the spelling and PATH")
        refusal.exit_code = 127
    else:
        refusal = UsageError(f"cannot run {name!r}: {error.strerror}; check that it is an executable file")
        refusal.exit_code = 126
    return refusal


@contextmanager
def _forwarding() -> Iterator[Callable[["subprocess.Popen[bytes]"], None]]:
    """Pass signals on to the child that is adopted; those that come before it exists wait for it."""
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def adopt(child: "subprocess.Popen[bytes]") -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    def forward(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and _terminal_is_ours():
            return  # Ctrl-C reached the command as well: the terminal sends it to the whole foreground group
        if not children:
            early.append(number)
        for child in children:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield adopt
        return
    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield adopt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminal_is_ours() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _unmet(label: str) -> dict[str, Any]:
    """The document of a refusal: nothing was measured, and the command was not run."""
    keys = ("energy_j", "energy_low_j", "energy_high_j", "duration_s", "power_w")
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


def _lines(measurement: Measurement) -> str:
    from budjoule.energy.units import show

    rows = [str(measurement)]
    width = max(map(len, measurement.domains), default=0)
    for name, energy_j in measurement.domains.items():
        rows.append(
            f"  {name:<{width}}  {show(energy_j, 'J'):>8}"
            + ("" if name in measurement.summed else "  (shown, not added)")
        )
    rows += [f"  note: {note}" for note in measurement.notes]
    rows.append(
        "next: 'budjoule measure --json -o FILE -- CMD' keeps the numbers, 'budjoule doctor' says what can be measured"
    )
    return "\n".join(rows)
