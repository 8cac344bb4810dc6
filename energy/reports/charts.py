"""The charts of run folders: accuracy, bytes, sends, and joules by cause."""

import math
from collections.abc import Callable, Sequence

from budjoule.energy.reports.facts import participation
from budjoule.energy.reports.plot import Axis, Bar, BarChart, Chart, Dot, Mark, Segment, Tick, axis, series
from budjoule.energy.reports.run_folder import CAUSES, Client, Evaluate, Run, Send
from budjoule.energy.reports.words import percent, plural
from budjoule.energy.units import show

MOST_DOTS = 4000
MOST_ROWS = 40
MOST_BARS = 600
STALENESS = ((0, "0"), (2, "1 to 2"), (5, "3 to 5"), (math.inf, "6 or more"))


def accuracy_by_energy(runs: Sequence[Run]) -> Chart:
    """Accuracy on held-out examples against joules spent by all clients."""
    budgets = {run.totals.budget_j for run in runs}
    spent = [event.spent_j for run in runs for event in run.evaluations]
    marks: list[tuple[float, str]] = []
    budget_j = budgets.pop() if len(budgets) == 1 else None
    # A budget far to the right would squeeze the curve into a corner: then the text alone names it.
    if budget_j is not None and spent and budget_j <= 2.5 * max(spent):
        marks.append((budget_j, f"budget {show(budget_j, 'J')}"))
    x = axis("energy spent, all clients", [*spent, *(at for at, _ in marks)], "J")
    note = f"The budget is {show(budget_j, 'J')}." if budget_j is not None and not marks else ""
    return _accuracy(runs, "Accuracy against energy", x, lambda event: event.spent_j, marks, note)


def accuracy_by_time(runs: Sequence[Run]) -> Chart:
    """Accuracy on held-out examples against simulated time."""
    x = axis("simulated time", [event.time_s for run in runs for event in run.evaluations], "s")
    return _accuracy(runs, "Accuracy against time", x, lambda event: event.time_s, [], "")


def bytes_by_time(run: Run) -> Chart:
    """Bytes sent up and down by all clients, summed over time."""
    events = run.evaluations
    x = axis("simulated time", [event.time_s for event in events], "s")
    y = axis("bytes since the start", [max(event.uplink_bytes, event.downlink_bytes) for event in events], "B")
    up = [(e.time_s, e.uplink_bytes, f"{show(e.uplink_bytes, 'B')} sent up by {show(e.time_s, 's')}") for e in events]
    down = [
        (e.time_s, e.downlink_bytes, f"{show(e.downlink_bytes, 'B')} received by {show(e.time_s, 's')}") for e in events
    ]
    return Chart(
        title="Bytes on the links",
        description=f"Clients sent {show(run.totals.uplink_bytes, 'B')} up and received {show(run.totals.downlink_bytes, 'B')}.",
        x=x,
        y=y,
        series=(series("sent up", up, x, y, colour=1), series("received", down, x, y, colour=2)),
        legend=(("sent up", 1), ("received", 2)),
    )


def timeline(run: Run) -> Chart:
    """Every send: which client, when, and how stale its base version was."""
    order = [row.client for row in run.clients] or sorted({send.client for send in run.sends}, key=str)
    row_of = {client: index for index, client in enumerate(order)}
    for send in run.sends:  # a client that the summary does not list still shows
        row_of.setdefault(send.client, len(row_of))
    last_s = max([send.time_s for send in run.sends], default=0.0)
    x = axis("simulated time", [max(last_s, run.totals.simulated_duration_s or 0.0)], "s")
    dots, left_out = _send_dots(run.sends, row_of, x)
    note = f"Of {len(run.sends):,} sends, {left_out:,} that would cover another dot are left out." if left_out else ""
    return Chart(
        title="Sends over time",
        description=f"{plural(len(run.sends), 'send')} by {plural(len({s.client for s in run.sends}), 'client')}, coloured by staleness.",
        x=x,
        y=_row_axis(list(row_of)),
        dots=dots,
        legend=tuple((name, index) for index, (_, name) in enumerate(STALENESS)),
        note=note,
    )


def sends_by_client(run: Run) -> BarChart:
    """Sends of each client, most first."""
    groups = _grouped(sorted(run.clients, key=lambda row: (-row.sends, row.straggler)))
    scale = axis("sends", [row.sends for row in run.clients], "")
    bars = []
    for group in groups:
        name, mean = _group_name(group), _mean([row.sends for row in group])
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
        note=_grouping(groups),
    )


