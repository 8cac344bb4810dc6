"""Prints run folders on a terminal: the figures, the accuracy curve, where the joules went, and who spent them."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from budjoule.energy.reports.console import bar, table
from budjoule.energy.reports.facts import config_differences, headline, lead, participation
from budjoule.energy.reports.rows import CAUSES, Client
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.spread import SPREAD_COLUMNS, over_seeds
from budjoule.energy.reports.words import clean, percent, plural
from budjoule.energy.units import show

CLIENT_ROWS = 25


def render_runs(runs: Sequence[Run], console: Console) -> None:
    """Print one run in full, or several as a comparison."""
    if len(runs) > 1:
        _print_comparison(runs, console)
    for run in runs:
        _print_run(run, console, full=len(runs) == 1)


def sparkline(values: Sequence[float], cells: int, *, ascii_only: bool = False) -> str:
    """Values between 0 and 1 as one line of at most `cells` blocks, each the last value of its share.

    >>> sparkline([0.0, 0.5, 1.0], 3)
    '▁▅█'
    """
    levels = "._-=+*#@" if ascii_only else "▁▂▃▄▅▆▇█"
    picked = values
    if len(values) > cells:
        picked = [values[(index + 1) * len(values) // cells - 1] for index in range(cells)]
    return "".join(levels[min(7, int(8 * max(0.0, min(1.0, value))))] for value in picked)


def _print_run(run: Run, console: Console, *, full: bool) -> None:
    console.print()
    console.print(Text.assemble((clean(run.name), "bold"), f"  {clean(lead(run))}"))
    for text in run.notes:
        console.print(Text.assemble(("note  ", "yellow"), clean(text)))
    grid = Table.grid(padding=(0, 2))
    for wraps in (False, False, True):
        grid.add_column(no_wrap=not wraps)
    for fact in headline(run):
        grid.add_row(
            fact.label, Text(fact.value, style="bold red" if fact.alarm else "bold"), Text(fact.detail, style="dim")
        )
    console.print(Padding(grid, (1, 0, 1, 2), expand=False))
    if run.evaluations:
        curve = sparkline([event.accuracy_frac for event in run.evaluations], 48, ascii_only=console.options.ascii_only)
        first, last = run.evaluations[0], run.evaluations[-1]
        scale = f"{percent(first.accuracy_frac)} to {percent(last.accuracy_frac)}, {show(first.time_s, 's')} to {show(last.time_s, 's')}"
        console.print(Text.assemble("  accuracy  ", (curve, "cyan"), (f"  {scale}", "dim")))
        console.print()
    if run.totals.spent_by_cause_j:
        console.print(Padding(_causes(run, console), (0, 0, 1, 2), expand=False))
    if full and run.clients:
        console.print(_clients(run, console))
        console.print(Text(participation(run), style="dim"))
    if full and run.rejects:
        last_reject = run.rejects[-1]
        refused = f"the server refused {plural(len(run.rejects), 'update')}, the last for: {last_reject.reason}"
        console.print(Text.assemble(("note  ", "yellow"), clean(refused)))
    version = f"budjoule {run.header.get('budjoule_version', '-')}, seed {run.header.get('seed', '-')}"
    console.print(Text(clean(f"{run.source}; {version}"), style="dim"))


def _causes(run: Run, console: Console) -> Table:
    made = table("spent on", "energy", "share", "")
    whole_j = sum(run.totals.spent_by_cause_j.values())
    for cause in _ordered(run.totals.spent_by_cause_j):
        energy_j = run.totals.spent_by_cause_j[cause]
        share_frac = energy_j / whole_j if whole_j else 0.0
        made.add_row(clean(cause), show(energy_j, "J"), percent(share_frac), bar(share_frac, console))
    return made


def _ordered(by_cause: dict[str, float]) -> list[str]:
    return [*(cause for cause in CAUSES if cause in by_cause), *(cause for cause in by_cause if cause not in CAUSES)]


def _clients(run: Run, console: Console) -> Table:
    made = table("client", "spent", "of budget", "", "sends", "up", "down", "examples", "device")
    ranked = sorted(run.clients, key=lambda row: -row.spent_j)
    for row in ranked[:CLIENT_ROWS]:
        made.add_row(*_client_cells(row, console))
    if len(ranked) > CLIENT_ROWS:
        rest = ranked[CLIENT_ROWS:]
        made.add_row(Text(f"{len(rest):,} more", style="dim"), show(sum(row.spent_j for row in rest), "J"))
    return made


def _client_cells(row: Client, console: Console) -> list[str | Text]:
    share_frac = row.spent_j / row.budget_j if row.budget_j else None
    slow = " straggler" if row.straggler else ""
    return [
        Text.assemble(clean(row.client), (slow, "dim")),
        Text(show(row.spent_j, "J"), style="bold red" if row.overspent_j > 0 else ""),
        percent(share_frac),
        bar(share_frac or 0.0, console),
        f"{row.sends:,}",
        show(row.uplink_bytes, "B"),
        show(row.downlink_bytes, "B"),
        "-" if row.examples is None else f"{row.examples:,}",
        clean(row.device),
    ]


def _print_comparison(runs: Sequence[Run], console: Console) -> None:
    made = table("run", "accuracy", "spent", "budget", "to target", "energy to target", "up", "down", "overspent")
    for run in runs:
        totals = run.totals
        made.add_row(
            clean(run.name),
            percent(totals.accuracy_frac),
            show(totals.spent_j, "J"),
            show(totals.budget_j, "J"),
            show(totals.time_to_target_s, "s"),
            show(totals.energy_to_target_j, "J"),
            show(totals.uplink_bytes, "B"),
            show(totals.downlink_bytes, "B"),
            "-" if totals.overspent_clients is None else f"{totals.overspent_clients:,}",
        )
    console.print(made)
    seeds = over_seeds(runs)
    if seeds:
        console.print()
        spread = table(*SPREAD_COLUMNS)
        for row in seeds:
            spread.add_row(*(clean(cell) for cell in row))
        console.print(spread)
    differences = config_differences(runs)
    if differences:
        console.print()
        what = table("what differs", *(clean(run.name) for run in runs))
        for key, values in differences:
            what.add_row(clean(key), *(clean(value) for value in values))
        console.print(what)
