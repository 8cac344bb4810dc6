"""Prints measurements and ledgers on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from budjoule.energy.reports.console import bar, table
from budjoule.energy.reports.ledger_rows import LedgerFile
from budjoule.energy.reports.records import MeasurementFile
from budjoule.energy.reports.words import clean, interval, percent, plural
from budjoule.energy.units import show

ACCOUNT_ROWS = 40


def render_measurements(records: Sequence[MeasurementFile], console: Console) -> None:
    """Print each measurement: its energy with interval, its domains, and where it comes from."""
    for record in records:
        document = record.to_dict()
        console.print()
        console.print(Text(clean(record.label or "measurement"), style="bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_row("energy", Text(show(record.energy_j, "J"), style="bold green"), interval(document, "energy", "J"))
        if record.net_energy_j is not None:
            above = f"above an idle of {show(record.idle_w, 'W')}, {interval(document, 'net_energy', 'J')}"
            grid.add_row("net", show(record.net_energy_j, "J"), above)
        grid.add_row("time", show(record.duration_s, "s"), "")
        grid.add_row("power", show(record.power_w, "W"), "mean")
        grid.add_row("source", clean(record.source or "-"), clean(record.method or "-"))
        console.print(grid)
        if record.domains:
            console.print()
            console.print(_domains(record, console))
        for text in record.notes:
            console.print(Text.assemble(("note  ", "yellow"), clean(text)))


def render_ledgers(records: Sequence[LedgerFile], console: Console) -> None:
    """Print each ledger: its accounts with what they spent, hold reserved and have left."""
    for record in records:
        console.print()
        console.print(
            Text.assemble((clean(record.path), "bold"), f"  ledger of {plural(len(record.accounts), 'account')}")
        )
        made = table("account", "spent", "of budget", "", "reserved", "left", "budget", "measured")
        for account in sorted(record.accounts, key=lambda account: -account.spent_j)[:ACCOUNT_ROWS]:
            share_frac = account.spent_j / account.budget_j if account.budget_j else None
            made.add_row(
                clean(account.name),
                Text(show(account.spent_j, "J"), style="bold red" if account.overspent_j > 0 else "bold"),
                percent(share_frac),
                bar(share_frac or 0.0, console),
                show(account.reserved_j, "J"),
                show(account.remaining_j, "J"),
                show(account.budget_j, "J"),
                percent(account.measured_j / account.spent_j if account.spent_j else None),
            )
        console.print(made)
        hidden = len(record.accounts) - ACCOUNT_ROWS
        if hidden > 0:
            console.print(Text(f"{hidden:,} more accounts: see --format csv", style="dim"))
        _print_causes(record, console)


def _print_causes(record: LedgerFile, console: Console) -> None:
    causes: dict[str, float] = {}
    for account in record.accounts:
        for cause, energy_j in account.spent_by_cause_j.items():
            causes[cause] = causes.get(cause, 0.0) + energy_j
    if causes:
        parts = ", ".join(f"{clean(cause)} {show(energy_j, 'J')}" for cause, energy_j in causes.items())
        console.print(Text(f"spent on: {parts}"))
    pending = sum(account.open_reservations for account in record.accounts)
    if pending:
        text = f"{plural(pending, 'reservation')} not settled: counted as spent until it is known what ran"
        console.print(Text.assemble(("note  ", "yellow"), text))


def _domains(record: MeasurementFile, console: Console) -> Table:
    made = table("domain", "energy", "share", "", "counted")
    for name, energy_j in record.domains.items():
        share_frac = energy_j / record.energy_j if record.energy_j else 0.0
        counted = "in the total" if name in record.summed else "inside another" if record.summed else ""
        made.add_row(clean(name), show(energy_j, "J"), percent(share_frac), bar(share_frac, console), counted)
    return made
