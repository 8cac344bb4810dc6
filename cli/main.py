"""The `budjoule` command: one row a verb, and the one place where an error becomes a line and an exit code.

A verb's file imports nothing heavy at the top (torch costs seconds); its function parses, calls the library and
hands the result to a reporter.
"""

import atexit
import gc
import os
import sys
from typing import NoReturn

import typer

from budjoule.cli.calibrate import calibrate
from budjoule.cli.devices import devices
from budjoule.cli.doctor import doctor
from budjoule.cli.measure import measure
from budjoule.cli.profile import profile
from budjoule.cli.report import report
from budjoule.cli.run import run
from budjoule.cli.train import train
from budjoule.energy.errors import BudjouleError

app = typer.Typer(
    name="budjoule",
    help="Energy budgets for training: estimate joules before a run, measure them while it runs, train within a budget.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(profile)
_WRAPS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
app.command(context_settings=_WRAPS)(measure)
app.command(context_settings=_WRAPS)(run)
app.command()(calibrate)
app.command()(train)
app.command()(report)
app.command()(devices)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Energy budgets for training: estimate joules before a run, measure them while it runs, train within a budget."""
    if version:
        from budjoule import __version__

        print(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; a `BudjouleError` is printed as one line, with its exit code and no traceback."""
    # The process is about to give everything back: the collector need not walk torch's modules once more.
    atexit.register(gc.freeze)
    try:
        app()
    except BudjouleError as error:
        print(f"budjoule: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `budjoule ... | head`: the reader has gone, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)
