"""Random layers: the same signs on every device, orthogonal rows, and products that never write the weights out."""

import math

import pytest
import torch

from budjoule.training.memory.functions import Dense
from budjoule.training.memory.signs import DenseSigns, Signs, order, seeded_signs

SHAPES = [(96, 512), (5, 3), (64, 784), (100, 64), (1, 1), (130, 200)]


@pytest.mark.parametrize("block_bytes", [1, 500, 10**6])
def test_a_convolutions_signs_take_a_bit_and_come_back(block_bytes: int) -> None:
    weight = seeded_signs((20, 6, 3, 3), seed=5, salt=1, scale=0.3)
    stored = Signs(weight, scale=0.3, block_bytes=block_bytes)
    frozen = stored.frozen()
    rows = torch.cat([frozen.rows(a, min(a + frozen.block, 20)) for a in range(0, 20, frozen.block)])
    assert torch.equal(rows, weight)
    assert torch.equal(stored.whole(), weight)
    assert sum(t.numel() * t.element_size() for t in stored.buffers()) == 20 * 7 + 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("some", [False, True])
def test_a_dense_layers_products_are_those_of_its_signs(shape: tuple[int, int], some: bool) -> None:
    out, inputs = shape
    columns = torch.arange(0, inputs, 2, dtype=torch.int32) if some else None
    signs = DenseSigns(shape, seed=3, salt=2, scale=0.5, columns=columns)
    weight = seeded_signs(shape, seed=3, salt=2, scale=0.5)
    weight = weight if columns is None else weight[:, ::2]
    assert torch.equal(signs.whole(), weight)
    draw = torch.Generator().manual_seed(0)
    x, grad = torch.randn(7, weight.shape[1], generator=draw), torch.randn(7, out, generator=draw)
    frozen = signs.frozen()
    torch.testing.assert_close(frozen.forward(Dense(), x), x @ weight.t(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(frozen.back(Dense(), grad, tuple(x.shape)), grad @ weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_orthogonal(shape: tuple[int, int]) -> None:
    weight = seeded_signs((shape[0], order(*shape)), seed=1, salt=0, scale=1.0)
    assert torch.equal(weight @ weight.t(), weight.shape[1] * torch.eye(shape[0]))


def test_a_dense_layers_signs_take_a_float_an_input_and_two_small_matrices() -> None:
    signs = DenseSigns((96, 512), seed=0, salt=0, scale=1.0)
    assert sum(t.numel() * t.element_size() for t in signs.buffers()) == 4 * (512 + 3 * 16 + 32 * 32)


def test_signs_are_fair_differ_by_seed_and_layer_and_are_the_same_everywhere() -> None:
    one = seeded_signs((96, 512), seed=1, salt=0, scale=1.0)
    others = [seeded_signs((96, 512), seed=seed, salt=salt, scale=1.0) for seed, salt in ((2, 0), (1, 1))]
    assert abs(float(one.mean())) < 4 / math.sqrt(one.numel())
    assert all(abs(float((one * other).mean())) < 4 / math.sqrt(512) for other in others)
    assert torch.equal(one, seeded_signs((96, 512), seed=1, salt=0, scale=1.0))
    # Written down once: a device with another torch or processor must have the very same.
    assert ["".join("+" if v > 0 else "-" for v in one[row, :32].tolist()) for row in (0, 1)] == GOLDEN


GOLDEN = ["-----+++-+-----+-++---+++-++-+-+", "-+-+--+----+-+----++-++-+++-----"]
