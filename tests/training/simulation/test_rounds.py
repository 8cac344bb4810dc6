"""Laws of who is heard: rounds with policies that wait, deadlines, refusals, and what a run that stops has spent."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from budjoule.training.run import train
from budjoule.training.schedulers import SCHEDULERS
from budjoule.training.simulation.blocks import Blocks, Task

Small = dict[str, Any]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


@pytest.mark.parametrize("method", ["fedavg", "fedavg-deadline"])
@pytest.mark.parametrize("policy", SCHEDULERS)
def test_rounds_are_made_whatever_the_policy(small: Small, policy: str, method: str, tmp_path: Path) -> None:
    change = {
        "server": {"method": method, "cohort": 3},
        "schedule": {"policy": policy, "slot": "20 s"},
        "fleet": {"straggler_frac": 0.0},
        "stop": {"duration": "none"},
    }
    summary = train(small, overrides=[change], output=tmp_path / "run").summary
    assert summary["rounds"] >= 3
    assert sum(row["taken"] for row in summary["by_client"]) >= 0.8 * summary["sends"] - summary["lost"]
    assert summary["overspent_clients"] == 0


def test_who_waits_for_a_price_in_a_round_sends_before_its_deadline(small: Small, tmp_path: Path) -> None:
    """With joules for three sends in an hour price-threshold waits for minutes; the round is over after one."""
    change = {
        "server": {"method": "fedavg-deadline", "cohort": 6, "deadline": "1 min"},
        "schedule": {"policy": "price-threshold", "slot": "5 s"},
        "fleet": {"straggler_frac": 0.0, "link_state": "constant"},
        "budget": {"energy": "80 J", "horizon": "1 h"},
    }
    summary = train(small, overrides=[change], output=tmp_path / "run").summary
    assert summary["rejects"] == {}
    assert summary["participating_clients"] == 6
    assert max(row["blocks"] / row["sends"] for row in summary["by_client"]) > 3


def test_a_client_has_taken_part_when_the_server_took_its_update(small: Small, tmp_path: Path) -> None:
    """Stragglers' frames come after the deadline: they are sent, paid for and refused."""
    change = {
        "server": {"method": "fedavg-deadline", "cohort": 6, "deadline": "2 s"},
        "schedule": {"policy": "every-block", "slot": "1 s"},
        "fleet": {"straggler_frac": 0.5, "straggler_slowdown": 1000.0, "link": "wifi-2012"},
        "budget": {"energy": "none"},
        "stop": {"duration": "80 s"},
    }
    run = train(small, overrides=[change], output=tmp_path / "run")
    late = {row["client"] for row in run.summary["by_client"] if row["straggler"]}
    refused = Counter(row["client"] for row in events(run.folder, "reject"))
    assert refused
    assert set(refused) <= late
    for row in run.summary["by_client"]:
        on_the_way = row["sends"] - row["lost"] - row["taken"] - refused[row["client"]]
        assert on_the_way in (0, 1)
        assert (row["taken"] == 0) == (row["client"] in late)
    assert run.summary["participating_clients"] == 6 - len(late) == 3


@pytest.mark.parametrize("feedback", [True, False])
def test_one_glitch_costs_one_refusal(
    small: Small, feedback: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Blocks.result

    def glitch(self: Blocks, task: Task) -> Any:
        ended = honest(self, task)
        return ended + np.float32(50) if (task.client, task.count) == (0, 2) else ended

    monkeypatch.setattr(Blocks, "result", glitch)
    change = {
        "update": {"error_feedback": feedback},
        "schedule": {"policy": "every-block", "slot": "none"},
        "budget": {"energy": "none"},
        "stop": {"rounds": 30, "duration": "none"},
    }
    run = train(small, overrides=[change], output=tmp_path / "run")
    assert run.summary["rejects"] == {"norm": 1}
    assert run.summary["by_client"][0]["taken"] > 5


def test_a_run_that_stops_has_paid_for_the_blocks_under_way(small: Small, tmp_path: Path) -> None:
    endless = {
        "training": {"local_steps": 10**6},
        "schedule": {"policy": "every-block", "slot": "none"},
        "fleet": {"straggler_frac": 0.0, "energy_error_frac": 0.0, "link_state": "constant"},
        "budget": {"energy": "none", "horizon": "100 h"},
        "server": {"cohort": 6},
    }
    spent_j = []
    for duration in ("100 s", "200 s", "300 s"):
        change = {**endless, "stop": {"duration": duration}}
        summary = train(small, overrides=[change], output=tmp_path / duration[:3]).summary
        assert summary["sends"] == 0
        spent_j.append(summary["spent_by_cause_j"]["compute"])
    assert spent_j[0] > 1.0
    assert spent_j[2] - spent_j[1] == pytest.approx(spent_j[1] - spent_j[0], rel=1e-6)


def test_losses_are_drawn_anew_for_each_send(small: Small, tmp_path: Path) -> None:
    change = {
        "fleet": {"dropout_frac": 0.5, "straggler_frac": 0.0},
        "schedule": {"policy": "every-block", "slot": "none"},
        "budget": {"energy": "none"},
        "stop": {"rounds": 100, "duration": "none"},
    }
    rows = train(small, overrides=[change], output=tmp_path / "run").summary["by_client"]
    assert all(0.2 < row["lost"] / row["sends"] < 0.8 for row in rows)


def test_what_is_refused_after_all_was_not_taken(small: Small, tmp_path: Path) -> None:
    """Rounds of a secure sum that too few reach are void, though each update had been taken in."""
    change = {
        "server": {"method": "fedavg", "cohort": 6, "staleness": "constant"},
        "update": {"compress": [], "error_feedback": False},
        "privacy": {"secure_aggregation": True, "clip": 1.0},
        "fleet": {"dropout_frac": 0.5, "straggler_frac": 0.0},
        "schedule": {"policy": "every-block", "slot": "none"},
        "budget": {"energy": "none"},
        "stop": {"rounds": 4, "duration": "none"},
    }
    run = train(small, overrides=[change], output=tmp_path / "run")
    refused = Counter(row["client"] for row in events(run.folder, "reject"))
    assert refused
    for row in run.summary["by_client"]:
        on_the_way = row["sends"] - row["lost"] - row["taken"] - refused[row["client"]]
        assert on_the_way in (0, 1)
    assert sum(row["taken"] for row in run.summary["by_client"]) == sum(
        row["updates"] for row in events(run.folder, "aggregate")
    )
