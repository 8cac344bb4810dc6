"""Lean models: what a plan says is trained, the rest stays, and an ordinary state dict comes out."""

import copy
import json
from functools import cache

import pytest
import torch
from torch import nn

from budjoule.energy.errors import UsageError
from budjoule.training.memory.choose import plan
from budjoule.training.memory.lean_model import lean, whole_state
from budjoule.training.memory.memory_plan import MemoryPlan

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4) % 10


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


@cache
def planned(memory_bytes: float, seed: int | None = None) -> MemoryPlan:
    return plan(net(), X, Y, memory_bytes=memory_bytes, seed=seed, learning_rate=0.1, probe=[(X, Y)] * 3)


def test_a_lean_model_gives_what_the_model_gives_but_for_rounded_weights() -> None:
    made = planned(30_000)
    model = net()
    small = lean(model, made)
    torch.testing.assert_close(small(X), model(X), atol=0.02, rtol=0.05)


def test_exactly_what_is_planned_moves() -> None:
    made = planned(24_000)
    model = net()
    small = lean(model, made)
    before, moved = whole_state(model, small), {}
    for _ in range(3):
        nn.functional.cross_entropy(small(X), Y).backward()
        with torch.no_grad():
            for parameter in small.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-0.1)
                parameter.grad = None
    moved = {name: (value - before[name]).abs() for name, value in whole_state(model, small).items()}
    some = 0
    for name, layer in made.layers.items():
        weight = moved[f"{name}.weight"]
        frozen = [c for c in range(layer.inputs) if c not in layer.channels] if layer.inputs > 1 else []
        if not layer.whole:
            assert float((weight[:, frozen] if frozen else weight).sum()) == 0
            some += 1
        assert (float(moved[f"{name}.bias"].sum()) > 0) == layer.bias
    assert some


@pytest.mark.parametrize("seed", [None, 7])
def test_an_ordinary_model_loads_the_state_and_agrees(seed: int | None) -> None:
    made = planned(16_000, seed=seed)
    assert seed is None or made.layers["4"].storage == "signs"
    small = lean(net(), made).eval()
    ordinary = net()
    ordinary.load_state_dict(whole_state(ordinary, small))
    torch.testing.assert_close(ordinary(X), small(X))


def test_holding_signs_changes_no_weight() -> None:
    made = planned(16_000, seed=7)
    model = net()
    one, other = lean(model, made), lean(model, made, keep=True)
    torch.testing.assert_close(one(X), other(X))


def test_a_plan_travels_as_json_and_fits_its_model_only() -> None:
    made = planned(24_000)
    again = MemoryPlan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    with pytest.raises(UsageError, match="another model"):
        lean(nn.Sequential(nn.Linear(64, 10), nn.ReLU()), made)


def test_the_model_is_left_as_it_was() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    made = plan(model, X, Y, memory_bytes=24_000, probe=[(X, Y)] * 3)
    lean(model, made)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
