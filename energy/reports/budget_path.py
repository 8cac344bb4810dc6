"""How clients' budgets ran down: a small line for each client, and the fleet's range."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from budjoule.energy.reports.curves import with_lines
from budjoule.energy.reports.plot import Chart, axis, band
from budjoule.energy.reports.rows import Client
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.spread import SeedGroup
from budjoule.energy.reports.words import plural
from budjoule.energy.units import show

FLEET_POINTS = 60
SPARK_UNITS = 100
CLIENTS_A_SHEET = 1000
MOST_PATHS = 50_000
FAR = 10.0  # budget over the most that a client spent from which on a line on the budget's scale would be flat

Path = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Some clients with what they spent and their paths: `(name, joules, SVG path)`."""

    title: str
    clients: tuple[tuple[str, str, str], ...]


def paths_by_client(run: Run) -> dict[int | str, Path]:
    """What each client had spent by the end of each of its sends and of the run: `(time, joules)`, rising. [s, J]"""
    paths: dict[int | str, Path] = {row.client: [(0.0, 0.0)] for row in run.clients}
    for send in run.sends:
        if send.spent_j is not None:
            paths.setdefault(send.client, [(0.0, 0.0)]).append((send.time_s, send.spent_j))
    end_s = run.totals.simulated_duration_s or 0.0
    for row in run.clients:
        paths[row.client].append((max(end_s, paths[row.client][-1][0]), row.spent_j))
    return paths


def sparkline(row: Client, path: Path, end_s: float, most_j: float) -> str:
    """A client's path as an SVG path in the 100 by 100 box: a stair with a step a send.

    Args:
        row: The client.
        path: What it had spent by when. [s, J]
        end_s: Time at the right edge. [s]
        most_j: What any client spent at most: the upper edge where the budget lies too far beyond it. [J]
    """
    high_j = row.budget_j if row.budget_j and not _far(row.budget_j, most_j) else most_j or 1.0
    levels = {
        round(SPARK_UNITS * (min(1.0, time_s / end_s) if end_s else 1.0)): round(
            SPARK_UNITS * (1 - min(1.0, spent_j / high_j))
        )
        for time_s, spent_j in path
    }
    line, before = f"M0 {SPARK_UNITS}", SPARK_UNITS
    for right, down in levels.items():
        if down != before:
            line, before = f"{line}H{right}V{down}", down
    return f"{line}H{SPARK_UNITS}"


def spark_words(row: Client, path: Path) -> str:
    """A client's path in words."""
    said = f"client {row.client}: {show(row.spent_j, 'J')} spent in {len(path) - 2} sends"
    return said + (f" of {show(row.budget_j, 'J')}" if row.budget_j else "")


def path_sheets(run: Run, paths: dict[int | str, Path]) -> list[Sheet]:
    """The paths of the run's clients in the run's order, some hundred bytes each, at most `MOST_PATHS`."""
    end_s = run.totals.simulated_duration_s or 0.0
    rows, most_j = run.clients[:MOST_PATHS], max((row.spent_j for row in run.clients), default=0.0)
    return [
        Sheet(
            title=f"client {some[0].client} to {some[-1].client}",
            clients=tuple(
                (str(row.client), show(row.spent_j, "J"), sparkline(row, paths[row.client], end_s, most_j))
                for row in some
            ),
        )
        for start in range(0, len(rows), CLIENTS_A_SHEET)
        if (some := rows[start : start + CLIENTS_A_SHEET])
    ]


def paths_note(run: Run) -> str:
    """How to read the small lines, and how many clients have none."""
    most_j, unseen = max((row.spent_j for row in run.clients), default=0.0), len(run.clients) - MOST_PATHS
    budgets = [row.budget_j for row in run.clients if row.budget_j]
    near = sum(not _far(budget_j, most_j) for budget_j in budgets)
    height = "its budget" if near else f"{show(most_j, 'J')}, the most that any client spent"
    if 0 < near < len(run.clients):
        height += f", or {show(most_j, 'J')} where there is none or it lies far beyond"
    text = f"A client's small line rises with what it has spent; its box is as wide as the run and as high as {height}."
    if unseen > 0:
        text += f" {plural(unseen, 'client')} more are not drawn: 'budjoule report RUN --json' has their sends."
    return text


def fleet_path(groups: Sequence[SeedGroup]) -> Chart:
    """What the median client has spent over time; of a single run also the range of nine clients in ten."""
    runs = [run for group in groups for run in group.runs]
    ranges = [_ranges(run) for run in runs]
    of_run = {id(run): found for run, found in zip(runs, ranges, strict=True)}
    lone = ranges[0] if len(runs) == 1 else []
    ends = [found[-1][2] for found in ranges if found]
    x = axis("simulated time", [run.totals.simulated_duration_s or 0.0 for run in runs], "s")
    y = axis(
        "spent by a client" if lone else "spent by the median client",
        [high if lone else middle for found in ranges for _, _, middle, high in found],
        "J",
    )
    chart = Chart(
        title="Budgets over time",
        description=f"Half of the clients spent {' or '.join(show(end, 'J') for end in ends)} or less by the end."
        if ends
        else "Nothing was spent.",
        x=x,
        y=y,
        note="Line: the median client; band: nine in ten of them. Each client's own path stands under Clients."
        if lone and any(send.spent_j is not None for send in runs[0].sends)
        else "",
        empty="Nothing was spent.",
    )
    chart = with_lines(
        chart,
        groups,
        lambda run: [
            (at_s, middle, f"by {show(at_s, 's')} half of the clients spent {show(middle, 'J')} or less")
            for at_s, _, middle, _ in of_run[id(run)]
        ],
        lambda spent_j: show(spent_j, "J"),
    )
    return replace(chart, bands=(band([(at, low, high) for at, low, _, high in lone], x, y),)) if lone else chart


def _far(budget_j: float, most_j: float) -> bool:
    return budget_j > FAR * most_j > 0


def _ranges(run: Run) -> list[tuple[float, float, float, float]]:
    """The time, and the 5th, 50th and 95th percentile of what the clients had spent by then. [s, J]"""
    paths, end_s = list(paths_by_client(run).values()), run.totals.simulated_duration_s or 0.0
    ranges = []
    for step in range(FLEET_POINTS + 1 if paths and end_s else 0):
        at_s = end_s * step / FLEET_POINTS
        spent = sorted(_spent_by(path, at_s) for path in paths)
        low, middle, high = (spent[min(len(spent) - 1, int(share * len(spent)))] for share in (0.05, 0.5, 0.95))
        ranges.append((at_s, low, middle, high))
    return ranges


def _spent_by(path: Sequence[tuple[float, float]], at_s: float) -> float:
    return next((spent_j for time_s, spent_j in reversed(path) if time_s <= at_s), 0.0)
