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
