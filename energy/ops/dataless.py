"""Ops whose outputs hang on values that are not there: what is assumed for them, each with the note that says so.

A router's choice is taken as balanced and kept real, so that the experts it feeds get their share of the tokens; a mask
that was computed from activations selects everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from budjoule.energy.ops import recurrent

REAL_NUMEL = 1 << 18  # larger tensors are never kept real
BALANCED = "choices by value (topk, argmax, sort) were taken as evenly spread"
EXCEPTION = "a test of activations was taken to find nothing unusual: any() as false, all() as true"
ALL_TRUE = "a mask or a count that depends on the data was taken as all true, or as ones"


@dataclass(frozen=True, slots=True)
class Assumed:
    """How an op runs without data, and the note that it leaves."""

    run: Callable[..., Any]
    note: str | None


def _indices(shape: tuple[int, ...], size: int, dim: int) -> torch.Tensor:
    """Positions below `size` along `dim`, each used equally often over the other dimensions."""
    if prod(shape) > REAL_NUMEL:
        return torch.empty(shape, dtype=torch.int64, device="meta")
    if not shape:
        return torch.zeros((), dtype=torch.int64)
    moved = [n for i, n in enumerate(shape) if i != dim % len(shape)]
    along = shape[dim % len(shape)]
    spread = torch.arange(prod(moved) * along).view(*moved, along) % max(1, size)
    return spread.movedim(-1, dim).contiguous()


def _values(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _topk(x: torch.Tensor, k: int, dim: int = -1, *rest: Any, **more: Any) -> Any:
    shape = list(x.shape)
    if shape:
        if k > shape[dim]:
            raise RuntimeError(f"topk: k = {k} is more than the {shape[dim]} elements of dimension {dim}")
        shape[dim] = k
    made = tuple(shape)
    return _values(x, made), _indices(made, x.shape[dim] if shape else 1, dim)


def _sort(x: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    size = x.shape[dim] if x.dim() else 1
    if x.numel() > REAL_NUMEL or not x.dim():
        return _values(x, tuple(x.shape)), _indices(tuple(x.shape), size, dim)
    shape = [1] * x.dim()
    shape[dim] = size
    return _values(x, tuple(x.shape)), torch.arange(size).view(shape).expand(x.shape).contiguous()


def _sort_stable(x: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    return _sort(x, dim, descending)


def _argmax(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    if dim is None or not x.dim():
        return torch.zeros([1] * x.dim() if keepdim else [], dtype=torch.int64)
    kept = list(x.shape)
    kept[dim] = 1
    made = _indices(tuple(kept), x.shape[dim], dim)
    return made if keepdim else made.squeeze(dim)


def _max_dim(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
    made = _argmax(x, dim, keepdim)
    return _values(x, tuple(made.shape)), made


def _nonzero(x: torch.Tensor) -> torch.Tensor:
    if x.numel() * x.dim() > REAL_NUMEL:
        return torch.empty((x.numel(), x.dim()), dtype=torch.int64, device="meta")
    return torch.ones(x.shape, dtype=torch.bool).nonzero()


def _masked_select(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _values(x, (prod(torch.broadcast_shapes(x.shape, mask.shape)),))


def selected(indices: list[torch.Tensor | None]) -> tuple[list[torch.Tensor | None], bool]:
    """Positions that boolean indices select, and whether all were known: a mask without data selects everything."""
    positions: list[torch.Tensor | None] = []
    known = True
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            positions.append(index)
        elif index.is_meta:
            known = False
            positions += [torch.empty((index.numel(),), dtype=torch.int64, device="meta")] * index.dim()
        else:
            positions += index.nonzero().unbind(1)
    return positions, known


def _repeat_interleave(repeats: torch.Tensor, output_size: int | None = None) -> torch.Tensor:
    size = repeats.numel() if output_size is None else output_size
    if size > REAL_NUMEL or not repeats.numel():
        return torch.empty((size,), dtype=torch.int64, device="meta")
    return torch.arange(size) % repeats.numel()


def _unique(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    count = x.numel()
    values = torch.empty((count,), dtype=x.dtype, device="meta")
    inverse = torch.empty(x.shape, dtype=torch.int64, device="meta")
    return values, inverse, torch.empty((count,), dtype=torch.int64, device="meta")


def _bincount(x: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    return torch.empty((max(1, minlength),), dtype=torch.int64 if weights is None else weights.dtype, device="meta")


def _grouped_mm(
    a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, bias: Any = None, out_dtype: Any = None
) -> torch.Tensor:
    """PyTorch's own shape function takes bf16 only; CUDA takes fp32 and fp16 too (by one product a group)."""
    if a.dim() == 2 and b.dim() == 2:
        shape: tuple[int, ...] = (offs.shape[0] if offs is not None else 1, a.shape[0], b.shape[1])
    elif a.dim() == 2 or b.dim() == 2:
        shape = (a.shape[-2], b.shape[-1])
    else:
        shape = (a.shape[0], a.shape[1], b.shape[2])
    return torch.empty(shape, dtype=out_dtype or a.dtype, device="meta")


