"""Weights that are not trained: what storing them small costs in accuracy."""

import pytest
import torch

from budjoule.training.memory.storage import Bytes, Floats

WEIGHT = torch.randn(20, 6, 3, 3, generator=torch.Generator().manual_seed(0))


def stored_bytes(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.buffers())


def rows(module: Floats | Bytes) -> torch.Tensor:
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
