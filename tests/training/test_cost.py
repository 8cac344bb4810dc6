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


def test_a_batch_that_does_not_come_out_even_takes_a_pass_more() -> None:
    model = build_model("mlp", EXAMPLE, 10, 0)
    parted = BlockCosts(model, EXAMPLE, optimizer="sgd", local_steps=1, micro_batch=4)
    of_four = parted.cost("raspberry-pi-5", 4)
    for batch, passes in ((8, 2), (9, 3), (12, 3), (3, None)):
        cost = parted.cost("raspberry-pi-5", batch)
        if passes is None:
            assert cost.energy_j < of_four.energy_j
        else:
            assert cost.energy_j == pytest.approx(passes * of_four.energy_j)
