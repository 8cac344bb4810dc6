"""The page of run folders: one in full, or several compared."""

from collections.abc import Sequence
from typing import Any

from budjoule.energy.reports import bars, charts, learning
from budjoule.energy.reports.budget_path import (
    fleet_path,
    path_sheets,
    paths_by_client,
    paths_note,
    spark_words,
    sparkline,
)
from budjoule.energy.reports.facts import (
    Fact,
    config_differences,
    flat_config,
    headline,
    lead,
    participation,
    provenance,
)
from budjoule.energy.reports.page import render
from budjoule.energy.reports.rows import CAUSES, Client
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.spread import SPREAD_COLUMNS, by_configuration, over_seeds
from budjoule.energy.reports.staleness import (
    any_stale,
    freshness,
    sends_by_staleness,
    shares_by_staleness,
    staleness_by_time,
)
from budjoule.energy.reports.words import percent, plural
from budjoule.energy.units import show

MOST_CLIENT_ROWS = 1000
CLIENT_COLUMNS = ("client", "spent", "budget", *CAUSES, "up", "down", "sends", "blocks", "examples", "device", "link")
RESULT_COLUMNS = (
    "run",
    "accuracy",
    "spent",
    "budget",
    "time to target",
    "energy to target",
    "up",
    "down",
    "overspent clients",
)


def run_page(runs: Sequence[Run]) -> str:
    """One run in full, or several as a comparison, as an HTML document."""
    if len(runs) == 1:
        return render("run.html.j2", kind="Run report", title=runs[0].name, **_one(runs[0]))
    return render("runs.html.j2", kind="Run report", title=f"{len(runs)} runs compared", **_several(runs))


def _one(run: Run) -> dict[str, Any]:
    totals = run.totals
    whole_j = sum(totals.spent_by_cause_j.values())
    known = [cause for cause in CAUSES if cause in totals.spent_by_cause_j]
    known += [cause for cause in totals.spent_by_cause_j if cause not in CAUSES]
    timeline = charts.timeline(run)
    groups, paths = by_configuration([run]), paths_by_client(run)
    end_s = totals.simulated_duration_s or 0.0
    most_j = max((row.spent_j for row in run.clients), default=0.0)
    ranked = sorted(run.clients, key=lambda row: -row.spent_j)[:MOST_CLIENT_ROWS]
    return {
        "run": run,
        "lead": lead(run),
        "headline": headline(run),
        "by_energy": learning.accuracy_by_energy(groups),
        "by_bytes": learning.accuracy_by_bytes(groups),
        "by_time": learning.accuracy_by_time(groups),
        "fleet_path": fleet_path(groups),
        "causes": [_cause(name, totals.spent_by_cause_j[name], whole_j) for name in known],
        "spending": bars.spending_by_client(run.clients),
        "bytes": charts.bytes_by_time(run),
        "sends": bars.sends_by_client(run),
        "sent": f"{participation(run)} {freshness(run)}".strip(),
        "stale": any_stale([run]),
        "ages": sends_by_staleness(run),
        "ages_by_time": staleness_by_time(groups),
        "timeline": timeline,
        "timeline_rows": round(timeline.y.high),
        "rejects": _rejects(run),
        "client_columns": CLIENT_COLUMNS,
        "client_rows": [
            {
                "cells": _cells(row),
                "alarm": row.overspent_j > 0,
                "spark": (sparkline(row, paths[row.client], end_s, most_j), spark_words(row, paths[row.client])),
            }
            for row in ranked
        ],
        "sheets": path_sheets(run, paths) if len(ranked) < len(run.clients) else [],
        "paths_note": paths_note(run),
        "config": _sections(run),
        "provenance": provenance(run),
    }


def _several(runs: Sequence[Run]) -> dict[str, Any]:
    groups = by_configuration(runs)
    colours = {id(run): index % 8 for index, group in enumerate(groups) for run in group.runs}
    return {
        "names": [run.name for run in runs],
        "notes": [f"{run.name}: {note}" for run in runs for note in run.notes],
        "columns": RESULT_COLUMNS,
        "rows": [_results(run) for run in runs],
        "colours": [colours[id(run)] for run in runs],
        "by_energy": learning.accuracy_by_energy(groups),
        "by_bytes": learning.accuracy_by_bytes(groups),
        "by_time": learning.accuracy_by_time(groups),
        "fleet_path": fleet_path(groups),
        "spending": bars.spending_by_run(runs),
        "sent": [Fact(label=run.name, value=participation(run), detail=freshness(run)) for run in runs],
        "sends": charts.sends_by_rank(groups),
        "stale": any_stale(runs),
        "ages": shares_by_staleness(groups),
        "ages_by_time": staleness_by_time(groups),
        "seeds": over_seeds(runs),
        "seed_columns": SPREAD_COLUMNS,
        "differences": config_differences(runs),
        "provenance": [(run.name, provenance(run)) for run in runs],
    }


def _results(run: Run) -> list[str]:
    totals = run.totals
    return [
        run.name,
        percent(totals.accuracy_frac),
        show(totals.spent_j, "J"),
        show(totals.budget_j, "J"),
        show(totals.time_to_target_s, "s"),
        show(totals.energy_to_target_j, "J"),
        show(totals.uplink_bytes, "B"),
        show(totals.downlink_bytes, "B"),
        "-" if totals.overspent_clients is None else f"{totals.overspent_clients:,}",
    ]


def _cells(row: Client) -> list[str]:
    return [
        f"{row.client}{' (straggler)' if row.straggler else ''}",
        show(row.spent_j, "J"),
        show(row.budget_j, "J"),
        *(show(row.spent_by_cause_j.get(cause), "J") for cause in CAUSES),
        show(row.uplink_bytes, "B"),
        show(row.downlink_bytes, "B"),
        f"{row.sends:,}",
        "-" if row.blocks is None else f"{row.blocks:,}",
        "-" if row.examples is None else f"{row.examples:,}",
        row.device,
        row.link,
    ]


def _cause(name: str, energy_j: float, whole_j: float) -> tuple[str, str, str]:
    return name, show(energy_j, "J"), percent(energy_j / whole_j if whole_j else 0.0)


def _rejects(run: Run) -> str:
    if not run.rejects:
        return ""
    reasons = dict.fromkeys(event.reason for event in run.rejects)
    return f"The server refused {plural(len(run.rejects), 'update')}: {'; '.join(list(reasons)[:5])}."


def _sections(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    sections: dict[str, list[tuple[str, str]]] = {}
    for key, value in flat_config(run).items():
        section, dot, name = key.partition(".")
        sections.setdefault(section if dot else "run", []).append((name if dot else section, value))
    return list(sections.items())
