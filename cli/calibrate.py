"""`budjoule calibrate`: fits a device profile to this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budjoule.cli.output import note, note_console, print_json, result_console
from budjoule.energy.errors import RunError

if TYPE_CHECKING:
    from budjoule.calibration.calibrate import Calibration


def calibrate(
    device: Annotated[str, typer.Option("--device", help="Profile to start from.")] = "cpu-generic",
    quick: Annotated[bool, typer.Option("--quick", help="At most 30 s, with wider intervals.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write here; default is this user's profile 'this-machine'.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit a device profile to this machine from a few small workloads."""
    from budjoule.calibration.calibrate import default_path

    path = output or default_path()
    _check_writable(path, force=force or output is None)
    made = _calibrated(device, quick)
    made.profile.save(path)
    if as_json:
        print_json(_document(made, path))
    else:
        from budjoule.energy.reports.calibration import render_calibration

        render_calibration(made.prior, made.profile, made.validation, made.notes, result_console())
    note(f"wrote {path}")
    note(f"next: budjoule profile MODEL --input SHAPE --device {'this-machine' if output is None else path}")


def _check_writable(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise RunError(f"{path} exists; give another name or --force to overwrite it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".{path.name}.probe.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; give a writable place with -o") from None


def _calibrated(device: str, quick: bool) -> "Calibration":
    from rich.progress import Progress

    from budjoule.calibration.calibrate import calibrate as run
    from budjoule.calibration.microbenchmarks import SUITE

    with Progress(console=note_console(), transient=True) as progress:
        bar = progress.add_task("", total=len(SUITE) + 1)  # and the idle machine
        return run(prior=device, quick=quick, progress=lambda name: progress.update(bar, advance=1, description=name))


def _document(made: "Calibration", path: Path) -> dict[str, Any]:
    return {
        "schema": "budjoule.calibration/1",
        "profile": str(path),
        "status": made.profile.status,
        "readings": [
            {
                "name": name,
                "duration_s": r.duration_s,
                "energy_j": r.energy_j,
                "spread_frac": r.spread_frac,
                "others_cores": r.others_cores,
            }
            for name, r in made.readings.items()
        ],
        "validation": made.validation,
        "coefficients": {
            name: {"value": value, "sd_log": made.profile.log_sd_[name], "pinned": name in made.profile.exercised}
            for name, value in made.profile.coef_.items()
        },
        "notes": list(made.notes),
    }
