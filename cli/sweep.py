"""What `budjoule profile --sweep`, `--best` and `--budget` run and print: a sweep, what it chooses, how many steps fit in an energy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from budjoule.cli.aside import stdout_aside
from budjoule.cli.output import note, print_json, result_console, save, to_json
from budjoule.energy.errors import UsageError

if TYPE_CHECKING:
    from budjoule.energy.whatif.budget import Budget
    from budjoule.energy.whatif.choice import Choice
    from budjoule.energy.whatif.sweep import Sweep
    from budjoule.energy.workload import Workload


def axes_of(sweep: list[str] | None, best: str | None, over: list[str] | None) -> list[str]:
    """The axes that `--sweep` and `--over` give together, none where one setting was asked for.

    Raises:
        UsageError: There is something to choose by but nothing to choose from, or the other way round.
    """
    if over and best is None:
        raise UsageError("--over is what --best chooses from; add --best energy")
    if best is not None and not (sweep or over):
        raise UsageError("--best needs settings to choose from; add --over batch=8,16,32,power-limit-w=100..250:25")
    if not (sweep or over):
        return []
    from budjoule.energy.whatif.choice import split_axes

    return [*(sweep or ()), *(axis for text in over or () for axis in split_axes(text))]


def swept(
    model: str,
    inputs: str,
    devices: list[str],
    axes: list[str],
    best: str | None,
    how: dict[str, Any],
    at: dict[str, float | None],
) -> "tuple[Sweep, list[Choice]]":
    """Sweep a model's settings, and choose of them where there is something to choose by; each batch size is traced once."""
    from budjoule.energy.device import load_profile
    from budjoule.energy.model_spec import build_model, parse_inputs
    from budjoule.energy.trace import trace
    from budjoule.energy.whatif.choice import choose, parse_goal
    from budjoule.energy.whatif.sweep import parse_axes, sweep

    values, goal = parse_axes(axes), parse_goal(best) if best is not None else None
    profiles = [load_profile(name) for name in devices]
    parse_inputs(inputs)  # a typing error is told before the model is built
    traced: dict[int | None, Workload] = {}

    def work_of(batch: int | None) -> "Workload":
        if batch not in traced:
            work = trace(built, parse_inputs(inputs, batch=batch), **how)
            traced[batch] = traced[work.examples] = work
        return traced[batch]

    with stdout_aside():
        built = build_model(model)
        given = work_of(None) if goal is not None else None
        found = sweep(work_of, profiles, values, **at)
    chosen = choose(found, goal, profiles, given, **at) if goal is not None and given is not None else []
    return found, chosen


def show_sweep(
    sweep: "Sweep",
    choices: "list[Choice]",
    budget: "Budget | None",
    output: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Save a sweep and what was chosen of it where that was asked for, and print it."""
    document = _document(sweep, choices, budget)
    if output is not None:
        save(output, _rendered(output, sweep, choices, document, budget), force=force)
    if as_json:
        print_json(document)
        return
    from budjoule.energy.reports.sweep_choice import render_swept

    render_swept(sweep, choices, result_console(), budget=budget)
    if output is None:
        note("next: add -o sweep.html for the plot of time against energy")


def _document(sweep: "Sweep", choices: "list[Choice]", budget: "Budget | None") -> dict[str, Any]:
    document = sweep.to_dict()
    for row, point in zip(document["points"], sweep.points, strict=True):
        row |= budget.fitting(point.estimate) if budget else {}
    if choices:
        rows = [{**choice.to_dict(), **(budget.fitting(choice.point.estimate) if budget else {})} for choice in choices]
        document |= {"goal": choices[0].goal.text, "choices": rows}
    return document


def _rendered(
    output: Path, sweep: "Sweep", choices: "list[Choice]", document: dict[str, Any], budget: "Budget | None"
) -> str:
    if output.suffix == ".html":
        from budjoule.energy.reports.sweep_choice import swept_page

        return swept_page(sweep, choices, budget=budget)
    if output.suffix == ".json" and not output.name.endswith((".speedscope.json", ".trace.json")):
        return to_json(document) + "\n"
    raise UsageError(f"a sweep is written as .html or .json, and {output} is neither")
