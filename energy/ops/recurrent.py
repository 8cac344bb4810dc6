"""Recurrent layers as one fused call, as cuDNN runs them: the products of all gates over all steps, and the element-wise gates.

Source: Appleyard, Kocisky, Blunsom, Optimizing performance of recurrent neural networks on GPUs, 2016, arXiv 1604.01946.
"""

from collections.abc import Sequence
from typing import Any

import torch

from budjoule.energy.ops.rule import Counted, rule, tensors

# Kernels of one step on a processor, forward and backward, where oneDNN has no fused layer: about one for each sum, product and slope.
STEP_LAUNCHES = {0: (4, 8), 1: (4, 8), 3: (14, 30)}
GATES = {0: 1, 1: 1, 2: 4, 3: 3}  # by cuDNN's mode: ReLU, tanh, LSTM, GRU


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
    x, weights, (mode, hidden, _, layers, batch_first), (bidirectional, batch_sizes) = (
        args[0],
        args[1],
        args[6:11],
        args[13:15],
    )
    return _layer(x, weights, mode, hidden, layers * (1 + bidirectional), batch_first, batch_sizes, backward=False)


@rule("_cudnn_rnn_backward")
def cudnn_rnn_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    x, weights, (mode, hidden, _, layers, batch_first), (bidirectional, batch_sizes) = (
        args[0],
        args[1],
        args[10:15],
        args[17:19],
    )
    return _layer(x, weights, mode, hidden, layers * (1 + bidirectional), batch_first, batch_sizes, backward=True)


def _layer(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    mode: int,
    hidden: int,
    passes: int,
    batch_first: bool,
    batch_sizes: Sequence[int],
    *,
    backward: bool,
) -> Counted:
    """``2 rows parameters`` FLOP forward and twice that backward; the input's product is one for all steps, the state's one a step."""
    steps = len(batch_sizes) if batch_sizes else x.shape[1 if batch_first else 0]
    rows = x.shape[0] if batch_sizes else x.shape[0] * x.shape[1]
    gates = GATES[mode] * hidden
    through = passes * rows * gates
    return Counted(
        kind="recurrent_grad" if backward else "recurrent",
        flop=(4 if backward else 2) * rows * sum(w.numel() for w in weights if w.dim() > 1),
        product=(steps, max(1, rows // max(1, steps)), gates, hidden),  # of which some wait for the step before
        elements=2 * through,
        heavy=0 if backward else through,
        launches=passes * (2 * steps + (3 if backward else 1)),
        cpu_launches=passes * steps * STEP_LAUNCHES[mode][backward] if mode in STEP_LAUNCHES else None,
        copied_bytes=2 * through * x.element_size(),
    )


def run_cudnn_rnn_backward(x: torch.Tensor, weights: Sequence[torch.Tensor], *args: Any) -> Any:
    """Its outputs without data; PyTorch has no shape function of its own."""
    hx, cx = args[2], args[3]
    return (
        torch.empty_like(x),
        torch.empty_like(hx),
        None if cx is None else torch.empty_like(cx),
        [torch.empty_like(w) for w in weights],
    )


def run_lstm_cell(gates: torch.Tensor, _: torch.Tensor, cx: torch.Tensor, *biases: Any) -> Any:
    """Outputs of the fused cell without data: hidden state, cell state and the gates kept for the backward pass."""
    return torch.empty_like(cx), torch.empty_like(cx), torch.empty_like(gates)


def run_lstm_cell_backward(
    grad_hy: Any, grad_cy: Any, cx: torch.Tensor, cy: torch.Tensor, workspace: torch.Tensor, has_bias: bool
) -> Any:
    """Gradients of the gates, the cell state and the bias, without data."""
    return (
        torch.empty_like(workspace),
        torch.empty_like(cx),
        workspace.new_empty(workspace.shape[-1:]) if has_bias else None,
    )


def run_gru_cell(gates: torch.Tensor, _: torch.Tensor, hx: torch.Tensor, *biases: Any) -> Any:
    """Outputs of the fused cell without data: hidden state, and five values a unit kept for the backward pass."""
    return torch.empty_like(hx), hx.new_empty((hx.shape[0], 5 * hx.shape[1]))


def run_gru_cell_backward(grad_hy: torch.Tensor, workspace: torch.Tensor, has_bias: bool) -> Any:
    """Gradients of both products, the hidden state and the biases, without data."""
    gates = grad_hy.new_empty((grad_hy.shape[0], 3 * grad_hy.shape[1]))
    bias = [gates.new_empty(gates.shape[-1:]) if has_bias else None for _ in range(2)]
    return gates, torch.empty_like(gates), torch.empty_like(grad_hy), *bias
