"""A fleet's memory: a client that waits for its turn costs a few hundred bytes."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budjoule.training.compression.update import Update
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.run import train
from budjoule.training.simulation.simulator import Simulator

DATA = """
import torch
from torch.utils.data import TensorDataset
def data(seed):
    labels = torch.arange(6000) % 3
    inputs = torch.nn.functional.one_hot(labels, 4).float()
    return TensorDataset(inputs, labels), TensorDataset(inputs[:30], labels[:30])
"""

Begin = Callable[[Simulator], None]


@pytest.mark.parametrize("availability", ["always", "charging-at-night"])
def test_a_client_that_waits_is_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, availability: str) -> None:
    """The same data and cohort for 500 and for 2,000 clients: what the others cost while the run goes on, and at its end."""
    (tmp_path / "data.py").write_text(DATA)
    config: dict[str, Any] = {
        "task": {"data": f"{tmp_path / 'data.py'}:data", "partition": "iid"},
        "fleet": {"availability": availability, "link_state": "two-state:8"},
        "training": {"local_steps": 1, "batch_size": 2},
        "server": {"cohort": 4, "buffer_size": 4},
        "stop": {"rounds": 3, "target_accuracy_frac": "none", "duration": "none"},
    }
    held: list[int] = []
    end = Simulator.end

    def ending(self: Simulator) -> None:
        end(self)
        held.append(tracemalloc.get_traced_memory()[0])

    monkeypatch.setattr(Simulator, "end", ending)
    train(config, output=tmp_path / "warm-up", overrides=["fleet.clients=500"])
    held.clear()
    peaks = []
    for clients in (500, 2000):
        tracemalloc.start()
        try:
            summary = train(config, output=tmp_path / str(clients), overrides=[f"fleet.clients={clients}"]).summary
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert summary["participating_clients"] <= 16
    assert (held[1] - held[0]) / 1500 < 1000
    assert (peaks[1] - peaks[0]) / 1500 < 4000


def test_a_client_that_was_never_invited_has_its_ledger(small: dict[str, Any], tmp_path: Path) -> None:
    overrides = ["fleet.clients=30", "stop.rounds=1"]
    rows = train(small, output=tmp_path / "run", overrides=overrides).summary["by_client"]
    (idle, *_) = (row for row in rows if not row["spent_j"])
    with Ledger.open(tmp_path / "run" / "ledger.db", account=f"client-{idle['client']}") as ledger:
        assert (ledger.budget_j, ledger.remaining_j) == (100.0, 100.0)


def test_the_server_knows_what_a_client_holds(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boastful(examples: int, **said: Any) -> Update:
        return Update(examples=examples + 1, **said)

    monkeypatch.setattr("budjoule.training.simulation.simulator.Update", boastful)
    summary = train(small, output=tmp_path / "run").summary
    assert summary["rounds"] == 0
    assert sum(summary["rejects"].values()) == summary["sends"] - summary["lost"] > 0
    assert all(reason.startswith("examples") for reason in summary["rejects"])
