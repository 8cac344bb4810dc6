"""A killed run goes on where its last transaction left it: nothing is charged twice and the result is the same to the bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budjoule.energy.errors import RunError
from budjoule.energy.reports.run_folder import load_run
from budjoule.training.run import train
from budjoule.training.simulation.simulator import Simulator

Bits = Callable[..., tuple[dict[str, Any], bytes]]

KILLED_AT = """
import json, os, signal, sys
import budjoule.training.run as run
from budjoule.training.simulation.simulator import Simulator
run._CHECKPOINT_EVENTS = 20
step = Simulator.step
def dying(self):
    if self.events == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Simulator.step = dying
run.train(json.loads(sys.argv[1]), output=sys.argv[2], resume=sys.argv[4] == "resume")
"""


def killed(config: dict[str, Any], folder: Path, event: int, *, resume: bool) -> None:
    how = "resume" if resume else "begin"
    command = [sys.executable, "-c", KILLED_AT, json.dumps(config), str(folder), str(event), how]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL


def test_sigkill_and_resume_equal_an_uninterrupted_run(small: dict[str, Any], run_bits: Bits, tmp_path: Path) -> None:
    coming_and_going = {"arrival": "4 min", "lifetime": "30 min", "battery": "90 J"}
    config = small | {"fleet": {**small["fleet"], "dropout_frac": 0.1, "awake_frac": 0.5, **coming_and_going}}
    folder = tmp_path / "killed"
    killed(config, folder, 37, resume=False)
    assert not (folder / "summary.json").exists()
    killed(config, folder, 71, resume=True)
    resumed = run_bits(config, output=folder, resume=True)
    whole = run_bits(config)
    assert whole[0]["sends"] > 10
    assert resumed == whole
    assert all(row["spent_j"] <= row["budget_j"] for row in resumed[0]["by_client"])


@pytest.mark.parametrize("method", ["budjoule", "fedavg-deadline"])
@pytest.mark.parametrize("policy", ["price-threshold", "joule-queue", "token-bucket"])
def test_any_crash_point_resumes_to_the_same_bits(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, policy: str
) -> None:
    """A crash inside an event, in the middle of its ledger's rows, every 15 decisions: the transaction takes it all back."""
    config = small | {"server": {**small["server"], "method": method}, "schedule": {"policy": policy}}
    whole = run_bits(config, "stop.duration=15 min")
    monkeypatch.setattr("budjoule.training.run._CHECKPOINT_EVENTS", 7)
    ended, count = Simulator._decide, [0]

    def crashing(self: Simulator, client: int) -> None:
        count[0] += 1
        if count[0] % 15 == 0:
            raise MemoryError
        ended(self, client)

    monkeypatch.setattr(Simulator, "_decide", crashing)
    folder, crashes, resume = tmp_path / "crashed", 0, False
    while True:
        try:
            resumed = run_bits(config, "stop.duration=15 min", output=folder, resume=resume)
            break
        except MemoryError:
            crashes, resume = crashes + 1, True
    assert crashes >= 1
    assert resumed == whole


def test_a_run_killed_before_its_first_transaction_begins_anew(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = "stop.duration=3 min"
    with monkeypatch.context() as patch:
        patch.setattr(
            "budjoule.training.simulation.checkpoint.Checkpoint.save", lambda *_: (_ for _ in ()).throw(MemoryError)
        )
        with pytest.raises(MemoryError):
            run_bits(small, short, output=tmp_path / "run")
    assert run_bits(small, short, output=tmp_path / "run", resume=True) == run_bits(small, short)


@pytest.mark.parametrize("stop", ["stop.duration=5 min", "stop.rounds=2"])
def test_a_run_killed_before_its_summary_stands_pays_for_its_last_blocks_once(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, stop: str
) -> None:
    long = small | {"training": {**small["training"], "local_steps": 3_000}, "budget": {"horizon": "20 min"}}
    folder = tmp_path / "run"
    whole = run_bits(long, stop, output=folder)
    (folder / "summary.json").unlink()
    assert run_bits(long, stop, output=folder, resume=True) == whole


def test_a_damaged_checkpoint_is_one_line(small: dict[str, Any], tmp_path: Path) -> None:
    train(small, output=tmp_path / "run", overrides=["stop.duration=1 min"])
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match=r"ledger\.db"):
        train(small, output=tmp_path / "run", overrides=["stop.duration=1 min"], resume=True)