def _any(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=torch.bool)


def _all(x: torch.Tensor) -> torch.Tensor:
    return torch.ones((), dtype=torch.bool)


def _ctc_loss(x: torch.Tensor, targets: torch.Tensor, *rest: Any, **more: Any) -> Any:
    states = 2 * (targets.shape[-1] if targets.dim() > 1 else targets.shape[0] // x.shape[1]) + 1
    return x.new_empty((x.shape[1],)), x.new_empty((x.shape[1], x.shape[0], states))


def _ctc_loss_backward(grad: torch.Tensor, x: torch.Tensor, *rest: Any, **more: Any) -> Any:
    return torch.empty_like(x)


ASSUMED: dict[str, Assumed] = {
    "_ctc_loss.default": Assumed(_ctc_loss, None),
    "_ctc_loss.Tensor": Assumed(_ctc_loss, None),
    "_ctc_loss_backward.default": Assumed(_ctc_loss_backward, None),
    "_ctc_loss_backward.Tensor": Assumed(_ctc_loss_backward, None),
    "topk.default": Assumed(_topk, BALANCED),
    "sort.default": Assumed(_sort, BALANCED),
    "sort.stable": Assumed(_sort_stable, BALANCED),
    "argmax.default": Assumed(_argmax, BALANCED),
    "argmin.default": Assumed(_argmax, BALANCED),
    "max.dim": Assumed(_max_dim, None),
    "min.dim": Assumed(_max_dim, None),
    "any.default": Assumed(_any, EXCEPTION),
    "all.default": Assumed(_all, EXCEPTION),
    "nonzero.default": Assumed(_nonzero, ALL_TRUE),
    "masked_select.default": Assumed(_masked_select, ALL_TRUE),
    "repeat_interleave.Tensor": Assumed(_repeat_interleave, ALL_TRUE),
    "_unique2.default": Assumed(_unique, ALL_TRUE),
    "bincount.default": Assumed(_bincount, None),
    "_grouped_mm.default": Assumed(_grouped_mm, None),
    "_cudnn_rnn_backward.default": Assumed(recurrent.run_cudnn_rnn_backward, None),
    "_thnn_fused_lstm_cell.default": Assumed(recurrent.run_lstm_cell, None),
    "_thnn_fused_lstm_cell_backward_impl.default": Assumed(recurrent.run_lstm_cell_backward, None),
    "_thnn_fused_gru_cell.default": Assumed(recurrent.run_gru_cell, None),
    "_thnn_fused_gru_cell_backward.default": Assumed(recurrent.run_gru_cell_backward, None),
}


def _histc(x: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """CUDA counts integers too, the CPU only floats."""
    return torch.histc(x.double(), bins, min, max).to(x.dtype)


# Ops on real values that CUDA runs and the CPU does not.
ON_CPU: dict[str, Callable[..., Any]] = {"histc.default": _histc}
