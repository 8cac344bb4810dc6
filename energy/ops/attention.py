"""Fused attention: two products forward, five backward (the scores are computed again), and a softmax that never leaves the chip.

Source: Dao, FlashAttention-2, ICLR 2024, arXiv 2307.08691. FLOP as in `torch.utils.flop_counter`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from budjoule.energy.ops.rule import Counted, rule, size_bytes


def _counted(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, products: tuple[int, int], launches: int, **rest: Any
) -> Counted:
    batch, heads, rows, width = q.shape
    columns, value_width = k.shape[-2], v.shape[-1]
    flop = 2 * batch * heads * rows * columns * (products[0] * width + products[1] * value_width)
    scores = batch * heads * rows * columns
    return Counted(
        kind="attention",
        flop=flop,
        product=(batch * heads, rows, columns, width),
        elements=2 * scores,
        heavy=scores,
        launches=launches,
        **rest,
    )


FORWARD = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)


@rule(*FORWARD)
def attention(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    q, k, v = args[:3]
    return _counted(q, k, v, (1, 1), 1, written_bytes=size_bytes(out[0]) + size_bytes(out[1]))


@rule(*(f"{name}_backward" for name in FORWARD))
def attention_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    q, k, v = args[1:4]
    return _counted(q, k, v, (3, 2), 3)


def _packed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors of (batch, tokens, heads, width), or of packed (tokens, heads, width), as (batch, heads, tokens, width).

    Packed sequences are taken as equally long; where each attends to itself that is the least they cost.
    """
    if starts is not None and q.dim() == 4:
        q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    if q.dim() == 3:
        count = max(1, starts.numel() - 1) if starts is not None else 1
        q, k, v = (t.new_empty((count, max(1, t.shape[0] // count), *t.shape[1:]), device="meta") for t in (q, k, v))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


@rule("_flash_attention_forward")
def flash(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _counted(
        *_packed(args[0], args[1], args[2], args[3]), (1, 1), 1, written_bytes=size_bytes(out[0]) + size_bytes(out[1])
    )


@rule("_efficient_attention_forward")
def efficient(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _counted(
        *_packed(args[0], args[1], args[2], args[4]), (1, 1), 1, written_bytes=size_bytes(out[0]) + size_bytes(out[1])
    )


@rule("_flash_attention_backward")
def flash_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _counted(*_packed(args[1], args[2], args[3], args[6]), (3, 2), 3)


@rule("_efficient_attention_backward")
def efficient_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _counted(*_packed(args[1], args[2], args[3], args[6]), (3, 2), 3)
