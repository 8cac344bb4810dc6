"""`budjoule train CONFIG.toml`: trains a simulated fleet within its joule budgets and leaves a run folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budjoule.cli.aside import stdout_aside
from budjoule.cli.output import note, note_console, print_json
from budjoule.energy.units import show

if TYPE_CHECKING:
    from budjoule.training.run import Progress, Run


_NOBODY = (
    "  note       nothing was sent: a download, a local block and a send fit into nobody's budget.energy, budget.upload, "
    "[conditions] and budget.horizon; raise the one that is too tight"
)


def train(
    config: Annotated[
        Path, typer.Argument(help="A TOML configuration; every key has a default.", metavar="CONFIG.toml")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key, as in fleet.clients=50; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Replace the configuration's seed.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run this many seeds, one folder each, and report the spread.")] = 1,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the folder.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train clients; results do not depend on how many.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON document on stdout.")] = False,
) -> None:
    """Train a fleet within each client's joule budget, on a virtual clock."""
    from budjoule.training.config.config import load_config
    from budjoule.training.simulation.spread import run_seeds

    checked = load_config(config, overrides=overrides or (), seed=seed)
    folder = output if output is not None else Path("runs") / checked.name
    with _progress() as progress, stdout_aside():
        runs, document = run_seeds(
            checked, seeds, output=folder, resume=resume, force=force, workers=workers, progress=progress
        )
    if as_json:
        print_json(document)
    else:
        for run in runs:
            print(_lines(run))
        if seeds > 1:
            print(_spread_lines(document))
    note(f"next: budjoule report {' '.join(str(run.folder) for run in runs)}")


@contextmanager
def _progress() -> "Iterator[Callable[[Progress], None]]":
    """A bar on stderr with the simulated time, joules and accuracy so far; nothing where stderr is no terminal."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[state]}"),
        progress.TimeElapsedColumn(),
    )
    console = note_console()
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=1.0, state="")

        def show_progress(now: "Progress") -> None:
            state = f"{show(now.time_s, 's')} simulated  {show(now.spent_j, 'J')}  accuracy {now.accuracy_frac:.3f}"
            bar.update(task, completed=now.done_frac, state=state)

        yield show_progress


def _lines(run: "Run") -> str:
    """A run for people, in a few lines."""
    summary: dict[str, Any] = dict(run.summary)
    causes = ", ".join(
        f"{cause} {show(joules, 'J')}" for cause, joules in summary["spent_by_cause_j"].items() if joules
    )
    budget_j, over = summary["budget_j"], summary["overspent_clients"]
    spent = f"{show(summary['spent_j'], 'J')} of {show(budget_j, 'J') if budget_j is not None else 'no budget'}"
    target = summary["target_accuracy_frac"]
    reached = (
        f"target {target:g} reached after {show(summary['time_to_target_s'], 's')} and {show(summary['energy_to_target_j'], 'J')}"
        if summary["time_to_target_s"] is not None
        else f"target {target:g} not reached"
        if target is not None
        else "no target"
    )
    nobody = [] if summary["sends"] else [_NOBODY]
    return "\n".join(
        [
            f"{run.folder}: {summary['method']}, {summary['clients']} clients, seed {summary['seed']}",
            f"  accuracy   {summary['accuracy_frac']:.3f} (worst tenth of the clients {summary['worst_decile_accuracy_frac']:.3f}); {reached}",
            f"  energy     {spent} (estimated: {causes or 'nothing'}); {over} clients overspent",
            f"  traffic    {show(summary['uplink_bytes'], 'B')} up, {show(summary['downlink_bytes'], 'B')} down, "
            f"{summary['sends']} sends by {summary['participating_clients']} clients",
            f"  time       {show(summary['simulated_duration_s'], 's')} simulated in {show(summary['wall_duration_s'], 's')}, "
            f"{summary['rounds']} rounds; peak memory of a client's step {show(summary['peak_memory_bytes'], 'B')}",
            *nobody,
        ]
    )


def _spread_lines(document: dict[str, Any]) -> str:
    rows = [f"over {len(document['runs'])} seeds: mean +- standard deviation [lowest, highest]"]
    for key, row in document["spread"].items():
        if row is not None:
            rows.append(
                f"  {key:<26} {row['mean']:.4g} +- {row['sd']:.2g} [{row['low']:.4g}, {row['high']:.4g}] of {row['count']}"
            )
    return "\n".join(rows)
