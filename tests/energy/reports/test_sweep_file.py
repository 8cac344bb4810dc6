"""A sweep read back from its JSON: shown as it was, and refused where it is not whole."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import budjoule as bj
from budjoule.energy.errors import RunError, UsageError
from budjoule.energy.reports.records import load_records
from budjoule.energy.reports.reporters import REPORTERS, TEXT_COLUMNS
from budjoule.energy.reports.sweep_choice import render_swept, swept_page
from budjoule.energy.whatif.budget import Budget
from budjoule.energy.whatif.choice import Choice, choose, parse_goal
from budjoule.energy.whatif.sweep import Sweep, parse_axes, sweep

DEVICES = [bj.load_profile(name) for name in ("cpu-generic", "a100-pcie-40gb")]
BUDGET = Budget(energy_j=1e3, epoch_examples=5000)


def found(goal: str | None) -> tuple[Sweep, list[Choice]]:
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU())
    works = {b: bj.trace(model, torch.randn(b or 8, 64), mode="training") for b in (None, 8, 64)}
    made = sweep(lambda batch: works[batch], DEVICES, parse_axes(["batch=8,64", "power-limit-w=40,65"]))
    return made, choose(made, parse_goal(goal), DEVICES, works[None]) if goal else []


def document(made: Sweep, choices: list[Choice]) -> dict[str, Any]:
    data = made.to_dict()
    for row, point in zip(data["points"], made.points, strict=True):
        row |= BUDGET.fitting(point.estimate)
    if choices:
        rows = [{**c.to_dict(), **BUDGET.fitting(c.point.estimate)} for c in choices]
        data |= {"goal": choices[0].goal.text, "choices": rows}
    return data


@pytest.mark.parametrize("goal", [None, "energy", "energy@1.1x-time"])
def test_report_shows_what_the_sweep_did(goal: str | None, tmp_path: Path) -> None:
    made, choices = found(goal)
    (tmp_path / "s.json").write_text(json.dumps(document(made, choices)))
    records = load_records([tmp_path / "s.json"])
    file = io.StringIO()
    console = Console(file=file, width=TEXT_COLUMNS, markup=False, highlight=False, color_system=None)
    render_swept(made, choices, console, budget=BUDGET)
    shown = "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
    assert REPORTERS["console"](records) == shown
    assert "epochs" in shown
    assert REPORTERS["html"](records) == swept_page(made, choices, budget=BUDGET)
    assert json.loads(REPORTERS["json"](records)) == document(made, choices)
    assert len(REPORTERS["csv"](records).splitlines()) == 1 + len(made.points)


def broken(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = copy.deepcopy(document(*found("energy")))
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["points"].clear(), "points"),
        (lambda d: d["points"][0].pop("energy_j"), "energy_j"),
        (lambda d: d["points"][0].update(duration_s=-1.0), "duration_s"),
        (lambda d: d["axes"].update(colour=[1.0]), "axes"),
        (lambda d: d.update(goal="speed"), "goal"),
        (lambda d: d.pop("goal"), "goal"),
        (lambda d: d["choices"][0].update(device="elsewhere"), "elsewhere"),
    ],
)
def test_what_is_no_whole_sweep_is_refused(change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(broken(change)))
    with pytest.raises(RunError, match=rf"s\.json.*{said}"):
        load_records([tmp_path / "s.json"])


def test_a_page_shows_one_sweep(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(document(*found(None))))
    records = load_records([tmp_path / "s.json", tmp_path / "s.json"])
    assert REPORTERS["console"](records)
    with pytest.raises(UsageError, match="one sweep"):
        REPORTERS["html"](records)
