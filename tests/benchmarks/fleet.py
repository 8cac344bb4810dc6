"""The fleet benchmark: methods and ablations over cells of fleets, with targets fixed from FedAvg alone.

Each configuration is one run; its row of JSON goes to `tests/benchmarks/results/fleet.jsonl` as soon as it is there, so the
benchmark can be stopped at any time, goes on where it was, and can be spread over shards. `tune` runs the grid of rates,
cohorts and buffers on other seeds, into `fleet-tuning.jsonl`.

    python tests/benchmarks/fleet.py run [--cells main] [--methods "fedavg;budjoule"] [--shard 1/2] [--limit-s 480]
    python tests/benchmarks/fleet.py tune [--shard 1/2] [--limit-s 480]
    python tests/benchmarks/fleet.py table [--seeds 2]        # results/fleet.md holds what it prints
    python tests/benchmarks/fleet.py grid
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fleet_cells import CELLS, METHODS, SEEDS, Job, jobs
from fleet_tables import print_tables
from fleet_tuning import print_grid, tuning_jobs

import budjoule as bj

RESULTS = Path(__file__).parent / "results"
CURVE_POINTS = 60


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "tune", "table", "grid"])
    parser.add_argument("--cells", default="main", help=f"comma list of {', '.join(CELLS)}")
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--shard", default="1/1", help="which part of the configurations, as in 1/2")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin no run after so many seconds")
    options = parser.parse_args()
    if options.what == "table":
        as_tuned = {(job.digest, job.method) for job in jobs(list(CELLS), list(METHODS), SEEDS[: options.seeds])}
        print_tables([r for r in read(RESULTS / "fleet.jsonl") if (r["digest"], r["method"]) in as_tuned])
    elif options.what == "grid":
        print_grid(read(RESULTS / "fleet-tuning.jsonl"))
    elif options.what == "tune":
        run_missing(list(tuning_jobs()), RESULTS / "fleet-tuning.jsonl", options)
    else:
        wanted = list(jobs(options.cells.split(","), options.methods.split(";"), SEEDS[: options.seeds]))
        run_missing(wanted, RESULTS / "fleet.jsonl", options)


def run_missing(wanted: list[Job], path: Path, options: argparse.Namespace) -> None:
    """Run the jobs of a shard that have no row yet, one after the other."""
    part, parts = (int(number) for number in options.shard.split("/"))
    started = time.monotonic()
    done = {row["digest"] for row in read(path)}
    todo = [job for place, job in enumerate(wanted) if place % parts == part - 1 and job.digest not in done]
    print(f"{len(todo)} of {len(wanted)} runs to do in shard {options.shard}", flush=True)
    for job in todo:
        if time.monotonic() - started > options.limit_s:
            break
        row = run(job)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        print(
            f"{job.cell} {job.method} seed {job.seed}: {row['accuracy_frac']:.3f} in {row['wall_s']:.0f} s", flush=True
        )


def run(job: Job) -> dict[str, Any]:
    """One run as one row."""
    with tempfile.TemporaryDirectory() as folder:
        made = bj.train(job.document, seed=job.seed, output=Path(folder) / "run")
        events = [json.loads(line) for line in (made.folder / "events.jsonl").read_text().splitlines()]
    summary = made.summary
    kept = ("accuracy_frac", "worst_decile_accuracy_frac", "participating_clients", "spent_j", "spent_by_cause_j")
    kept += ("uplink_bytes", "downlink_bytes", "peak_memory_bytes", "simulated_duration_s", "rounds", "sends", "lost")
    return {
        "cell": job.cell,
        "method": job.method,
        "seed": job.seed,
        "settings": job.settings,
        "digest": job.digest,
        "command": f"python tests/benchmarks/fleet.py {job.command}",
        "commit": commit(),
        **{key: summary[key] for key in kept},
        "wall_s": round(summary["wall_duration_s"], 1),
        "curve": list(curve(events)),
    }


@cache
def commit() -> str:
    """The commit that runs: a device's profile that is fitted anew moves its joules and seconds, and with them a run's bits."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=RESULTS, capture_output=True, text=True, check=False).stdout.strip()


def curve(events: list[dict[str, Any]]) -> Iterator[list[float]]:
    """Time, joules, bytes up and down, and accuracy at the evaluations, thinned where accuracy no longer moves.

    Every evaluation that sets a new best is kept until there are `CURVE_POINTS`, so that times to targets lose nothing.
    """
    rows = [event for event in events if event["event"] == "evaluate"]
    best = -1.0
    bests = []
    for row in rows:
        if row["accuracy_frac"] > best:
            best = row["accuracy_frac"]
            bests.append(row)
    step = max(1, len(bests) // CURVE_POINTS)
    for row in [*bests[::step], rows[-1]]:
        yield [
            round(row["time_s"], 2),
            round(row["spent_j"], 2),
            row["uplink_bytes"],
            row["downlink_bytes"],
            round(row["accuracy_frac"], 4),
        ]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
