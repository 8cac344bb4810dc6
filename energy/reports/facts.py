"""What a run comes to, in words and figures: the same lines on a terminal and on a page."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.words import percent, plural
from budjoule.energy.units import show


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A figure with what it means: `energy spent`, `4.20 kJ`, `52.5 % of the budget of 8.00 kJ`."""

    label: str
    value: str
    detail: str = ""
    alarm: bool = False


def headline(run: Run) -> tuple[Fact, ...]:
    """The figures that a report opens with."""
    totals = run.totals
    return (
        Fact(label="accuracy", value=percent(totals.accuracy_frac), detail=_target(run)),
        Fact(
            label="energy spent",
            value=show(totals.spent_j, "J"),
            detail=_of_budget(totals.spent_j, totals.budget_j, run.finished),
            alarm=totals.spent_j is not None and totals.budget_j is not None and totals.spent_j > totals.budget_j,
        ),
        Fact(
            label="overspent clients",
            value="-" if totals.overspent_clients is None else f"{totals.overspent_clients:,}",
            detail=f"of {plural(totals.clients, 'client')}" if totals.clients is not None else "known at the end",
            alarm=bool(totals.overspent_clients),
        ),
        Fact(
            label="sent up",
            value=show(totals.uplink_bytes, "B"),
            detail=f"{show(totals.downlink_bytes, 'B')} received",
        ),
        Fact(
            label="simulated time",
            value=show(totals.simulated_duration_s, "s"),
            detail=f"computed in {show(totals.wall_duration_s, 's')}"
            if totals.wall_duration_s is not None
            else "so far",
        ),
        Fact(
            label="peak memory",
            value=show(totals.peak_memory_bytes, "B"),
            detail="of a client while it trains" if totals.peak_memory_bytes is not None else "known at the end",
        ),
    )


def lead(run: Run) -> str:
    """The run in one sentence."""
    totals, config = run.totals, run.header["config"]
    clients = totals.clients if totals.clients is not None else _nested(config, "fleet", "clients")
    who = plural(clients, "client") if isinstance(clients, int) else "The fleet"
    what = _nested(config, "task", "data")
    if totals.accuracy_frac is None or totals.spent_j is None:
        return f"{who}, learning {what}: nothing has been evaluated yet."
    verb = "learnt" if run.finished else "have so far learnt"
    budget = "" if totals.budget_j is None else f" of a budget of {show(totals.budget_j, 'J')}"
    time = show(totals.simulated_duration_s, "s")
    return f"{who} {verb} {what} to {percent(totals.accuracy_frac)} accuracy, on {show(totals.spent_j, 'J')}{budget}, in {time}."


def participation(run: Run) -> str:
    """Who was heard, in one sentence."""
    rows, totals = run.clients, run.totals
    if not rows:
        return f"{plural(totals.participating_clients or 0, 'client')} had at least one update taken."
    heard, all_sends = sum(row.taken > 0 for row in rows), sum(row.sends for row in rows)
    text = f"{heard:,} of {plural(len(rows), 'client')} had at least one update taken."
    slow = [row for row in rows if row.straggler]
    if slow and all_sends:
        share = percent(sum(row.sends for row in slow) / all_sends)
        text += f" Stragglers are {percent(len(slow) / len(rows))} of the clients and made {share} of the sends."
    return text


def provenance(run: Run) -> tuple[Fact, ...]:
    """Where the run comes from: version, seed, machine, model."""
    header, machine = run.header, run.header.get("machine")
    lines = [
        Fact(label="numbers", value=run.source),
        Fact(label="accuracy", value="counted on the held-out test examples"),
        Fact(label="budjoule", value=str(header.get("budjoule_version", "-"))),
        Fact(label="seed", value=str(header.get("seed", "-"))),
        Fact(label="started", value=str(header.get("created_at", "-"))),
    ]
    if isinstance(machine, Mapping):
        lines += [Fact(label=str(key).replace("_", " "), value=str(value)) for key, value in machine.items()]
    if run.totals.stopped_by:
        lines.append(Fact(label="stopped by", value=run.totals.stopped_by))
    if run.totals.model_sha256:
        lines.append(Fact(label="model sha256", value=run.totals.model_sha256))
    return (*lines, Fact(label="folder", value=str(run.path)))


def flat_config(run: Run) -> dict[str, str]:
    """The configuration as `section.key` and its value, in the file's order."""
    return dict(_flattened("", run.header["config"]))


def config_differences(runs: Iterable[Run]) -> list[tuple[str, list[str]]]:
    """The keys whose values differ between runs, with each run's value."""
    configs = [flat_config(run) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = [(key, [config.get(key, "-") for config in configs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flattened(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, (list, tuple)):
        yield prefix, ", ".join(str(item) for item in value) or "none"
    else:
        yield (
            prefix,
            str(value).lower() if isinstance(value, bool) else str(value) if value not in (None, "") else "none",
        )


def _target(run: Run) -> str:
    totals = run.totals
    if totals.target_accuracy_frac is None:
        return "on held-out examples"
    goal = percent(totals.target_accuracy_frac)
    if totals.time_to_target_s is None:
        return f"target {goal} not reached"
    return f"target {goal} reached after {show(totals.time_to_target_s, 's')} on {show(totals.energy_to_target_j, 'J')}"


def _of_budget(spent_j: float | None, budget_j: float | None, finished: bool) -> str:
    if budget_j is None:
        return "no budget" if finished else "so far"
    return (
        f"{percent(spent_j / budget_j)} of {show(budget_j, 'J')}"
        if spent_j is not None and budget_j
        else show(budget_j, "J")
    )


def _nested(config: Mapping[str, Any], section: str, key: str) -> Any:
    table = config.get(section)
    return table.get(key, "-") if isinstance(table, Mapping) else "-"
