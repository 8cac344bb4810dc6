"""How clients' budgets ran down: a small line for each client, and the fleet's range."""

from collections.abc import Sequence

from budjoule.energy.reports.plot import PATH_UNITS, Chart, axis, band, series
from budjoule.energy.reports.rows import Client
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.units import show

FLEET_POINTS = 60

Path = list[tuple[float, float]]


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


def sparkline(row: Client, path: Path, end_s: float) -> tuple[str, str]:
    """A client's path as an SVG path in the 1000 by 1000 box, and in words."""
    most_j = row.budget_j or row.spent_j or 1.0
    steps, before_j = [], 0.0
    for time_s, spent_j in path:  # what was spent since the last send is spent by this one: a stair
        right = PATH_UNITS * (time_s / end_s if end_s else 1.0)
        steps += [f"{right:.0f} {PATH_UNITS * (1 - min(1.0, level / most_j)):.0f}" for level in (before_j, spent_j)]
        before_j = spent_j
    said = f"client {row.client}: {show(row.spent_j, 'J')} spent in {len(path) - 2} sends"
    return "M" + "L".join(steps), said + (f" of {show(row.budget_j, 'J')}" if row.budget_j else "")


def fleet_path(run: Run) -> Chart:
    """What the clients have spent over time: the median, and the range of nine in ten."""
    paths, end_s = list(paths_by_client(run).values()), run.totals.simulated_duration_s or 0.0
    x, edges, middles = axis("simulated time", [end_s], "s"), [], []
    for step in range(FLEET_POINTS + 1 if paths and end_s else 0):
        at_s = end_s * step / FLEET_POINTS
        spent = sorted(_spent_by(path, at_s) for path in paths)
        low, middle, high = (spent[min(len(spent) - 1, int(share * len(spent)))] for share in (0.05, 0.5, 0.95))
        edges.append((at_s, low, high))
        middles.append((at_s, middle, f"by {show(at_s, 's')} half of the clients spent {show(middle, 'J')} or less"))
    y = axis("spent by a client", [high for _, _, high in edges], "J")
    return Chart(
        title="Budgets over time",
        description=f"Half of the clients spent {show(middles[-1][1], 'J')} or less by the end."
        if middles
        else "Nothing was spent.",
        x=x,
        y=y,
        series=(series("median", middles, x, y),),
        bands=(band(edges, x, y),),
        note="Line: the median client; band: nine in ten of them. Each client's own path stands in the table below."
        if any(send.spent_j is not None for send in run.sends)
        else "",
    )


def _spent_by(path: Sequence[tuple[float, float]], at_s: float) -> float:
    return next((spent_j for time_s, spent_j in reversed(path) if time_s <= at_s), 0.0)
