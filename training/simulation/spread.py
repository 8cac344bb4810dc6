"""Several seeds of one configuration, and how far their results spread."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from budjoule.training.config.config import Config, load_config
from budjoule.training.run import DivergenceError, Progress, Run, look, train

SCHEMA = "budjoule.seeds/1"

KEYS = (
    "accuracy_frac",
    "worst_decile_accuracy_frac",
    "time_to_target_s",
    "energy_to_target_j",
    "uplink_bytes_to_target",
    "spent_j",
    "uplink_bytes",
    "downlink_bytes",
    "simulated_duration_s",
    "overspent_clients",
)


def run_seeds(
    config: Config,
    seeds: int,
    *,
    output: Path,
    resume: bool = False,
    force: bool = False,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[list[Run], dict[str, Any]]:
    """Train with one seed or several, counting up from the configuration's.

    Args:
        config: The configuration.
        seeds: How many seeds.
        output: The run folder of a single seed; of several, the folder that holds `seed-N`, one a seed.
        resume: Go on where an earlier call was stopped; seeds that were not begun are begun.
        force: Replace what is there.
        workers: Processes that train the clients' blocks.
        progress: Called every now and then by each run.

    Returns:
        The runs, and what `--json` prints: the summary of a single run, or the runs and the spread over seeds.

    Raises:
        RunError: A folder is in the way, before any seed is run.
        DivergenceError: Some did; the others were run all the same.
    """
    if seeds == 1:
        run = train(config, output=output, resume=resume, force=force, workers=workers, progress=progress)
        return [run], dict(run.summary)
    folders = {seed: output / f"seed-{seed}" for seed in range(config.seed, config.seed + seeds)}
    go_on = {seed: resume and (folder / "run.json").is_file() for seed, folder in folders.items()}
    for seed, folder in folders.items():
        look(folder, resume=go_on[seed], force=force)
    runs, diverged = [], dict[int, DivergenceError]()
    for seed, folder in folders.items():
        seeded = load_config(config, seed=seed)
        try:
            runs.append(
                train(seeded, output=folder, resume=go_on[seed], force=force, workers=workers, progress=progress)
            )
        except DivergenceError as error:
            diverged[seed] = error
    if diverged:
        raise DivergenceError(f"with seed {', '.join(map(str, diverged))}: {next(iter(diverged.values()))}")
    summaries = [run.summary for run in runs]
    return runs, {
        "schema": SCHEMA,
        "spread": {key: spread(summary[key] for summary in summaries) for key in KEYS},
        "runs": [dict(summary) for summary in summaries],
    }


def spread(values: Iterable[float | None]) -> Mapping[str, float | int] | None:
    """Mean, standard deviation (of the sample) and extremes of the values that exist; None where none does.

    >>> spread([1.0, 3.0, None])
    {'mean': 2.0, 'sd': 1.4142135623730951, 'low': 1.0, 'high': 3.0, 'count': 2}
    """
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    sd = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"mean": statistics.fmean(known), "sd": sd, "low": min(known), "high": max(known), "count": len(known)}
