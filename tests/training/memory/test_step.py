"""A training step in parts: the same gradient, and updates inside backward."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from budjoule.energy.errors import UsageError
from budjoule.training.memory.predict import mean_loss
from budjoule.training.memory.step import Step, parts

X = torch.rand(10, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 3


def trained(optimizer: str = "sgd", steps: int = 3, **keys: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    step = Step(
        list(model.parameters()),
        lambda part: mean_loss(model, *part, loss=None),
        optimizer=optimizer,
        learning_rate=0.1,
        **keys,
    )
    for _ in range(steps):
        step((X, Y))
    step.close()
    assert all(p.grad is None for p in model.parameters())
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-momentum", "adam", "adamw"])
@pytest.mark.parametrize("micro_batch", [1, 3, 10, 99])
def test_micro_batches_add_up_to_the_batch(optimizer: str, micro_batch: int) -> None:
    for one, other in zip(
        trained(optimizer).values(), trained(optimizer, micro_batch=micro_batch).values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-momentum", "adam"])
def test_updating_inside_backward_changes_no_bit(optimizer: str) -> None:
    for one, other in zip(trained(optimizer).values(), trained(optimizer, in_backward=True).values(), strict=True):
        assert torch.equal(one, other)


def test_updating_after_each_micro_batch_goes_about_as_far() -> None:
    start, whole, small = trained(steps=0), trained(steps=1), trained(steps=1, micro_batch=1, in_backward=True)
    for name in start:
        torch.testing.assert_close(small[name] - start[name], whole[name] - start[name], rtol=0.2, atol=2e-3)


def test_a_closed_step_leaves_parameters_alone() -> None:
    parameter = nn.Parameter(torch.ones(3))
    step = Step(
        [parameter], lambda part: (parameter * part).sum(), optimizer="sgd", learning_rate=0.1, in_backward=True
    )
    step.close()
    parameter.sum().backward()
    assert torch.equal(parameter, torch.ones(3))


def test_parts_keep_every_example_once_and_what_is_not_split() -> None:
    found = list(parts({"x": X, "scale": torch.tensor(2.0), "name": "n"}, 4))
    assert [len(part["x"]) for part in found] == [4, 4, 2]
    assert torch.equal(torch.cat([part["x"] for part in found]), X)
    assert all(part["scale"] == 2 and part["name"] == "n" for part in found)
    with pytest.raises(UsageError, match="no tensor"):
        list(parts({"name": "n"}, 4))