SECOND = """
import json, sys
from budjoule.training.run import train
train(json.loads(sys.argv[1]), output=sys.argv[2], overrides=[sys.argv[3]], resume=True)
"""


def test_two_processes_do_not_share_a_folder(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, folder, others = "stop.duration=3 min", tmp_path / "run", list[str]()
    alone, step = run_bits(small, short), Simulator.step

    def meddling(self: Simulator) -> bool:
        if self.events == 5 and not others:
            command = [sys.executable, "-c", SECOND, json.dumps(small), str(folder), short]
            others.append(subprocess.run(command, capture_output=True, text=True).stderr)
        return step(self)

    monkeypatch.setattr(Simulator, "step", meddling)
    assert run_bits(small, short, output=folder) == alone
    assert others
    assert "RunError" in others[0]
    assert "is in use" in others[0]


@pytest.fixture
def refusing(small: dict[str, Any]) -> dict[str, Any]:
    """Rounds whose deadline passes while frames are on their way, from clients that keep what was not sent."""
    fleet = {"clients": 8, "link": "wifi-pi", "link_state": "two-state:30:10 s"}
    fleet |= {"straggler_frac": 0.5, "straggler_slowdown": [2, 50]}
    server = {"method": "fedavg-deadline", "cohort": 8, "deadline": "5.05 s"}
    free = {"budget": {"energy": "none"}, "schedule": {"policy": "every-block", "slot": "5 s"}}
    return small | free | {"fleet": fleet, "server": server, "stop": {"rounds": 40, "target_accuracy_frac": "none"}}


def test_when_checkpoints_fall_changes_nothing_of_a_run_that_refuses_frames(
    refusing: dict[str, Any], run_bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_bits(refusing)
    assert whole[0]["rejects"]["no open invitation"] > 5
    monkeypatch.setattr("budjoule.training.run._CHECKPOINT_EVENTS", 1)
    assert run_bits(refusing) == whole


def test_a_crash_between_a_frame_and_its_refusal_resumes_to_the_same_bits(
    refusing: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint falls right before an arrival that will be refused, and the run crashes in the arrival."""
    whole = run_bits(refusing)
    monkeypatch.setattr("budjoule.training.run._CHECKPOINT_EVENTS", 1)
    rejected, crashes, resume = Simulator.rejected, 0, False

    def crashing(self: Simulator, client: int, reason: str) -> None:
        if self.events not in seen:
            seen.add(self.events)
            raise MemoryError
        rejected(self, client, reason)

    seen: set[int] = set()
    monkeypatch.setattr(Simulator, "rejected", crashing)
    while True:
        try:
            resumed = run_bits(refusing, output=tmp_path / "crashed", resume=resume)
            break
        except MemoryError:
            crashes, resume = crashes + 1, True
    assert crashes == sum(whole[0]["rejects"].values())
    assert resumed == whole


OWN = """
import torch
from torch.utils.data import TensorDataset

def data(seed):
    make = torch.Generator().manual_seed(seed + EXTRA)
    whole = TensorDataset(torch.rand(60, 3, generator=make), torch.arange(60) % 2)
    return whole, whole
"""


def test_other_data_under_the_same_name_are_not_gone_on_with(small: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "own.py"
    source.write_text(OWN.replace("EXTRA", "0"))
    config = small | {"task": {"data": f"{source}:data"}}
    train(config, output=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    train(config, output=tmp_path / "run", resume=True)
    (tmp_path / "run" / "summary.json").unlink()
    source.write_text(
        OWN.replace("EXTRA", "12345")
    )  # of another length: bytecode of the same second would be taken for it
    with pytest.raises(RunError, match="begun with other data"):
        train(config, output=tmp_path / "run", resume=True)


def test_a_worker_that_loads_other_data_ends_the_run(
    small: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "own.py"
    source.write_text("import os\n" + OWN.replace("EXTRA", "os.getpid()"))
    with pytest.raises(RunError, match="a worker ended"):
        train(small | {"task": {"data": f"{source}:data"}}, output=tmp_path / "run", workers=2)
    assert "let the seed alone decide" in capfd.readouterr().err


def test_an_unfinished_run_without_an_energy_limit_has_no_budget(small: dict[str, Any], tmp_path: Path) -> None:
    train(small, output=tmp_path / "run", overrides=["budget.energy=none", "stop.rounds=2"])
    (tmp_path / "run" / "summary.json").unlink()
    assert load_run(tmp_path / "run").totals.budget_j is None
