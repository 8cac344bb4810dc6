"""The fleet benchmark's tables, in Markdown, from its rows."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from fleet_cells import CELLS, METHODS, SEEDS, TARGETS, name

Row = dict[str, Any]
TIME, JOULES, UP, DOWN, ACCURACY = range(5)


def reached(row: Row, target: float, column: int) -> float | None:
    """Time, joules or bytes at the first evaluation that reached the target; None where none did."""
    return next((point[column] for point in row["curve"] if point[ACCURACY] >= target), None)


def accuracy_at(row: Row, limit: float, columns: tuple[int, ...]) -> float:
    """The best accuracy before so much energy, or traffic, was spent."""
    return max((p[ACCURACY] for p in row["curve"] if sum(p[column] for column in columns) <= limit), default=0.0)


def print_tables(rows: list[Row]) -> None:
    """A table for each cell that has rows, and what was not run."""
    for cell in dict.fromkeys(row["cell"] for row in rows):
        print_cell(cell, [row for row in rows if row["cell"] == cell])
    wanted = [
        (name(cell), method)
        for group in ("main", "scarce", "lte", "margins")
        for cell in CELLS[group]
        for method in METHODS
    ]
    done = {(row["cell"], row["method"]) for row in rows}
    missing: dict[str, list[str]] = {}
    for cell, method in wanted:
        if (cell, method) not in done:
            missing.setdefault(cell, []).append(method)
    print("\nNot run:\n")
    for cell, methods in missing.items():
        print(f"- {cell}: {'every method' if len(methods) == len(METHODS) else ', '.join(methods)}")
    grid = list(map(name, CELLS["grid"]))
    lacking = {method: sum((cell, method) not in done for cell in grid) for method in METHODS}
    said = ", ".join(f"{method} in {count}" for method, count in lacking.items() if count)
    print(f"- of the grid's {len(grid)} cells: {said or 'nothing'}")
    for method in ("budjoule", "budjoule - damping"):
        print_grid_cells([row for row in rows if row["seed"] == SEEDS[0]], method)


def print_grid_cells(rows: list[Row], method: str) -> None:
    """Of all clients, stragglers and partitions, one seed: where a method is ahead of FedBuff, as it was tuned first and last, and where not."""
    ahead, behind, absent = 0, [], 0
    for cell in map(name, CELLS["grid"]):
        found = {row["method"]: row for row in rows if row["cell"] == cell}
        theirs = [found[rival] for rival in ("fedbuff", "fedbuff, buffer 10") if rival in found]
        if method not in found or not theirs:
            absent += 1
            continue
        target = targets(cell)[0]
        costs = [[reached(row, target, column) for column in (TIME, JOULES)] for row in (found[method], *theirs)]
        if all(
            m is not None and (t is None or m < t) for their in costs[1:] for m, t in zip(costs[0], their, strict=True)
        ):
            ahead += 1
        else:
            ends = " and ".join(f"{row['accuracy_frac']:.2f}" for row in theirs)
            behind.append(f"{cell}: ends at {found[method]['accuracy_frac']:.2f}, FedBuff at {ends}")
    print(
        f"\nIn {ahead} of {len(CELLS['grid']) - absent} cells {method} reaches the first target sooner and on fewer joules"
    )
    print(
        f"than FedBuff (seed {SEEDS[0]}; {absent} of the grid's {len(CELLS['grid'])} cells not run)."
        + (" Not in:\n" if behind else "")
    )
    for line in behind:
        print(f"- {line}")


def print_cell(cell: str, rows: list[Row]) -> None:
    """What each method reached in a cell, as means over its seeds; a time to a target needs all of them to have reached it."""
    first, second = targets(cell)
    joules = min(row["spent_j"] for row in rows)
    traffic = min(row["uplink_bytes"] + row["downlink_bytes"] for row in rows)
    columns: dict[str, Callable[[list[Row]], str]] = {
        "seeds": lambda group: f"{len(group)} of {len(SEEDS)}",
        f"s to {first:.0%}": lambda group: mean(_reached(group, first, TIME)),
        f"s to {second:.0%}": lambda group: mean(_reached(group, second, TIME)),
        f"J to {first:.0%}": lambda group: mean(_reached(group, first, JOULES)),
        f"MB up / down to {first:.0%}": lambda group: " / ".join(
            mean(_reached(group, first, column), 1e6, 1) for column in (UP, DOWN)
        ),
        "accuracy at the end": lambda group: _spread([row["accuracy_frac"] for row in group]),
        f"best by {joules:.0f} J": lambda group: _spread([accuracy_at(row, joules, (JOULES,)) for row in group]),
        f"best by {traffic / 1e6:.0f} MB": lambda group: _spread(
            [accuracy_at(row, traffic, (UP, DOWN)) for row in group]
        ),
        "worst decile": lambda group: _spread([row["worst_decile_accuracy_frac"] for row in group]),
        "clients heard": lambda group: mean([row["participating_clients"] for row in group]),
        "peak kB": lambda group: mean([row["peak_memory_bytes"] for row in group], 1e3),
        "J compute / up / down / idle": lambda group: " / ".join(
            mean([row["spent_by_cause_j"][cause] for row in group])
            for cause in ("compute", "uplink", "downlink", "idle")
        ),
    }
    print(f"\n**{cell}**\n\n| method | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for method in METHODS:
        group = [row for row in rows if row["method"] == method]
        if group:
            print(f"| {method} | {' | '.join(column(group) for column in columns.values())} |")


def targets(cell: str) -> tuple[float, float]:
    return next(targets for partition, targets in TARGETS.items() if partition in cell)


def _reached(group: Iterable[Row], target: float, column: int) -> list[float | None]:
    return [reached(row, target, column) for row in group]


def mean(values: list[float | None], unit: float = 1.0, places: int = 0) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(known)} of {len(values)} arrived" if known else "-"
    return f"{statistics.fmean(known) / unit:.{places}f}"


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
