"""The step that is run is the step that is estimated: its mode, its precision, its optimizer."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from budjoule.energy.errors import UsageError
from budjoule.energy.model_spec import build_model, parse_inputs
from budjoule.energy.real_step import real_step
from budjoule.energy.tracing.optimizers import OPTIMIZERS, row_of


class Seen(nn.Module):
    """Notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.calls: list[tuple[bool, bool, torch.dtype]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        self.calls.append((self.training, torch.is_grad_enabled(), y.dtype))
        return y


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("bf16-mixed", torch.bfloat16)]
)
def test_step_runs_in_the_mode_and_precision_of_the_estimate(precision: str, dtype: torch.dtype) -> None:
    for mode, training in (("inference", False), ("training", True)):
        model = Seen()
        real_step(model, torch.ones(3, 4), mode=mode, precision=precision)()
        assert model.calls == [(training, training, dtype)]


@pytest.mark.parametrize("optimizer", [*(name for name in OPTIMIZERS if not name.endswith("-fused")), "adam-loop"])
def test_training_step_moves_the_weights_by_the_optimizer_named(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped: list[Any] = []
    monkeypatch.setattr("budjoule.energy.real_step._LEARNING_RATE", 0.1)
    model = nn.Linear(4, 2)
    before = model.weight.detach().clone()
    step = real_step(model, torch.ones(3, 4), mode="training", optimizer=optimizer)
    handle = register_optimizer_step_post_hook(lambda made, args, kwargs: stepped.append(made))
    for _ in range(2):
        step()
    handle.remove()
    assert [row_of(made) for made in stepped] == ([] if optimizer == "none" else [optimizer] * 2)
    assert torch.equal(before, model.weight) == (optimizer == "none")


def test_model_of_a_spec_is_built_with_weights_where_it_is_to_run() -> None:
    spec = "hf:GPT2LMHeadModel?n_layer=1&n_embd=32&n_head=2&vocab_size=64"
    model = build_model(spec, real=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    real_step(model, parse_inputs("input_ids=2x8:int64<64"), mode="training", optimizer="sgd")()


def test_inputs_without_data_are_filled() -> None:
    seen: list[torch.Tensor] = []
    model = nn.Module()
    model.forward = lambda x, ids, flag: seen.extend((x, ids))  # type: ignore[method-assign]
    inputs = {
        "x": torch.empty(2, 3, device="meta"),
        "ids": torch.empty(5, dtype=torch.int64, device="meta"),
        "flag": True,
    }
    real_step(model, inputs)()
    assert (seen[0].shape, seen[0].is_meta, seen[1].tolist()) == ((2, 3), False, [0] * 5)


def test_step_that_cannot_be_run_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot run 'eval'"):
        real_step(nn.Linear(4, 2), torch.ones(3, 4), mode="eval")
    with pytest.raises(UsageError, match="unknown optimizer 'lion'"):
        real_step(nn.Linear(4, 2), torch.ones(3, 4), mode="training", optimizer="lion")
    frozen = nn.Linear(4, 2).requires_grad_(False)
    with pytest.raises(UsageError, match="cannot build the optimizer 'adamw'"):
        real_step(frozen, torch.ones(3, 4), mode="training")
