"""`budjoule profile MODEL --input SPEC`: what a model costs on a device, before it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budjoule.cli.aside import stdout_aside
from budjoule.cli.beside import beside, measured_step
from budjoule.cli.output import note, print_json, print_text, result_console, save, to_json
from budjoule.cli.sweep import axes_of, show_sweep, swept
from budjoule.energy.errors import UsageError

if TYPE_CHECKING:
    from budjoule.energy.estimate import Estimate
    from budjoule.energy.whatif.budget import Budget


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="package.module:callable, path/to/file.py:callable or hf:ClassName[?config_key=value&...]."
        ),
    ],
    inputs: Annotated[str, typer.Option("--input", help="Shapes: 8x3x224x224, or input_ids=8x128:int64<50257,...")],
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="Device profile; repeatable, or a comma list. 'budjoule devices' lists them."),
    ] = None,
    mode: Annotated[str, typer.Option(help="inference or training.")] = "inference",
    optimizer: Annotated[str, typer.Option(help="Optimizer of a training step.")] = "adamw",
    precision: Annotated[str, typer.Option(help="fp32, tf32, bf16, fp16, bf16-mixed, fp16-mixed or int8.")] = "fp32",
    fused: Annotated[
        bool, typer.Option("--fused", help="As torch.compile runs it: element-wise chains in one kernel.")
    ] = False,
    clock_mhz: Annotated[float | None, typer.Option(help="Clock; default is the device's highest.")] = None,
    power_limit_w: Annotated[float | None, typer.Option(help="Power limit in W; default is the device's own.")] = None,
    budget: Annotated[str | None, typer.Option(help="An energy such as '50 kJ': how many steps fit in it?")] = None,
    epoch: Annotated[int | None, typer.Option(help="Examples of an epoch: how many epochs fit in the budget?")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep", help="batch=1,2,4..256, clock-mhz=510..1410:90 or power-limit-w=100..300:25; repeatable."
        ),
    ] = None,
    best: Annotated[
        str | None, typer.Option(help="Name the setting with the least energy, edp or energy@1.1x-time.")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", help="What --best chooses from: batch=8,16,32,power-limit-w=100..250:25."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run the step on this machine for some seconds and measure it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Also write x.html, x.json, x.speedscope.json or x.trace.json."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Estimate what a model costs in joules, per layer, on a device you may not have."""
    spend = _budget(budget, epoch)
    names = _devices(device)
    how: dict[str, Any] = {"mode": mode, "optimizer": optimizer, "precision": precision, "fused": fused}
    at = {"clock_hz": None if clock_mhz is None else clock_mhz * 1e6, "power_limit_w": power_limit_w}
    if axes := axes_of(sweep, best, over):
        if measure:
            raise UsageError("--measure runs one step; leave --sweep and --best out, or measure one setting of them")
        found = swept(model, inputs, names, axes, best, how, at)
        show_sweep(*found, spend, output, force=force, as_json=as_json)
        return
    estimates = _estimates(model, inputs, names, how, at)
    rows = [{**estimate.to_dict(), **(spend.fitting(estimate) if spend else {})} for estimate in estimates]
    measured = measured_step(model, inputs, how) if measure else None
    if measured is not None:
        rows = [{**row, "measured": measured} for row in rows]
    if output is not None:
        save(output, _rendered(output, estimates, rows), force=force)
    if as_json:
        print_json(rows if len(names) > 1 else rows[0])
    else:
        _show(estimates, rows, spend)
        if measured is not None:
            print_text("\n".join(beside(measured, rows)) + "\n")


def _devices(given: list[str] | None) -> list[str]:
    from budjoule.energy.device import profile_paths

    names = [name.strip() for item in given or [] for name in item.split(",") if name.strip()]
    if names:
        return names
    chosen = "this-machine" if "this-machine" in dict(profile_paths()) else "cpu-generic"
    note(f"no --device given: estimating for {chosen}")
    return [chosen]


def _estimates(
    model: str, inputs: str, devices: list[str], how: dict[str, Any], at: dict[str, float | None]
) -> "list[Estimate]":
    from budjoule.energy.device import load_profile
    from budjoule.energy.model_spec import build_model, parse_inputs
    from budjoule.energy.predict import predict
    from budjoule.energy.trace import trace

    profiles = [load_profile(name) for name in devices]
    given = parse_inputs(inputs)
    with stdout_aside():
        work = trace(build_model(model), given, **how)
    return [predict(work, device=each, **at) for each in profiles]


def _budget(energy: str | None, epoch_examples: int | None) -> "Budget | None":
    from budjoule.energy.whatif.budget import parse_budget

    return parse_budget(energy, epoch_examples)


def _rendered(output: Path, estimates: "list[Estimate]", rows: list[dict[str, Any]]) -> str:
    from budjoule.energy.reports.estimate_page import estimate_page
    from budjoule.energy.reports.flamegraph import chrome_trace, speedscope

    kind = next(
        (end for end in (".speedscope.json", ".trace.json", ".json", ".html") if output.name.endswith(end)), None
    )
    if kind is None:
        raise UsageError(f"cannot tell the format of {output}; end it in .html, .json, .speedscope.json or .trace.json")
    if kind in (".speedscope.json", ".trace.json"):
        if len(estimates) > 1:
            raise UsageError(f"{output} holds one estimate; give one --device")
        return to_json((speedscope if kind == ".speedscope.json" else chrome_trace)(estimates[0]))
    return estimate_page(rows) if kind == ".html" else to_json(rows if len(rows) > 1 else rows[0])


def _show(estimates: "list[Estimate]", rows: list[dict[str, Any]], budget: "Budget | None") -> None:
    from budjoule.energy.reports.console import render_estimates
    from budjoule.energy.units import show

    console = result_console()
    render_estimates(estimates, console)
    for row in rows if budget is not None else ():
        lead = f"{show(row['budget_j'], 'J')} on {row['device']}: "
        said = f"{row['steps']:,} steps (90 % interval {row['steps_low']:,} to {row['steps_high']:,})"
        if "epochs" in row:
            said += f", {row['epochs']:.3g} epochs ({row['epochs_low']:.3g} to {row['epochs_high']:.3g}) of {row['epoch_examples']:,} examples"
        console.print(lead + said, soft_wrap=True)
    if len(estimates) == 1:
        note(f"next: add -o estimate.html for a page, or --device {estimates[0].device},... to compare devices")
