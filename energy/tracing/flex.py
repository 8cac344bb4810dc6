"""FlexAttention as one fused kernel over the blocks that its mask keeps; PyTorch refuses it on data-less tensors.

Source: Dong et al., Flex Attention: a programming model for generating optimized attention kernels, 2024, arXiv 2412.05496.
"""

from typing import Any

import torch

NO_SCORES = "flex_attention: what score_mod computes in the kernel was left out"
DENSE = "flex_attention: a block mask made from data was taken as keeping every block; make it before the step to count its own"


def columns_kept(block_mask: Any, columns: int) -> tuple[int, bool]:
    """How many columns a row attends to on average, in whole blocks, and whether the mask was known."""
    if block_mask is None:
        return columns, True
    counts = [n for n in (block_mask.kv_num_blocks, block_mask.full_kv_num_blocks) if n is not None]
    if any(n.is_meta for n in counts):
        return columns, False
    blocks = sum(n.float().mean().item() for n in counts)
    return max(1, min(columns, round(blocks * block_mask.BLOCK_SIZE[1]))), True


class _Fused(torch.autograd.Function):
    """The memory-efficient kernel over the first columns only; the others' gradients are zero and written with theirs."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, columns: int) -> Any:
        kept = (k.narrow(-2, 0, columns), v.narrow(-2, 0, columns))
        out, log, seed, offset = torch.ops.aten._scaled_dot_product_efficient_attention(q, *kept, None, True)
        ctx.save_for_backward(q, k, v, out, log, seed, offset)
        ctx.columns = columns
        ctx.mark_non_differentiable(log)
        return out, log

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, out, log, seed, offset = ctx.saved_tensors
        kept = (k.narrow(-2, 0, ctx.columns), v.narrow(-2, 0, ctx.columns))
        made = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            grads[0], q, *kept, None, out, log, seed, offset, 0.0, [True, True, True, False]
        )
        return made[0], torch.empty_like(k), torch.empty_like(v), None


def ask_modes(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
) -> Any:
    """The code of `torch.nn.attention.flex_attention.flex_attention` while a trace runs: like other functions, it asks the function mode."""
    from torch.nn.attention.flex_attention import flex_attention
    from torch.overrides import handle_torch_function

    return handle_torch_function(
        flex_attention, (query,), query, key, value, score_mod, block_mask, return_lse=return_lse, return_aux=return_aux
    )


def attention(
    notes: dict[str, None],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Any,
    block_mask: Any,
    *,
    return_lse: bool,
    return_aux: Any,
) -> Any:
    """FlexAttention as its fused kernel; `notes` hears what was assumed."""
    if score_mod is not None:
        notes[NO_SCORES] = None
    columns, known = columns_kept(block_mask, key.shape[-2])
    if not known:
        notes[DENSE] = None
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2) for t in (key, value))
    out, log = _Fused.apply(query, key, value, columns)  # type: ignore[no-untyped-call]
    if return_aux is not None:
        from torch.nn.attention.flex_attention import AuxOutput

        return out, AuxOutput(lse=log if return_aux.lse else None, max_scores=log if return_aux.max_scores else None)
    return (out, log) if return_lse else out
