"""The tuning grid: every setting of a method that was tried, in the first of the main cells and on other seeds than the results'.

A method's rows in the tables have the setting that reached the first target soonest on average (the `thrifty` one: on the
fewest joules) among those that reached it with every tuning seed; where none did, the one that ended highest.
In rounds a run has as many local tasks as in the benchmark itself, since a large cohort comes late to the target; without rounds
two fifths of them, and who has not come to the target by then is later than those who have.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from fleet_cells import CELLS, METHODS, TARGETS, TASKS, Document, Job, job
from fleet_tables import JOULES, TIME, Row, mean, reached

TUNING_SEEDS = (100, 101)
TARGET = TARGETS[CELLS["main"][0]["task"]["partition"]][0]


def _rounds(cohort: int, rate: float, deadline: str | None = None) -> Document:
    wait = {} if deadline is None else {"deadline": deadline}
    return {"server": {"cohort": cohort, **wait}, "training": {"learning_rate": rate}}


def _buffer(size: int, server_rate: float, rate: float, memory: str | None = None) -> Document:
    limit = {} if memory is None else {"memory": memory}
    return {
        "server": {"buffer_size": size, "learning_rate": server_rate},
        "training": {"learning_rate": rate, **limit},
    }


def _ours(size: int, rate: float, server: dict[str, Any], training: dict[str, Any]) -> Document:
    return {"server": {"buffer_size": size, **server}, "training": {"learning_rate": rate, **training}}


GRID: dict[str, list[Document]] = {
    "fedavg": [
        _rounds(3, 0.3),
        *(_rounds(5, rate) for rate in (0.2, 0.3, 0.4)),
        *(_rounds(10, rate) for rate in (0.2, 0.3, 0.4)),
        *(_rounds(20, rate) for rate in (0.1, 0.2, 0.3)),
        *(_rounds(40, rate) for rate in (0.1, 0.2, 0.3, 0.4)),
        _rounds(80, 0.3),
    ],
    "fedavg-deadline": [
        _rounds(40, 0.2, "12 s"),
        _rounds(20, 0.3, "24 s"),
        *(_rounds(40, rate, deadline) for rate in (0.2, 0.3) for deadline in ("24 s", "48 s")),
        _rounds(80, 0.3, "12 s"),
        *(_rounds(80, rate, "24 s") for rate in (0.2, 0.3, 0.4)),
        _rounds(160, 0.3, "24 s"),
    ],
    "fedbuff": [
        _buffer(3, 0.1, 0.3),
        _buffer(5, 0.05, 0.3),
        *(_buffer(5, 0.1, rate) for rate in (0.2, 0.3, 0.4)),
        *(_buffer(5, 0.2, rate) for rate in (0.2, 0.3)),
        *(_buffer(10, 0.1, rate) for rate in (0.1, 0.2, 0.3, 0.4)),
        *(_buffer(10, 0.2, rate) for rate in (0.1, 0.2, 0.3)),
        *(_buffer(10, 0.3, rate) for rate in (0.05, 0.1, 0.2)),
        *(_buffer(20, rate, 0.2) for rate in (0.2, 0.3)),
        _buffer(20, 0.3, 0.1),
        *(_buffer(50, rate, 0.1) for rate in (0.5, 1.0)),
    ],
    "ftte-style": [
        _buffer(20, 0.3, 0.1),
        *(_buffer(20, 0.3, rate, "70 %") for rate in (0.05, 0.1, 0.2)),
        *(_buffer(20, 0.5, rate, "70 %") for rate in (0.05, 0.1)),
        *(_buffer(5, 0.1, rate, "70 %") for rate in (0.2, 0.3)),
        _buffer(5, 0.2, 0.2, "70 %"),
        *(_buffer(10, 0.2, rate, "70 %") for rate in (0.1, 0.2, 0.3)),
        _buffer(10, 0.3, 0.2, "70 %"),
        *(_buffer(20, 0.2, rate, "70 %") for rate in (0.1, 0.2)),
        _buffer(20, 0.3, 0.1, "50 %"),
    ],
    "budjoule": [
        *(_ours(10, rate, {}, {}) for rate in (0.15, 0.2, 0.3)),
        *(_ours(10, rate, {"damping": False}, {}) for rate in (0.1, 0.15, 0.2)),
        _ours(20, 0.3, {}, {}),
        _ours(10, 0.2, {}, {"learning_rate_decay": 0.999}),
    ],
}


def _whole(method: str, setting: Document) -> Document:
    return {"preset": METHODS[method]["preset"], **setting}


def tuning_jobs() -> Iterator[Job]:
    """The grid's runs, seed by seed."""
    for seed in TUNING_SEEDS:
        for method, rows in GRID.items():
            for settings in rows:
                chosen = _whole(method, settings)
                tasks = TASKS if chosen["preset"].startswith("fedavg") else 2 * TASKS // 5
                yield job(CELLS["main"][0], method, chosen, seed=seed, tasks=tasks, command="tune")


def print_grid(rows: list[Row]) -> None:
    """What each setting of the grid reached, as means over the tuning seeds, which are the methods' best, and which rows of the tables have them."""
    print(f"| method | settings | seeds | s to {TARGET:.0%} | J to {TARGET:.0%} | accuracy at the end | best | row |")
    print("|---|---|---|---|---|---|---|---|")
    for method, settings in GRID.items():
        groups = [of(rows, method, setting) for setting in settings]
        soonest, thriftiest = (best(groups, column) for column in (TIME, JOULES))
        for setting, group in zip(settings, groups, strict=True):
            if group:
                said = ", ".join(f"{section}.{key} {v}" for section in setting for key, v in setting[section].items())
                time, joules = (mean([reached(row, TARGET, column) for row in group]) for column in (TIME, JOULES))
                accuracy = statistics.fmean(row["accuracy_frac"] for row in group)
                marks = ["soonest"] * (group is soonest) + ["fewest joules"] * (group is thriftiest)
                used = [name for name, row in METHODS.items() if row == _whole(method, setting)]
                columns = (
                    method,
                    said,
                    len(group),
                    time,
                    joules,
                    f"{accuracy:.3f}",
                    " and ".join(marks),
                    "; ".join(used),
                )
                print(f"| {' | '.join(map(str, columns))} |")


def of(rows: list[Row], method: str, setting: Document) -> list[Row]:
    """The rows of one setting."""
    whole = _whole(method, setting)
    return [row for row in rows if row["settings"] == whole]


def best(groups: list[list[Row]], column: int) -> list[Row]:
    """The rows of the setting that reached the target with all its seeds on the least, or else that ended highest."""

    def rank(group: list[Row]) -> tuple[bool, float]:
        costs = [reached(row, TARGET, column) for row in group]
        known = [cost for cost in costs if cost is not None]
        if len(known) == len(TUNING_SEEDS):
            return False, statistics.fmean(known)
        return True, -statistics.fmean(row["accuracy_frac"] for row in group)

    return min((group for group in groups if group), key=rank)
