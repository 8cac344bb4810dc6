"""Runs of several seeds come to one row, whose mean and deviation are those of the runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from budjoule.energy.reports.run_folder import load_run
from budjoule.energy.reports.spread import over_seeds
from budjoule.energy.reports.words import percent
from budjoule.energy.units import show

MakeRun = Callable[..., Path]


def test_seeds_of_one_configuration_make_one_row(make_run: MakeRun) -> None:
    runs = [load_run(make_run(f"seed-{seed}", seed=seed, peak_frac=0.92 + seed / 100)) for seed in range(3)]
    (row,) = over_seeds(runs)
    accuracies = [run.totals.accuracy_frac or 0.0 for run in runs]
    spent = [run.totals.spent_j or 0.0 for run in runs]
    assert row[:2] == ["all", "3"]
    assert row[2] == f"{percent(fmean(accuracies))} ± {percent(stdev(accuracies))}"
    assert row[3] == f"{show(fmean(spent), 'J')} ± {show(stdev(spent), 'J')}"


def test_configurations_are_kept_apart(make_run: MakeRun) -> None:
    runs = [
        load_run(make_run(f"{policy}-{seed}", seed=seed, scheduler=policy))
        for policy in ("price-threshold", "fixed-period")
        for seed in range(2)
    ]
    assert [row[:2] for row in over_seeds(runs)] == [["policy price-threshold", "2"], ["policy fixed-period", "2"]]
    assert over_seeds(runs[::2]) == []


def test_a_target_missed_is_counted_and_not_averaged(make_run: MakeRun) -> None:
    one, two = (load_run(make_run(f"seed-{seed}", seed=seed)) for seed in range(2))
    missed = replace(two, totals=replace(two.totals, time_to_target_s=None))
    (row,) = over_seeds([one, missed])
    assert row[4] == f"{show(one.totals.time_to_target_s, 's')} (1 of 2)"


def test_configurations_of_many_differences_go_by_their_folders(make_run: MakeRun) -> None:
    runs = []
    for method, changes in (("ours", {"a": 1, "b": 2, "c": 3}), ("theirs", {"a": 4, "b": 5, "c": 6})):
        for seed in range(2):
            run = load_run(make_run(f"{method}-{seed}", seed=seed))
            header = {**run.header, "config": {**run.header["config"], "more": changes}}
            runs.append(replace(run, name=f"{method}/seed-{seed}", header=header))
    assert [row[0] for row in over_seeds(runs)] == ["ours", "theirs"]
    together = [replace(run, name=f"all/{index}") for index, run in enumerate(runs)]
    assert [row[0] for row in over_seeds(together)] == ["a 1, b 2, c 3", "a 4, b 5, c 6"]
