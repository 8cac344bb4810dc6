"""What `budjoule profile --sweep` and `--budget` print: the settings of a sweep, and how many steps fit in an energy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from budjoule.cli.output import note, print_json, result_console, save, to_json
from budjoule.energy.errors import UsageError

if TYPE_CHECKING:
    from budjoule.energy.estimate import Estimate
    from budjoule.energy.sweep import Sweep


def fitting(estimate: "Estimate", budget_j: float | None) -> dict[str, Any]:
    """How many steps fit in a budget: as estimated, and at the ends of the interval."""
    if budget_j is None:
        return {}
    return {
        "budget_j": budget_j,
        "steps": int(budget_j // estimate.energy_j),
        "steps_low": int(budget_j // estimate.energy_high_j),
        "steps_high": int(budget_j // estimate.energy_low_j),
    }


def show_sweep(sweep: "Sweep", budget_j: float | None, output: Path | None, *, force: bool, as_json: bool) -> None:
    """Save a sweep where that was asked for, and print it."""
    document = sweep.to_dict()
    for row, point in zip(document["points"], sweep.points, strict=True):
        row |= fitting(point.estimate, budget_j)
    if output is not None:
        save(output, _rendered(output, sweep, document, budget_j), force=force)
    if as_json:
        print_json(document)
        return
    from budjoule.energy.reports.sweep import render_sweep

    render_sweep(sweep, result_console(), budget_j=budget_j)
    if output is None:
        note("next: add -o sweep.html for the plot of time against energy")


def _rendered(output: Path, sweep: "Sweep", document: dict[str, Any], budget_j: float | None) -> str:
    if output.suffix == ".html":
        from budjoule.energy.reports.sweep import sweep_page

        return sweep_page(sweep, budget_j=budget_j)
    if output.suffix == ".json" and not output.name.endswith((".speedscope.json", ".trace.json")):
        return to_json(document) + "\n"
    raise UsageError(f"a sweep is written as .html or .json, and {output} is neither")
