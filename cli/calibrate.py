"""`budjoule calibrate`: fits a device profile to this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budjoule.cli.output import check_output, note, note_console, print_json, result_console
from budjoule.energy.errors import RunError, UsageError

if TYPE_CHECKING:
    from budjoule.calibration.calibrate import Calibration

INTERRUPTED = 130  # what shells expect of a command that SIGINT ended


def calibrate(
    device: Annotated[
        str, typer.Option("--device", help="Profile to start from; a GPU's profile calibrates the GPU.")
    ] = "cpu-generic",
    quick: Annotated[
        bool, typer.Option("--quick", help="About half a minute, on a GPU a whole one, with wider intervals.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write here; default is this user's profile 'this-machine'.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the output file, or a good profile by a bad one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit a device profile to this machine from a few small workloads."""
    from budjoule.energy.device import user_profile_folder
    from budjoule.energy.meters.load_model import save_load_model

    path = output or user_profile_folder() / "this-machine.toml"
    _check_writable(path, force=force or output is None)
    try:
        made = _calibrated(device, quick)
    except KeyboardInterrupt:
        note(f"interrupted: nothing was saved, and {path} {'is as it was' if path.exists() else 'was not written'}")
        raise typer.Exit(INTERRUPTED) from None
    _show(made, path, as_json)
    if made.spoilt and path.exists() and not force:
        raise RunError(
            f"the held-out steps are off by a factor of two and more: {path} is as it was (--force replaces it)"
        )
    made.profile.save(path)
    if made.load_model is not None and output is None:
        note(f"wrote {save_load_model(made.load_model)}: power against load, for where the counter cannot be read")
    note(f"wrote {path}")
    name = "this-machine" if output is None else path
    note(f"next: budjoule profile MODEL --input SHAPE --mode training --device {name}")


def _show(made: "Calibration", path: Path, as_json: bool) -> None:
    if as_json:
        print_json(_document(made, path))
        return
    from budjoule.energy.reports.calibration import render_calibration

    render_calibration(made.prior, made.profile, made.validation, made.notes, result_console())


def _check_writable(path: Path, *, force: bool) -> None:
    """Fail before the minutes that the microbenchmarks take, and not after them."""
    if path.suffix != ".toml":
        raise UsageError(f"{path} is no name of a profile; end it in .toml, so that --device finds it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; give a writable place with -o") from None
    check_output(path, force=force)


def _calibrated(device: str, quick: bool) -> "Calibration":
    from rich.progress import Progress

    from budjoule.calibration.calibrate import calibrate as run

    console = note_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        return run(
            prior=device,
            quick=quick,
            progress=lambda name, done, total: progress.update(bar, completed=done, total=total, description=name),
        )


def _document(made: "Calibration", path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "schema": "budjoule.calibration/1",
        "profile": str(path),
        "status": made.profile.status,
        "readings": [{"name": name, **asdict(reading)} for name, reading in made.readings.items()],
        "validation": made.validation,
        "load_model": asdict(made.load_model) if made.load_model is not None else None,
        "coefficients": {
            name: {
                "value": value,
                "sd_log": made.profile.log_sd_[name],
                "prior_value": made.prior.coef_[name],
                "prior_sd_log": made.prior.log_sd_[name],
                "pinned": name in made.profile.exercised,
            }
            for name, value in made.profile.coef_.items()
        },
        "notes": list(made.notes),
    }
