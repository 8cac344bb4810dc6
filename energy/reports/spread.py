"""Runs that differ by their seed alone, as one row: mean and standard deviation of what they came to."""

from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from budjoule.energy.reports.facts import config_differences
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.words import percent
from budjoule.energy.units import show

SPREAD_COLUMNS = ("over seeds", "runs", "accuracy", "spent", "to target", "energy to target", "up")


def over_seeds(runs: Sequence[Run]) -> list[list[str]]:
    """One row for each configuration that was run with several seeds; none where no configuration was.

    A time or energy to the target is a mean over the runs that reached it, and says over how many.
    """
    differences = [(key, values) for key, values in config_differences(runs) if key != "seed"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(tuple(values[index] for _, values in differences), []).append(run)
    rows = []
    for values, group in groups.items():
        if len(group) > 1:
            name = ", ".join(
                f"{key.rpartition('.')[2]} {value}" for (key, _), value in zip(differences, values, strict=True)
            )
            rows.append([name or "all", f"{len(group)}", *_cells(group)])
    return rows


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
