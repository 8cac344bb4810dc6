"""Laws of recurrent layers: one fused call a layer stack, the FLOP of its products, gradients for its weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import budjoule as bj

STEPS, BATCH, WIDTH, HIDDEN = 7, 3, 12, 16
LAYERS = {
    "lstm": (lambda **more: nn.LSTM(WIDTH, HIDDEN, **more), 4),
    "gru": (lambda **more: nn.GRU(WIDTH, HIDDEN, **more), 3),
    "rnn": (lambda **more: nn.RNN(WIDTH, HIDDEN, **more), 1),
}


def sequence() -> torch.Tensor:
    return torch.randn(STEPS, BATCH, WIDTH)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_one_call_with_the_flop_of_its_products(name: str, more: dict[str, int], precision: str) -> None:
    build, _ = LAYERS[name]
    model = build(**more)
    rows, weights = STEPS * BATCH, sum(p.numel() for p in model.parameters() if p.dim() > 1)
    work = bj.trace(model, sequence(), mode="training", precision=precision)
    calls = {op.name: op for op in work.ops if op.flop}
    assert {name: op.calls for name, op in calls.items()} == {"aten._cudnn_rnn": 1, "aten._cudnn_rnn_backward": 1}
    assert calls["aten._cudnn_rnn"].flop == 2 * rows * weights
    assert calls["aten._cudnn_rnn_backward"].flop == 4 * rows * weights
    assert not work.unruled


@pytest.mark.parametrize("name", LAYERS)
def test_every_weight_of_a_layer_is_trained(name: str) -> None:
    model = LAYERS[name][0]()
    before = list(model._flat_weights)
    work = bj.trace(model, sequence(), mode="training", optimizer="sgd")
    moved = sum(op.weight_bytes * op.calls for op in work.ops if op.phase == "optimizer")
    assert moved == 3 * 4 * sum(p.numel() for p in model.parameters())
    assert all(a is b for a, b in zip(model._flat_weights, before, strict=True))
    assert all(not p.is_meta and p.grad is None for p in model.parameters())


def test_launches_grow_with_the_steps_and_the_flop_stay() -> None:
    model = nn.LSTM(WIDTH, HIDDEN)
    short, long = (bj.trace(model, torch.randn(steps, 60 // steps, WIDTH)) for steps in (5, 30))
    assert short.flop == long.flop
    assert short.launches < long.launches < 20 + 4 * 30


def test_packed_sequences_count_their_real_lengths() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(WIDTH, HIDDEN)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.layer(pack_padded_sequence(x, lengths))[0].data

    lengths = torch.tensor([7, 4, 2])
    work = bj.trace(Packed(), (sequence(), lengths), mode="training", optimizer="none")
    assert work.flop == 3 * 2 * int(lengths.sum()) * (WIDTH + HIDDEN) * 4 * HIDDEN


def test_projections_are_counted() -> None:
    model = nn.LSTM(WIDTH, HIDDEN, proj_size=5)
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert bj.trace(model, sequence()).flop == 2 * STEPS * BATCH * weights


@pytest.mark.parametrize(("build", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3)])
@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed"])
def test_cell_is_two_products_and_one_kernel(build: type[nn.Module], gates: int, precision: str) -> None:
    model = build(WIDTH, HIDDEN)
    work = bj.trace(model, torch.randn(BATCH, WIDTH), mode="training", optimizer="none", precision=precision)
    forward = sum(op.flop * op.calls for op in work.ops if op.phase == "forward")
    assert forward == 2 * BATCH * (WIDTH + HIDDEN) * gates * HIDDEN
    assert sum(op.calls for op in work.ops if "fused" in op.name and op.phase == "forward") == 1
    assert not work.unruled


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_takes_what_autocast_made_of_the_one_before(name: str, precision: str) -> None:
    class After(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Linear(WIDTH, WIDTH)
            self.layer = LAYERS[name][0]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.before(x))[0]

    work = bj.trace(After(), sequence(), mode="training", precision=precision)
    layer = [op for op in work.ops if "_cudnn_rnn" in op.name]
    assert {op.precision for op in layer} == {precision.removesuffix("-mixed")}
    assert not work.unruled
