"""Plans fit their limit by the allocator's own count, grow with it, and are refused with what would fit."""

import pytest
import torch
from torch import nn

from budjoule.energy.errors import UsageError
from budjoule.training.clients.local import one_thread
from budjoule.training.memory.allocator import allocator_peak_bytes
from budjoule.training.memory.choose import plan
from budjoule.training.memory.contribution import contributions
from budjoule.training.memory.lean_model import lean
from budjoule.training.memory.memory_plan import MemoryPlan
from budjoule.training.memory.predict import mean_loss
from budjoule.training.memory.step import Step
from budjoule.training.task.models import build_model

X = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4) % 10
MODEL = build_model("conv", X[:2], 10, 0)
PROBE = [(X, Y)] * 6


def planned(memory_bytes: float, **keys: object) -> MemoryPlan:
    return plan(MODEL, X, Y, memory_bytes=memory_bytes, learning_rate=0.1, probe=PROBE, **keys)


@pytest.fixture(scope="module")
def plans() -> dict[int, MemoryPlan]:
    return {kb: planned(kb * 1000, seed=3) for kb in (28, 45, 1000)}


def test_the_allocator_agrees_that_a_plan_fits(plans: dict[int, MemoryPlan], capfd: pytest.CaptureFixture[str]) -> None:
    for kb, made in plans.items():
        small = lean(MODEL, made)
        parameters = [p for p in small.parameters() if p.requires_grad]
        step = Step(
            parameters,
            lambda part, small=small: mean_loss(small, *part, loss=None),
            optimizer="sgd",
            learning_rate=0.1,
            micro_batch=made.micro_batch,
            in_backward=made.in_backward,
        )
        with one_thread():
            step((X, Y))
            true_bytes = allocator_peak_bytes(lambda step=step: step((X, Y)), [*small.parameters(), *small.buffers()])
        step.close()
        assert made.peak_bytes <= kb * 1000
        assert true_bytes == pytest.approx(made.peak_bytes, rel=0.08)
    capfd.readouterr()


def test_more_memory_trains_no_less(plans: dict[int, MemoryPlan]) -> None:
    shares = [made.contribution_frac for made in plans.values()]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1]
    assert shares[-1] == pytest.approx(1.0)


def test_what_fits_whole_is_trained_whole_in_the_quickest_way(plans: dict[int, MemoryPlan]) -> None:
    made = plans[1000]
    assert all(layer.whole and layer.bias for layer in made.layers.values())
    assert made.micro_batch == 4
    assert not made.in_backward


def test_an_optimizer_with_a_state_leaves_less_room(plans: dict[int, MemoryPlan]) -> None:
    made, stateful = plans[45], planned(45_000, seed=3, optimizer="sgd-momentum")
    assert stateful.footprint.state_bytes > 0
    assert stateful.peak_bytes <= 45_000
    assert stateful.contribution_frac <= made.contribution_frac


def test_batch_norm_keeps_its_batch() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10))
    assert plan(model, X, Y, memory_bytes=60_000, probe=PROBE).micro_batch == 4


def test_too_little_is_refused_with_what_would_do() -> None:
    with pytest.raises(UsageError, match=r"within 5\.00 kB.*takes [\d.]+ kB with micro-batches of 1"):
        planned(5_000, seed=3)


def test_a_layer_that_nothing_depends_on_is_worth_little() -> None:
    """Behind a constant zero no gradient arrives; the head alone lowers the loss."""

    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 + 1

    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), Cut(), nn.Linear(20, 10))
    worth = contributions(model, [(X, Y % 2)] * 20, learning_rate=0.05)
    below, above = (float(worth[name].channels.sum()) + worth[name].bias for name in ("1", "3"))
    assert 0 < below < 0.2 * above
