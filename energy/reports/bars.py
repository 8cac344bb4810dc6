"""The bars of reports: joules by cause of each client, account or run, and sends of each client."""

import math
from collections.abc import Sequence

from budjoule.energy.reports.facts import participation
from budjoule.energy.reports.plot import Bar, BarChart, Segment, axis
from budjoule.energy.reports.rows import CAUSES, Client
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.words import plural
from budjoule.energy.units import show

MOST_BARS = 600


def sends_by_client(run: Run) -> BarChart:
    """Sends of each client, most first."""
    groups = _grouped(sorted(run.clients, key=lambda row: (-row.sends, row.straggler)))
    scale = axis("sends", [row.sends for row in run.clients], "")
    bars = []
    for group in groups:
        name, mean = _group_name(group, "client"), _mean([row.sends for row in group])
        kind = "straggler" if sum(row.straggler for row in group) * 2 > len(group) else "prompt"
        title = f"{name}: {plural(sum(row.sends for row in group), 'send')}{_slow(group)}"
        part = Segment(start_percent=0.0, size_percent=100 * mean / scale.high, title=title, kind=kind)
        bars.append(Bar(name=name, total=f"{mean:,.3g}", segments=(part,)))
    return BarChart(
        title="Participation",
        description=participation(run),
        axis=scale,
        bars=tuple(bars),
        legend=(("stragglers", "straggler"), ("others", "prompt")) if any(row.straggler for row in run.clients) else (),
        note=_grouping(groups, "client"),
        below="clients, most sends first",
    )


def spending_by_client(clients: Sequence[Client], *, noun: str = "client") -> BarChart:
    """Joules of each client by cause, most spent first, each with its budget marked.

    Args:
        clients: Who spent what.
        noun: What the rows are called: a ledger has accounts.
    """
    most_j = max((row.spent_j for row in clients), default=0.0)
    # A budget far beyond what was spent would squeeze every bar into a sliver: then the note alone names it.
    shown = [
        row.budget_j for row in clients if row.budget_j is not None and (row.budget_j <= 10 * most_j or not most_j)
    ]
    scale = axis(f"energy of each {noun}", [most_j, *shown], "J")
    groups = _grouped(sorted(clients, key=lambda row: -row.spent_j))
    over = sum(row.overspent_j > 0 for row in clients)
    spent = show(sum(row.spent_j for row in clients), "J")
    return BarChart(
        title=f"Energy spent by each {noun}",
        description=f"{spent} by {plural(len(clients), noun)}; {over} spent above the budget.",
        axis=scale,
        bars=tuple(_spending(group, noun, scale.high) for group in groups),
        legend=tuple((cause, cause) for cause in CAUSES),
        note=" ".join(filter(None, (_budget_note(clients, noun, scale.high), _grouping(groups, noun)))),
        below=f"{noun}s, most spent first",
    )


def spending_by_run(runs: Sequence[Run]) -> BarChart:
    """Joules of each run by cause."""
    scale = axis("energy", [run.totals.spent_j or 0.0 for run in runs], "J")
    bars = tuple(
        Bar(
            name=run.name,
            total=show(run.totals.spent_j, "J"),
            segments=_stacked(
                run.totals.spent_by_cause_j or {"split by cause at the end": run.totals.spent_j or 0.0},
                scale.high,
                run.name,
            ),
            detail=f"{run.name}: {show(run.totals.spent_j, 'J')}",
        )
        for run in runs
    )
    described = "; ".join(bar.detail for bar in bars)
    legend = tuple((cause, cause) for cause in CAUSES)
    return BarChart(title="Energy spent by each run", description=described, axis=scale, bars=bars, legend=legend)


def _spending(group: Sequence[Client], noun: str, whole_j: float) -> Bar:
    name = _group_name(group, noun)
    spent_j, overspent_j = _mean([row.spent_j for row in group]), sum(row.overspent_j for row in group)
    budgets = [row.budget_j for row in group if row.budget_j is not None]
    causes = dict.fromkeys([*CAUSES, *(cause for row in group for cause in row.spent_by_cause_j)])
    by_cause = {cause: _mean([row.spent_by_cause_j.get(cause, 0.0) for row in group]) for cause in causes}
    alarm = f", overspent by {show(overspent_j, 'J')}" if overspent_j > 0 else ""
    budget = f" of {show(_mean(budgets), 'J')}" if budgets else ""
    return Bar(
        name=name,
        total=show(spent_j, "J"),
        segments=_stacked(by_cause, whole_j, f"{name}{_slow(group)}"),
        limit_percent=100 * _mean(budgets) / whole_j if budgets and _mean(budgets) <= whole_j else None,
        alarm=overspent_j > 0,
        detail=f"{name}: {show(spent_j, 'J')}{budget}{alarm}",
    )


def _stacked(by_cause: dict[str, float], whole_j: float, name: str) -> tuple[Segment, ...]:
    parts, start = [], 0.0
    for cause, energy_j in by_cause.items():
        size = 100 * energy_j / whole_j
        kind = cause if cause in CAUSES else "other"
        parts.append(
            Segment(start_percent=start, size_percent=size, title=f"{name}, {cause}: {show(energy_j, 'J')}", kind=kind)
        )
        start += size
    return tuple(parts)


def _grouped(rows: Sequence[Client]) -> list[Sequence[Client]]:
    each = max(1, math.ceil(len(rows) / MOST_BARS))
    return [rows[start : start + each] for start in range(0, len(rows), each)]


def _budget_note(clients: Sequence[Client], noun: str, scale_j: float) -> str:
    budgets = sorted({row.budget_j for row in clients if row.budget_j is not None})
    if not budgets:
        return ""
    amount = f" ({show(budgets[0], 'J')})" if len(budgets) == 1 else ""
    if budgets[0] > scale_j:
        return f"Each {noun}'s budget{amount} lies far beyond this scale."
    return f"The thin mark is each {noun}'s budget{amount}."


def _grouping(groups: Sequence[Sequence[Client]], noun: str) -> str:
    each = max((len(group) for group in groups), default=1)
    return f"Each column is the mean of {each} {noun}s." if each > 1 else ""


def _group_name(group: Sequence[Client], noun: str) -> str:
    return f"{noun} {group[0].client}" if len(group) == 1 else f"mean of {len(group)} {noun}s"


def _slow(group: Sequence[Client]) -> str:
    return " (straggler)" if len(group) == 1 and group[0].straggler else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
