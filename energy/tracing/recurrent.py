"""Recurrent layers and cells as the fused calls that CUDA makes of them: on data-less tensors PyTorch would run every gate of every step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

MODES: dict[Any, int] = {torch.rnn_relu: 0, torch.rnn_tanh: 1, torch.lstm: 2, torch.gru: 3}  # cuDNN's numbers
CELLS = {torch.lstm_cell, torch.gru_cell}
PACK = torch._C._VariableFunctions._pack_padded_sequence
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def layer(func: Callable[..., Any], *args: Any) -> Any:
    """`torch.lstm` and its like as one cuDNN call; anything else but data-less tensors runs as it is."""
    data = args[0]
    packed = not isinstance(args[3], bool)
    if not data.is_meta or data.dtype not in DTYPES or (packed and args[1].is_meta):
        return func(*args)
    if packed:
        _, sizes, state, weights, _has_biases, layers, dropout, train, bidirectional = args
        batch_sizes, batch_first = sizes.tolist(), False
    else:
        _, state, weights, _has_biases, layers, dropout, train, bidirectional, batch_first = args
        batch_sizes = []
    mode = MODES[func]
    hx, cx = state if mode == 2 else (state, None)
    hidden = (cx if cx is not None else hx).shape[-1]
    projected = hx.shape[-1] if hx.shape[-1] != hidden else 0
    stride = len(weights) // (layers * (1 + bidirectional))
    buffer = torch.empty(0, dtype=data.dtype, device="meta")  # where cuDNN wants the weights in one piece
    y, hy, cy, *_ = torch.ops.aten._cudnn_rnn(
        data, weights, stride, buffer, hx, cx, mode, hidden, projected, layers, batch_first, dropout, train, bidirectional, batch_sizes, None
    )  # fmt: skip
    return (y, hy, cy) if mode == 2 else (y, hy)


def cell(
    func: Callable[..., Any],
    x: torch.Tensor,
    state: torch.Tensor | Sequence[torch.Tensor],
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> Any:
    """`torch.lstm_cell` and `torch.gru_cell` as two products and one fused kernel."""
    if not x.is_meta or x.dtype not in DTYPES:
        return func(x, state, w_ih, w_hh, b_ih, b_hh)
    hx = state if isinstance(state, torch.Tensor) else state[0]
    gates, more = F.linear(x, w_ih), F.linear(hx, w_hh)
    if isinstance(state, torch.Tensor):
        return torch.ops.aten._thnn_fused_gru_cell(gates, more, state, b_ih, b_hh)[0]
    return torch.ops.aten._thnn_fused_lstm_cell(gates, more, state[1], b_ih, b_hh)[:2]


def pack(func: Callable[..., Any], x: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> Any:
    """`pack_padded_sequence` where lengths are known: the steps that are no padding, gathered step by step."""
    if not x.is_meta or lengths.is_meta:
        return func(x, lengths, batch_first)
    steps = torch.arange(int(lengths.max()))[:, None] < lengths[None, :]
    step, row = steps.nonzero().unbind(1)
    places = row * x.shape[1] + step if batch_first else step * x.shape[1] + row
    return x.flatten(0, 1).index_select(0, places), steps.sum(1)
