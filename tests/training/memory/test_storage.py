"""Weights that are not trained: what storing them small costs in accuracy, and that every device has the same signs."""

import pytest
import torch

from budjoule.training.memory.storage import Bytes, Floats, Signs, seeded_signs

WEIGHT = torch.randn(20, 6, 3, 3, generator=torch.Generator().manual_seed(0))


def stored_bytes(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.buffers())


def rows(module: Floats | Bytes | Signs) -> torch.Tensor:
    frozen = module.frozen()
    return torch.cat([frozen.rows(a, min(a + frozen.block, 20)) for a in range(0, 20, frozen.block)])


def test_floats_are_as_they_were() -> None:
    assert torch.equal(rows(Floats(WEIGHT)), WEIGHT)


@pytest.mark.parametrize("block_bytes", [1, 500, 10**6])
def test_bytes_are_off_by_half_a_step_at_most(block_bytes: int) -> None:
    stored = Bytes(WEIGHT, block_bytes=block_bytes)
    step = WEIGHT.abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((rows(stored) - WEIGHT).abs() <= step * 0.5001).all()
    assert stored_bytes(stored) == WEIGHT.numel() + 20 * 4


@pytest.mark.parametrize(("block_bytes", "keep"), [(1, False), (500, False), (10**6, False), (1, True)])
def test_signs_take_a_bit_and_come_back(block_bytes: int, keep: bool) -> None:
    weight = seeded_signs((20, 6, 3, 3), seed=5, salt=1, scale=0.3)
    stored = Signs(weight, scale=0.3, block_bytes=block_bytes, keep=keep)
    assert torch.equal(rows(stored), weight)
    assert stored_bytes(stored) == 20 * 7 + 8


def test_signs_are_fair_differ_by_seed_and_layer_and_are_the_same_everywhere() -> None:
    one = seeded_signs((96, 512), seed=1, salt=0, scale=1.0)
    others = [seeded_signs((96, 512), seed=seed, salt=salt, scale=1.0) for seed, salt in ((2, 0), (1, 1))]
    spread = 4 / one.numel() ** 0.5
    assert abs(float(one.mean())) < spread
    assert all(abs(float((one * other).mean())) < spread for other in others)
    neighbours = one @ one.t() / 512 - torch.eye(96)
    assert float(neighbours.abs().max()) < 6 / 512**0.5
    assert torch.equal(one, seeded_signs((96, 512), seed=1, salt=0, scale=1.0))
    # Written down once: a device with another torch or processor must have the very same.
    assert "".join("+" if v > 0 else "-" for v in one[0, :32].tolist()) == GOLDEN


GOLDEN = "-----+++-+-----+-++---+++-++-+-+"
