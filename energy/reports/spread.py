"""Runs that differ by their seed alone, as one row: mean and standard deviation of what they came to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from budjoule.energy.reports.facts import config_differences
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.words import percent
from budjoule.energy.units import show

SAID = 2  # differences that name a configuration
SPREAD_COLUMNS = ("over seeds", "runs", "accuracy", "spent", "to target", "energy to target", "up")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedGroup:
    """Runs that differ by their seed alone, and what tells them from the others; a lone run goes by its own name."""

    name: str
    runs: tuple[Run, ...]


def by_configuration(runs: Sequence[Run]) -> list[SeedGroup]:
    """The runs, those of one configuration together, in the order of the first of each."""
    differences = [(key, values) for key, values in config_differences(runs) if key != "seed"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(tuple(values[index] for _, values in differences), []).append(run)
    folders = [_folder(group) for group in groups.values()]
    # more differences than one reads in a legend: where each configuration has a folder of its own, that is its name
    by_folder = len(differences) > SAID and all(folders) and len(set(folders)) == len(folders)
    names = []
    for (values, group), folder in zip(groups.items(), folders, strict=True):
        said = [f"{key.rpartition('.')[2]} {value}" for (key, _), value in zip(differences, values, strict=True)]
        names.append(group[0].name if len(group) == 1 else folder if by_folder else ", ".join(said) or "all")
    return [SeedGroup(name=name, runs=tuple(group)) for name, group in zip(names, groups.values(), strict=True)]


def _folder(runs: Sequence[Run]) -> str:
    """The folder that runs lie in, as their names have it; empty where they lie in several."""
    folders = {run.name.rpartition("/")[0] for run in runs}
    return folders.pop() if len(folders) == 1 else ""


def over_seeds(runs: Sequence[Run]) -> list[list[str]]:
    """One row for each configuration that was run with several seeds; none where no configuration was.

    A time or energy to the target is a mean over the runs that reached it, and says over how many.
    """
    groups = [group for group in by_configuration(runs) if len(group.runs) > 1]
    return [[group.name, f"{len(group.runs)}", *_cells(group.runs)] for group in groups]


def _cells(group: Sequence[Run]) -> list[str]:
    totals = [run.totals for run in group]
    return [
        _spread([total.accuracy_frac for total in totals], percent),
        _spread([total.spent_j for total in totals], lambda value: show(value, "J")),
        _spread([total.time_to_target_s for total in totals], lambda value: show(value, "s")),
        _spread([total.energy_to_target_j for total in totals], lambda value: show(value, "J")),
        _spread([total.uplink_bytes for total in totals], lambda value: show(value, "B")),
    ]


def _spread(values: Sequence[float | None], words: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    missing = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{words(fmean(known))}{f' ± {words(stdev(known))}' if len(known) > 1 else ''}{missing}"
