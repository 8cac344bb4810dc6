"""Accuracy and time at equal joules: every policy on every state of the link, at 2 to 50 % of what always sending costs.

Runs are added to a file, one JSON line each, and a run that is in the file is not repeated; so a long grid is made in parts:

    python tests/benchmarks/schedulers_accuracy.py --minutes 8      # as often as it takes
    python tests/benchmarks/schedulers_accuracy.py --table          # what the file holds

Needs Fashion-MNIST (Debian's dataset-fashion-mnist, or BUDJOULE_DATA). Seeds 0 to 9 are reported; the policies' settings and
the target were chosen on seeds from 1000. `small_fleet.py` says what a run is. A time that was not reached counts as the
horizon. Stars are a paired Wilcoxon test over seeds against the reported policy: * below 0.05, ** below 0.01.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "schedulers.jsonl"
BUDGETS = (0.02, 0.05, 0.15, 0.5)
STATES = ("constant", "two-state:8", "two-state:8:20 min", "diurnal:8:4 h", "adversarial:8", "busy:5 min")
POLICIES = (
    "price-threshold",
    "fixed-period",
    "token-bucket",
    "oracle",
    "joule-queue",
    "random",
    "norm-threshold",
    "every-block",
)
TARGET = "0.7"
HORIZON = 240

Key = tuple[int, str, float, str]


def grid(seeds: int) -> Iterator[Key]:
    """Every run, in the order they are made: the policies that matter most first, seed by seed."""
    for policies in (POLICIES[:3], POLICIES[3:4], POLICIES[4:]):
        for seed in range(seeds):
            yield from ((seed, state, budget, policy) for state in STATES for budget in BUDGETS for policy in policies)


def load() -> dict[Key, dict[str, Any]]:
    """The runs that the file holds."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {(row["seed"], row["state"], row["budget_frac"], row["policy"]): row for row in rows}


def run(seeds: int, minutes: float) -> None:
    """Add runs to the file until the grid is full or the time is over."""
    from small_fleet import play

    done, end_s = load(), time.monotonic() + 60 * minutes
    with RESULTS.open("a") as file:
        for seed, state, budget, policy in grid(seeds):
            if (seed, state, budget, policy) in done or time.monotonic() > end_s:
                continue
            row = {"seed": seed, "state": state, "budget_frac": budget, "policy": policy}
            file.write(json.dumps(row | play(seed, budget, state, policy)) + "\n")
            file.flush()


def measured(rows: dict[Key, dict[str, Any]], state: str, budget: float, policy: str) -> dict[int, tuple[float, float]]:
    """Accuracy and slots to the target by seed."""
    return {
        key[0]: (row["accuracy_frac"], float(row["slots_to"][TARGET] or HORIZON))
        for key, row in rows.items()
        if key[1:] == (state, budget, policy)
    }


def stars(ours: dict[int, tuple[float, float]], other: dict[int, tuple[float, float]], column: int) -> str:
    """How surely two policies differ, over the seeds that both have."""
    from scipy.stats import wilcoxon

    differences = [ours[seed][column] - other[seed][column] for seed in sorted(ours.keys() & other.keys())]
    if len(differences) < 6 or not any(differences):
        return ""
    chance = float(wilcoxon(differences).pvalue)
    return "**" if chance < 0.01 else "*" if chance < 0.05 else ""


def table(reported: str) -> None:
    """Print one table as Markdown: accuracy / slots to the target, and the stars of both."""
    rows = load()
    policies = [policy for policy in POLICIES if any(key[3] == policy for key in rows)]
    print("| link | budget | " + " | ".join(policies) + " |\n|---|---|" + "---|" * len(policies))
    for state in STATES:
        for budget in BUDGETS:
            ours, cells = measured(rows, state, budget, reported), []
            for policy in policies:
                cell = measured(rows, state, budget, policy)
                if not cell:
                    cells.append("")
                    continue
                accuracy, slots = np.mean(list(cell.values()), axis=0)
                text = f"{accuracy:.3f}{stars(ours, cell, 0)} / {slots:.0f}{stars(ours, cell, 1)}".replace("0.", ".", 1)
                cells.append(text + ("" if len(cell) == len(ours) else f" ({len(cell)})"))
            print(f"| {state} | {100 * budget:g} % | " + " | ".join(cells) + " |")


def main() -> None:
    """Run a part of the grid, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--against", default="price-threshold", help="whom the stars compare with")
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments.seeds, arguments.minutes)
    table(arguments.against)


if __name__ == "__main__":
    main()
