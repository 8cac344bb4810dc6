"""Costs of a local block: from the estimator, above the idle floor, and linear in its steps."""

import pytest
import torch

from budjoule.energy.estimate import estimate
from budjoule.training.clients.cost import BlockCosts
from budjoule.training.task.models import build_model

EXAMPLE = torch.zeros(1, 1, 8, 8)


def costs(steps: int = 1) -> BlockCosts:
    return BlockCosts(build_model("mlp", EXAMPLE, 10, 0), EXAMPLE, optimizer="sgd", local_steps=steps)


def test_a_block_is_its_steps() -> None:
    one, ten = costs(1).cost("raspberry-pi-5", 16), costs(10).cost("raspberry-pi-5", 16)
    for name in ("energy_j", "energy_high_j", "duration_s"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name))
    assert ten.idle_w == pytest.approx(one.idle_w)


def test_a_step_is_the_estimate_above_the_idle_floor() -> None:
    cost = costs().cost("raspberry-pi-5", 16)
    whole = estimate(
        build_model("mlp", EXAMPLE, 10, 0),
        torch.zeros(16, 1, 8, 8),
        device="raspberry-pi-5",
        mode="training",
        optimizer="sgd",
    )
    assert 0 < cost.energy_j < cost.energy_high_j
    assert cost.energy_j < whole.energy_j
    assert cost.energy_j + cost.idle_w * cost.duration_s == pytest.approx(whole.energy_j, rel=0.2)  # its loss is a mean
    assert cost.energy_high_j == pytest.approx(whole.energy_high_j - whole.idle_energy_j, rel=0.2)


def test_larger_batches_cost_more() -> None:
    by_batch = [costs().cost("raspberry-pi-5", batch).energy_j for batch in (1, 16, 256)]
    assert by_batch == sorted(by_batch)
