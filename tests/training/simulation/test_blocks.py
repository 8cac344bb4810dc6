"""Worker processes: the same bits however many, across a kill too, and none is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from budjoule.energy.errors import RunError
from budjoule.training.run import train
from budjoule.training.simulation.blocks import Blocks
from budjoule.training.simulation.simulator import Simulator

Bits = Callable[..., tuple[dict[str, Any], bytes]]


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "worker" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    "overrides",
    [
        ["fleet.lifetime=20 min"],
        ["server.method=fedavg", "training.learning_rate_decay=0.9"],
        ["training.memory=40 %", "training.logit_adjustment=true"],
    ],
)
def test_results_do_not_depend_on_the_number_of_workers(
    small: dict[str, Any], run_bits: Bits, overrides: list[str]
) -> None:
    alone = run_bits(small, *overrides)
    assert alone[0]["sends"] > 0
    assert run_bits(small, *overrides, workers=3) == alone
    assert not workers()


def test_a_crashed_run_with_workers_goes_on_with_another_number(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budjoule.training.run._CHECKPOINT_EVENTS", 5)
    step = Simulator.step

    def crashing(self: Simulator) -> bool:
        if self.events == 23:
            raise MemoryError
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "step", crashing)
        with pytest.raises(MemoryError):
            run_bits(small, output=tmp_path / "run", workers=2)
    begun: list[int] = []
    begin = Blocks.begin
    monkeypatch.setattr(Blocks, "begin", lambda self, task: begun.append(task.client) or begin(self, task))
    resumed = run_bits(small, output=tmp_path / "run", resume=True, workers=3)
    assert begun
    assert resumed == run_bits(small)


def test_a_worker_that_dies_ends_the_run_with_the_remedy_and_the_run_goes_on(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Simulator.step

    def murderous(self: Simulator) -> bool:
        for worker in workers() if self.events == 12 else []:
            worker.kill()
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "step", murderous)
        with pytest.raises(RunError, match=r"a worker ended .* Go on with --resume"):
            train(small, output=tmp_path / "run", workers=2)
    assert not workers()
    assert run_bits(small, output=tmp_path / "run", resume=True) == run_bits(small)


def test_workers_end_with_a_run_that_is_killed(small: dict[str, Any], tmp_path: Path) -> None:
    program = "import json, sys; from budjoule.training.run import train; train(json.loads(sys.argv[1]), output=sys.argv[2], workers=2)"
    config = small | {"training": {**small["training"], "local_steps": 2000}}
    run = subprocess.Popen([sys.executable, "-c", program, json.dumps(config), str(tmp_path / "run")])
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        children = psutil.Process(run.pid).children()
    assert len(children) == 2
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
