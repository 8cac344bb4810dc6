"""Laws of FlexAttention: the FLOP of PyTorch's counter where every block is kept, fewer where a mask drops blocks."""

import pytest
import torch
from torch import nn
from torch._higher_order_ops.flex_attention import flex_attention as kernel
from torch._higher_order_ops.flex_attention import flex_attention_backward as kernel_backward
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.utils.flop_counter import flop_registry

import budjoule as bj

BATCH, HEADS, TOKENS, WIDTH = 2, 4, 512, 16


class Attends(nn.Module):
    """Queries, keys and values are its parameters, so that nothing else multiplies."""

    def __init__(self, heads: int = HEADS, **how: object) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.randn(BATCH, HEADS, TOKENS, WIDTH))
        self.k, self.v = (nn.Parameter(torch.randn(BATCH, heads, TOKENS, WIDTH)) for _ in range(2))
        self.how = how

    def forward(self, factor: torch.Tensor) -> torch.Tensor:
        out = flex_attention(self.q * factor, self.k, self.v, **self.how)  # type: ignore[call-overload]
        return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]


def flop(model: nn.Module, mode: str = "training") -> int:
    return bj.trace(model, torch.ones(1), mode=mode).flop


def causal(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return i >= j


@pytest.mark.parametrize("heads", [HEADS, 1])
def test_flop_are_those_of_pytorchs_counter(heads: int) -> None:
    q = torch.empty(BATCH, HEADS, TOKENS, WIDTH, device="meta")
    forward = flop_registry[kernel](q, q, q)
    assert flop(Attends(heads, enable_gqa=heads < HEADS), "inference") == forward
    assert flop(Attends(heads, enable_gqa=heads < HEADS)) == forward + flop_registry[kernel_backward](
        q, q, q, q, None, q
    )


def test_mask_costs_the_blocks_it_keeps() -> None:
    mask = create_block_mask(causal, None, None, TOKENS, TOKENS, device="cpu", BLOCK_SIZE=128)
    blocks = TOKENS // 128
    kept = blocks * (blocks + 1) / 2 / blocks**2
    assert flop(Attends(block_mask=mask)) == pytest.approx(kept * flop(Attends()), rel=1e-3)


def test_what_is_left_out_or_assumed_is_noted() -> None:
    work = bj.trace(Attends(score_mod=lambda score, b, h, i, j: score + (i - j)), torch.ones(1))
    assert any("score_mod" in note for note in work.notes)
    mask = create_block_mask(causal, None, None, TOKENS, TOKENS, device="cpu").to("meta")
    work = bj.trace(Attends(block_mask=mask), torch.ones(1))
    assert work.flop == flop(Attends(), "inference")
    assert any("every block" in note for note in work.notes)


def test_auxiliary_outputs_are_there_and_the_function_is_put_back() -> None:
    code = flex_attention.__code__
    assert flop(Attends(return_aux=AuxRequest(lse=True))) == flop(Attends())
    assert flex_attention.__code__ is code
