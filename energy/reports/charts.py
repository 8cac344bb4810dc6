"""The curves and dots of run folders: accuracy, bytes, and sends over time."""

import math
from collections.abc import Callable, Sequence

from budjoule.energy.reports.plot import Axis, Chart, Dot, Mark, Tick, axis, series
from budjoule.energy.reports.rows import Evaluate, Send
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.words import percent, plural
from budjoule.energy.units import show

MOST_DOTS = 4000
MOST_ROWS = 40
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
    lost = sum(send.lost for send in run.sends)
    notes = [f"{plural(lost, 'send')} lost on the way: hollow dots."] if lost else []
    if left_out:
        notes.append(f"Of {len(run.sends):,} sends, {left_out:,} that would cover another dot are left out.")
    return Chart(
        title="Sends over time",
        description=f"{plural(len(run.sends), 'send')} by {plural(len({s.client for s in run.sends}), 'client')}, coloured by staleness.",
        x=x,
        y=_row_axis(list(row_of)),
        dots=dots,
        legend=tuple((name, index) for index, (_, name) in enumerate(STALENESS)),
        note=" ".join(notes),
    )


def _accuracy(
    runs: Sequence[Run],
    title: str,
    x: Axis,
    place: Callable[[Evaluate], float],
    vertical: Sequence[tuple[float, str]],
    note: str,
) -> Chart:
    curves = [run.evaluations for run in runs]
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
        if send.lost:
            title += ", lost on the way"
        dots.append(
            Dot(
                x_percent=100 * x.share(send.time_s),
                y_percent=100 * (row_of[send.client] + 0.5) / len(row_of),
                title=title,
                colour=next(index for index, (most, _) in enumerate(STALENESS) if stale <= most),
                hollow=send.lost,
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