def spending_by_client(run: Run) -> BarChart:
    """Joules of each client by cause, most spent first, each with its budget marked."""
    scale = axis("energy", [max(row.spent_j, row.budget_j or 0.0) for row in run.clients], "J")
    groups = _grouped(sorted(run.clients, key=lambda row: -row.spent_j))
    bars = []
    for group in groups:
        name = _group_name(group)
        spent_j, overspent_j = _mean([row.spent_j for row in group]), sum(row.overspent_j for row in group)
        budgets = [row.budget_j for row in group if row.budget_j is not None]
        by_cause = {cause: _mean([row.spent_by_cause_j.get(cause, 0.0) for row in group]) for cause in CAUSES}
        alarm = f", overspent by {show(overspent_j, 'J')}" if overspent_j > 0 else ""
        budget = f" of {show(_mean(budgets), 'J')}" if budgets else ""
        bars.append(
            Bar(
                name=name,
                total=show(spent_j, "J"),
                segments=_stacked(by_cause, scale.high, f"{name}{_slow(group)}"),
                limit_percent=100 * _mean(budgets) / scale.high if budgets else None,
                alarm=overspent_j > 0,
                detail=f"{name}: {show(spent_j, 'J')}{budget}{alarm}",
            )
        )
    over = sum(row.overspent_j > 0 for row in run.clients)
    return BarChart(
        title="Energy spent by each client",
        description=f"{show(run.totals.spent_j, 'J')} by {plural(len(run.clients), 'client')}; {over} spent above the budget.",
        axis=scale,
        bars=tuple(bars),
        legend=tuple((cause, cause) for cause in CAUSES),
        note=" ".join(filter(None, (_budget_note(run), _grouping(groups)))),
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


def _accuracy(
    runs: Sequence[Run],
    title: str,
    x: Axis,
    place: Callable[[Evaluate], float],
    vertical: Sequence[tuple[float, str]],
    note: str,
) -> Chart:
    curves = [[event for event in run.evaluations] for run in runs]
    lowest = min((event.accuracy_frac for curve in curves for event in curve), default=0.0)
    y = axis("accuracy, held-out examples", [1.0], "%", low=0.5 if lowest >= 0.55 else 0.0)
    targets = {run.totals.target_accuracy_frac for run in runs} - {None}
    marks = [
        Mark(text=f"target {percent(goal)}", y_percent=100 * (1 - y.share(goal)))
        for goal in targets
        if goal is not None
    ]
    marks += [Mark(text=text, x_percent=100 * x.share(at)) for at, text in vertical]
    lines = []
    for index, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        lead = f"{run.name}: " if len(runs) > 1 else ""
        points = [(place(e), e.accuracy_frac, lead + _evaluation(e)) for e in curve]
        lines.append(series(run.name, points, x, y, colour=index % 8))
    ends = [
        f"{run.name} ends at {percent(curve[-1].accuracy_frac)}"
        for run, curve in zip(runs, curves, strict=True)
        if curve
    ]
    legend = tuple((line.name, line.colour) for line in lines) if len(runs) > 1 else ()
    described = f"{title}. {'; '.join(ends)}." if ends else f"{title}. Nothing was evaluated."
    return Chart(
        title=title, description=described, x=x, y=y, series=tuple(lines), marks=tuple(marks), legend=legend, note=note
    )


def _evaluation(event: Evaluate) -> str:
    return f"{percent(event.accuracy_frac)} after {show(event.spent_j, 'J')} and {show(event.time_s, 's')}, version {event.version}"


def _send_dots(sends: Sequence[Send], row_of: dict[int | str, int], x: Axis) -> tuple[tuple[Dot, ...], int]:
    """The sends as dots, thinned where there are too many: of those in one spot the stalest stays."""
    kept = list(sends)
    cells = 1200
    while len(kept) > MOST_DOTS and cells > 20:
        spots: dict[tuple[int, int], Send] = {}
        rows = max(1, len(row_of) // min(len(row_of), cells // 3))
        for send in sends:
            spot = (int(cells * x.share(send.time_s)), row_of[send.client] // rows)
            if spot not in spots or (send.staleness or 0) > (spots[spot].staleness or 0):
                spots[spot] = send
        kept = list(spots.values())
        cells = int(0.8 * cells)
    dots = []
    for send in sorted(kept, key=lambda send: send.staleness or 0):
        stale = send.staleness or 0
        title = f"client {send.client} at {show(send.time_s, 's')}: {show(send.size_bytes, 'B')}, {show(send.energy_j, 'J')}"
        if send.staleness is not None:
            title += f", staleness {send.staleness:g}"
        dots.append(
            Dot(
                x_percent=100 * x.share(send.time_s),
                y_percent=100 * (row_of[send.client] + 0.5) / len(row_of),
                title=title,
                colour=next(index for index, (most, _) in enumerate(STALENESS) if stale <= most),
            )
        )
    return tuple(dots), len(sends) - len(dots)


def _row_axis(names: Sequence[int | str]) -> Axis:
    every = max(1, math.ceil(len(names) / MOST_ROWS))
    ticks = [
        Tick(at_percent=100 * (1 - (index + 0.5) / len(names)), text=str(name))
        for index, name in enumerate(names)
        if index % every == 0
    ]
    return Axis(label="client", low=0.0, high=float(max(1, len(names))), ticks=tuple(ticks))


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


def _budget_note(run: Run) -> str:
    budgets = {row.budget_j for row in run.clients} - {None}
    if not budgets:
        return ""
    amount = f", {show(budgets.pop(), 'J')}" if len(budgets) == 1 else ""
    return f"The thin mark is each client's budget{amount}."


def _grouping(groups: Sequence[Sequence[Client]]) -> str:
    each = max((len(group) for group in groups), default=1)
    return f"Each column is the mean of {each} clients." if each > 1 else ""


def _group_name(group: Sequence[Client]) -> str:
    return f"client {group[0].client}" if len(group) == 1 else f"mean of {len(group)} clients"


def _slow(group: Sequence[Client]) -> str:
    return " (straggler)" if len(group) == 1 and group[0].straggler else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
