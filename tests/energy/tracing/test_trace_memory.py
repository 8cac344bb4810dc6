"""Laws of peak memory: what an allocator would hold, the optimizer's state included, and less where less is kept."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import budjoule as bj

ROWS, WIDTH, LAYERS = 256, 64, 6
LAYER = 4 * (WIDTH * WIDTH + WIDTH)  # bytes of a layer's parameters
ACTIVATION = 4 * ROWS * WIDTH


class Stack(nn.Module):
    def __init__(self, *, again: bool = False, deep: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(*(part for _ in range(deep) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))
            for _ in range(LAYERS)
        )
        self.again = again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.again else layer(x)
        return x


def peak(model: nn.Module, **how: object) -> int:
    return bj.trace(model, torch.randn(ROWS, WIDTH), **how).peak_memory_bytes  # type: ignore[arg-type]


def test_inference_holds_the_weights_and_what_one_layer_works_on() -> None:
    # the model's input and the layer's, which the callers hold, what the product wrote and what tanh writes
    assert peak(Stack()) == LAYERS * LAYER + 4 * ACTIVATION


def test_training_holds_every_kept_activation_and_the_optimizers_state() -> None:
    kept = LAYERS * LAYER + (1 + LAYERS) * ACTIVATION  # tanh keeps its output, which the next layer keeps too
    plain = peak(Stack(), mode="training", optimizer="none")
    assert kept < plain < kept + 5 * ACTIVATION + LAYERS * LAYER
    for optimizer, states in (("sgd", 0), ("sgd-momentum", 1), ("adamw", 2)):
        assert peak(Stack(), mode="training", optimizer=optimizer) == plain + states * LAYERS * LAYER


def test_checkpointing_and_lower_precision_need_less() -> None:
    plain = peak(Stack(deep=4), mode="training", optimizer="none")
    again = peak(Stack(again=True, deep=4), mode="training", optimizer="none")
    assert plain - again == pytest.approx(3 * (LAYERS - 1) * ACTIVATION, rel=0.2)
    plain = peak(Stack(), mode="training")
    assert peak(Stack(), mode="training", precision="bf16") == pytest.approx(plain / 2, rel=0.06)  # the loss is fp32


def test_fused_steps_are_bounded_by_the_plain_one() -> None:
    assert 0 < peak(Stack(), mode="training", fused=True) <= peak(Stack(), mode="training")


def test_own_optimizer_holds_what_the_named_one_does() -> None:
    model = Stack()
    optimizer = torch.optim.AdamW(model.parameters())

    def step(x: torch.Tensor) -> None:
        model(x).mean().backward()
        optimizer.step()

    own = bj.trace(step, torch.randn(ROWS, WIDTH), mode="training").peak_memory_bytes
    assert own == pytest.approx(peak(model, mode="training"), rel=0.05)


def test_what_does_not_fit_is_said() -> None:
    with torch.device("meta"):
        model, x = nn.Linear(100_000, 100_000), torch.empty(1, 100_000)
    notes = bj.estimate(model, x, device="a10-pcie-24gb").notes
    assert any("40.0 GB" in note and "24.0 GB" in note for note in notes)
    assert not any(
        "memory" in note for note in bj.estimate(Stack(), torch.randn(ROWS, WIDTH), device="a10-pcie-24gb").notes
    )
