"""Learning curves: accuracy against joules, bytes and time, one line for each configuration."""

from collections.abc import Callable, Sequence

from budjoule.energy.reports.curves import with_lines
from budjoule.energy.reports.plot import Axis, Chart, Mark, axis
from budjoule.energy.reports.rows import Evaluate
from budjoule.energy.reports.spread import SeedGroup
from budjoule.energy.reports.words import percent
from budjoule.energy.units import show

Place = Callable[[Evaluate], float]


def accuracy_by_energy(groups: Sequence[SeedGroup]) -> Chart:
    """Accuracy on held-out examples against joules spent by all clients."""
    runs = [run for group in groups for run in group.runs]
    budgets = {run.totals.budget_j for run in runs}
    spent = [event.spent_j for run in runs for event in run.evaluations]
    marks: list[tuple[float, str]] = []
    budget_j = budgets.pop() if len(budgets) == 1 else None
    # A budget far to the right would squeeze the curve into a corner: then the text alone names it.
    if budget_j is not None and spent and budget_j <= 2.5 * max(spent):
        marks.append((budget_j, f"budget {show(budget_j, 'J')}"))
    x = axis("energy spent, all clients", [*spent, *(at for at, _ in marks)], "J")
    note = f"The budget is {show(budget_j, 'J')}." if budget_j is not None and not marks else ""
    return _accuracy(groups, "Accuracy against energy", x, lambda event: event.spent_j, marks, note)


def accuracy_by_bytes(groups: Sequence[SeedGroup]) -> Chart:
    """Accuracy on held-out examples against bytes that all clients sent and received."""

    def place(event: Evaluate) -> float:
        return event.uplink_bytes + event.downlink_bytes

    x = axis("bytes sent and received, all clients", _places(groups, place), "B")
    return _accuracy(groups, "Accuracy against bytes", x, place, [], "")


def accuracy_by_time(groups: Sequence[SeedGroup]) -> Chart:
    """Accuracy on held-out examples against simulated time."""
    x = axis("simulated time", _places(groups, lambda event: event.time_s), "s")
    return _accuracy(groups, "Accuracy against time", x, lambda event: event.time_s, [], "")


def _places(groups: Sequence[SeedGroup], place: Place) -> list[float]:
    return [place(event) for group in groups for run in group.runs for event in run.evaluations]


def _accuracy(
    groups: Sequence[SeedGroup],
    title: str,
    x: Axis,
    place: Place,
    vertical: Sequence[tuple[float, str]],
    note: str,
) -> Chart:
    runs = [run for group in groups for run in group.runs]
    lowest = min((event.accuracy_frac for run in runs for event in run.evaluations), default=0.0)
    y = axis("accuracy, held-out examples", [1.0], "%", low=0.5 if lowest >= 0.55 else 0.0)
    goals = {run.totals.target_accuracy_frac for run in runs} - {None}
    marks = [
        Mark(text=f"target {percent(goal)}", y_percent=100 * (1 - y.share(goal))) for goal in goals if goal is not None
    ]
    marks += [Mark(text=text, x_percent=100 * x.share(at)) for at, text in vertical]
    ends = [f"{run.name} ends at {percent(run.evaluations[-1].accuracy_frac)}" for run in runs if run.evaluations]
    chart = Chart(
        title=title,
        description=f"{title}. {'; '.join(ends)}." if ends else f"{title}. Nothing was evaluated.",
        x=x,
        y=y,
        marks=tuple(marks),
        note=note,
    )
    return with_lines(
        chart,
        groups,
        lambda run: [(place(event), event.accuracy_frac, _evaluation(event)) for event in run.evaluations],
        percent,
    )


def _evaluation(event: Evaluate) -> str:
    return f"{percent(event.accuracy_frac)} after {show(event.spent_j, 'J')} and {show(event.time_s, 's')}, version {event.version}"
