"""Recurrent layers as one fused call: the products of all gates over all steps, and the element-wise gates."""

from collections.abc import Sequence
from typing import Any

from budjoule.energy.ops.rule import Counted, rule, size_bytes, tensors


@rule("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell")
def fused_cell(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    elements = args[0].numel()
    return Counted(kind="elementwise", elements=elements, heavy=elements)


@rule("_thnn_fused_lstm_cell_backward_impl", "_thnn_fused_gru_cell_backward")
def fused_cell_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    elements = 2 * sum(t.numel() for t in tensors(out))
    return Counted(kind="elementwise", elements=elements)


@rule("_cudnn_rnn")
def cudnn_rnn(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    x, weights = args[0], args[1]
    rows = x.shape[0] * x.shape[1]
    parameters = sum(w.numel() for w in weights if w.dim() > 1)
    steps = x.shape[0]
    return Counted(
        kind="matmul",
        flop=2 * rows * parameters,
        product=(1, x.shape[1], parameters // max(1, x.shape[-1]), x.shape[-1]),
        elements=4 * out[0].numel(),
        heavy=2 * out[0].numel(),
        launches=2 * steps,
        read_bytes=size_bytes(x) + size_bytes(weights),
    )
