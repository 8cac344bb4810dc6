"""`training.memory` drives a run: what is trained and sent shrinks, the peak fits, and everything else still holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from budjoule.energy.errors import UsageError
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.config.config import load_config
from budjoule.training.memory.choose import plan
from budjoule.training.run import train
from budjoule.training.task.models import build_model

X = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 10


def bench(*, frugal: bool, in_backward: bool = True) -> Workbench:
    model = build_model("mlp", X[:2], 10, 0)
    training = load_config({"training": {"batch_size": 4, "local_steps": 5, "learning_rate": 0.05}}).training
    made = plan(model, X[:4], Y[:4], memory_bytes=9_000, probe=[(X, Y)] * 4, seed=3)
    assert made.micro_batch < 4
    assert made.in_backward
    return Workbench(model, training, memory=replace(made, in_backward=in_backward), frugal=frugal)


@pytest.mark.parametrize(("in_backward", "off_frac"), [(False, 1e-5), (True, 0.1)])
def test_a_quick_block_ends_where_a_frugal_one_does_or_near_it_where_weights_move_within_a_batch(
    in_backward: bool, off_frac: float
) -> None:
    ends = []
    for frugal in (False, True):
        made = bench(frugal=frugal, in_backward=in_backward)
        start = made.values()
        with one_thread():
            ends.append(made.block(start, X, Y, seed=(1, 2)))
    moved = np.linalg.norm(ends[1] - start)
    assert moved > 0
    assert np.linalg.norm(ends[0] - ends[1]) < off_frac * moved


def test_the_layout_names_the_channels() -> None:
    made = bench(frugal=False)
    assert any("[:," in name for name in made.layout.names)
    assert made.layout.size < 4810
    assert set(made.state_dict()) == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_a_run_within_memory_sends_less_and_says_so(
    small: dict[str, Any], run_bits: Callable[..., tuple[dict[str, Any], bytes]], tmp_path: Path
) -> None:
    whole, _ = run_bits(small)
    summary, events = run_bits(small, "training.memory=60 %", output=tmp_path / "lean")
    again, same = run_bits(small, "training.memory=60 %")
    assert {name: (value, again[name]) for name, value in summary.items() if value != again[name]} == {}
    assert same == events
    assert whole["peak_memory_bytes"] == whole["full_memory_bytes"] == summary["full_memory_bytes"]
    assert summary["peak_memory_bytes"] <= 0.6 * whole["peak_memory_bytes"]
    assert summary["parameters"] < whole["parameters"]
    assert summary["overspent_clients"] == 0
    state = torch.load(tmp_path / "lean" / "model.pt", weights_only=True)
    model = build_model("mlp", torch.zeros(2, 1, 8, 8), 10, 0)
    model.load_state_dict(state)


def test_enough_memory_changes_nothing(
    small: dict[str, Any], run_bits: Callable[..., tuple[dict[str, Any], bytes]]
) -> None:
    assert run_bits(small) == run_bits(small, "training.memory=1 MB")


def test_too_little_memory_is_refused_before_anything_is_written(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no part of this model can be trained"):
        train(small, overrides=["training.memory=1 kB"], output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
