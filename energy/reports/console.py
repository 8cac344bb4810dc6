"""Prints estimates on a terminal: headline with interval, comparison of devices, modules, ops, and what to know."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from budjoule.energy.estimate import Estimate
from budjoule.energy.reports.tree import Branch, folded, module_tree
from budjoule.energy.reports.words import clean, interval, percent, times, unruled_note
from budjoule.energy.units import show

BAR_CELLS = 12


def render_estimates(estimates: Sequence[Estimate], console: Console) -> None:
    """Print one estimate, or several of one workload with a comparison first.

    Args:
        estimates: What to show, in the order to show it.
        console: Where to print; its width and colours are respected.
    """
    render_estimate_rows([estimate.to_dict() for estimate in estimates], console)


def render_estimate_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The same for estimates read back from JSON (schema `budjoule.estimate/1`)."""
    if len(rows) > 1:
        console.print(_comparison(rows))
    for row in rows:
        console.print()
        console.print(_title(row))
        console.print(_headline(row))
        console.print(_modules(row, depth=4 if len(rows) == 1 else 2, console=console))
        console.print(_ops(row, limit=10 if len(rows) == 1 else 5, console=console))
    _print_notes(rows, console)


def bar(share_frac: float, console: Console) -> Text:
    """A share of one as a bar of `BAR_CELLS` cells."""
    eighths = round(max(0.0, min(1.0, share_frac)) * BAR_CELLS * 8)
    if console.options.ascii_only:
        return Text("#" * round(eighths / 8), style="cyan")
    return Text("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), style="cyan")


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table: the first column of text, the others of numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for index, name in enumerate(columns):
        numeric = index > 0 and name != ""
        made.add_column(name, justify="right" if numeric else "left", overflow="fold" if index == 0 else "ellipsis")
        made.columns[-1].no_wrap = index > 0
    made.columns[0].min_width = 16
    return made


def _title(row: Mapping[str, Any]) -> Text:
    kind = row["mode"] if not row.get("optimizer") else f"{row['mode']} with {row['optimizer']}"
    name = f"{row['model']} on {row['device']}"
    return Text.assemble((clean(name), "bold"), f"  {clean(kind)}, {clean(row['precision'])}, one step")


def _headline(row: Mapping[str, Any]) -> Padding:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("energy", Text(show(row["energy_j"], "J"), style="bold green"), interval(row, "energy", "J"))
    grid.add_row("time", Text(show(row["duration_s"], "s"), style="bold"), interval(row, "duration", "s"))
    clock = f"at {show(row['clock_hz'], 'Hz')}" + (", lowered to meet the power limit" if row["power_limited"] else "")
    grid.add_row("power", show(row["power_w"], "W"), f"mean, {clock}")
    idle = f"{show(row['idle_energy_j'], 'J')} of the energy: the device would draw it idle"
    if row.get("peak_memory_bytes"):
        grid.add_row("memory", show(row["peak_memory_bytes"], "B"), "at its peak, beside the framework's own")
    grid.add_row("work", show(row["flop"], "FLOP"), f"{show(row['moved_bytes'], 'B')} read and written by its ops")
    grid.add_row("idle", percent(row["idle_energy_j"] / row["energy_j"] if row["energy_j"] else 0.0), idle)
    grid.add_row("source", clean(row["source"]), f"profile {clean(row['device'])}, {clean(row['status'])}")
    return Padding(grid, (0, 0, 1, 2), expand=False)


def _comparison(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = table("device", "energy", "90 % interval", "time", "power", "clock", "× least")
    least_j = min(row["energy_j"] for row in rows)
    for row in rows:
        made.add_row(
            Text.assemble(clean(row["device"]), (f" {clean(row['status'])}", "dim")),
            Text(show(row["energy_j"], "J"), style="bold green" if row["energy_j"] == least_j else "bold"),
            f"{show(row['energy_low_j'], 'J')} to {show(row['energy_high_j'], 'J')}",
            show(row["duration_s"], "s"),
            show(row["power_w"], "W"),
            show(row["clock_hz"], "Hz") + ("*" if row["power_limited"] else ""),
            times(row["energy_j"] / least_j) if least_j else "-",
        )
    if any(row["power_limited"] for row in rows):
        made.caption, made.caption_justify = "* lowered to meet the power limit", "left"
    return made


def _modules(row: Mapping[str, Any], *, depth: int, console: Console) -> Table:
    root = module_tree(row["by_module"], clean(row["model"]))
    made = table("module", "energy", "share", "", "time")
    _add_branch(made, folded(root, min_frac=0.01, depth=depth), root.energy_j, "", "", console)
    return made


def _add_branch(made: Table, branch: Branch, whole_j: float, lead: str, below: str, console: Console) -> None:
    share_frac = branch.energy_j / whole_j if whole_j else 0.0
    times = f"  {branch.repeats} blocks" if branch.repeats > 1 else ""
    made.add_row(
        Text.assemble((lead, "dim"), clean(branch.label), (times, "dim")),
        show(branch.energy_j, "J"),
        percent(share_frac),
        bar(share_frac, console),
        show(branch.duration_s, "s"),
    )
    tee, end, pipe = ("|- ", "`- ", "|  ") if console.options.ascii_only else ("├─ ", "└─ ", "│  ")
    for index, child in enumerate(branch.children):
        last = index == len(branch.children) - 1
        _add_branch(made, child, whole_j, below + (end if last else tee), below + ("   " if last else pipe), console)


def _ops(row: Mapping[str, Any], *, limit: int, console: Console) -> Padding:
    made = table("op", "energy", "share", "", "time", "calls", "work", "moved")
    for op in row["by_op"][:limit]:
        share_frac = op["energy_j"] / row["energy_j"] if row["energy_j"] else 0.0
        made.add_row(
            clean(op["name"]),
            show(op["energy_j"], "J"),
            percent(share_frac),
            bar(share_frac, console),
            show(op["duration_s"], "s"),
            f"{op['calls']:,}",
            show(op["flop"], "FLOP"),
            show(op["moved_bytes"], "B"),
        )
    rest = row["by_op"][limit:]
    if rest:
        rest_j = sum(op["energy_j"] for op in rest)
        share_frac = rest_j / row["energy_j"] if row["energy_j"] else 0.0
        made.add_row(
            Text(f"{len(rest)} more", style="dim"), show(rest_j, "J"), percent(share_frac), bar(share_frac, console)
        )
    return Padding(made, (1, 0, 0, 0), expand=False)


def _print_notes(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    lines: dict[str, list[str]] = {}
    for row in rows:
        for note in (*unruled_note(row["unruled_energy_frac"]), *row["notes"]):
            lines.setdefault(note, []).append(row["device"])
    if lines:
        console.print()
    for note, devices in lines.items():
        where = "" if len(devices) == len(rows) else f" ({', '.join(devices)})"
        console.print(Text.assemble(("note  ", "yellow"), clean(note + where)))
