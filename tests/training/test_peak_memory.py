"""Peak memory of a step: what the allocator says, and no less than what must be there."""

import copy

import pytest
import torch
from torch import nn

from budjoule.training.clients.memory import peak_memory_bytes
from budjoule.training.config.config import load_config
from budjoule.training.task.models import build_model

INPUTS = torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 10


def peak(model: nn.Module, batch: int = 16, optimizer: str = "sgd") -> int:
    return peak_memory_bytes(
        model, INPUTS[:batch], LABELS[:batch], load_config({"training": {"optimizer": optimizer}}).training
    )


def test_weights_gradients_and_state_are_counted() -> None:
    model = build_model("mlp", INPUTS[:2], 10, 0)
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert peak(model) > 2 * weights
    assert peak(model, optimizer="sgd-momentum") - peak(model) == weights
    assert peak(model, optimizer="adam") - peak(model) >= 2 * weights


def test_activations_grow_with_the_batch() -> None:
    model = build_model("conv", INPUTS[:2], 10, 0)
    sizes = [peak(model, batch) for batch in (4, 8, 16, 32)]
    assert sizes == sorted(sizes)
    assert sizes[3] - sizes[2] == pytest.approx(2 * (sizes[2] - sizes[1]), rel=0.3)


def test_the_model_is_left_as_it_was() -> None:
    model = build_model("conv", INPUTS[:2], 10, 0)
    before = copy.deepcopy(model.state_dict())
    peak(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_allocators_own_events_agree(capfd: pytest.CaptureFixture[str]) -> None:
    from torch.profiler import ProfilerActivity, profile

    model = build_model("mlp", INPUTS[:2], 10, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, foreach=False)

    def step() -> None:
        nn.functional.cross_entropy(model(INPUTS[:16]), LABELS[:16]).backward()
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad.zero_()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    capfd.readouterr()
    alive = highest = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            highest = max(highest, alive)
    resident = 2 * sum(p.numel() * 4 for p in model.parameters())
    assert peak(model) == pytest.approx(resident + highest, rel=0.02)
