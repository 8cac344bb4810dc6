"""Outputs of common ops, made without PyTorch's own shape functions.

Those are written in Python for these ops, and take much of the trace of a small model or of one with batch norm. Each function
here answers for the plain case alone, contiguous floating tensors of shapes that go together, and leaves any other to PyTorch,
which also says what is wrong with it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Outputs = Tensor | tuple[Tensor, ...] | None


def _plain(*inputs: Any) -> bool:
    """All are contiguous floating tensors without data, of one dtype."""
    return all(
        isinstance(x, Tensor) and x.is_meta and x.dtype == inputs[0].dtype and x.is_contiguous() for x in inputs
    ) and bool(inputs[0].is_floating_point())


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _like(*args: Any, **kwargs: Any) -> Outputs:
    """An op whose output is like each of its tensors: all of one shape, with nothing that asks for another dtype."""
    inputs = [x for x in args if isinstance(x, Tensor)]
    x = inputs[0]
    if kwargs.keys() - {"alpha", "approximate"} or any(a is True or isinstance(a, complex) for a in args):
        return None
    if any(isinstance(a, torch.dtype) and a != x.dtype for a in args):
        return None
    return _empty(x, *x.shape) if _plain(*inputs) and all(i.shape == x.shape for i in inputs) else None


def _softmax(x: Tensor, dim: int, *rest: Any) -> Outputs:
    return _like(x, *rest) if -x.dim() <= dim < x.dim() else None


def _softmax_backward(grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Outputs:
    return _like(grad, output, dtype) if -grad.dim() <= dim < grad.dim() else None


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Outputs:
    # the factors may be transposed, as a layer's weight is
    if not (a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]):
        return None
    same = a.is_meta and b.is_meta and a.dtype == b.dtype == bias.dtype
    return _empty(a, a.shape[0], b.shape[1]) if same and _plain(bias) else None


def _layer_norm(x: Tensor, shape: list[int], weight: Any, bias: Any, eps: float) -> Outputs:
    given = [t for t in (weight, bias) if t is not None]
    if x.dtype != torch.float32 or not _plain(x, *given) or any(list(t.shape) != list(shape) for t in given):
        return None
    kept = x.dim() - len(shape)
    if list(x.shape[kept:]) != list(shape) or kept < 0 or not shape:
        return None
    statistics = (*x.shape[:kept], *[1] * len(shape))
    return _empty(x, *x.shape), _empty(x, *statistics), _empty(x, *statistics)


def _layer_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], mean: Tensor, rstd: Tensor, weight: Any, bias: Any, mask: list[bool]
) -> Outputs:
    if x.dtype != torch.float32 or not all(mask) or not _plain(grad, x, mean, rstd, weight, bias):
        return None
    return _empty(x, *x.shape), _empty(x, *weight.shape), _empty(x, *weight.shape)


def _batch_norm(x: Tensor, *rest: Any) -> Outputs:
    *given, training, _momentum, _eps = rest
    given = [t for t in given if t is not None]
    if not training or x.dtype != torch.float32 or x.dim() < 2 or not _plain(x, *given):
        return None
    if any(t.shape != x.shape[1:2] for t in given):
        return None
    return _empty(x, *x.shape), _empty(x, x.shape[1]), _empty(x, x.shape[1])


def _batch_norm_backward(grad: Tensor, x: Tensor, weight: Any, *rest: Any) -> Outputs:
    *_, training, _eps, mask = rest
    if not training or x.dtype != torch.float32 or x.dim() < 2 or not all(mask) or not _plain(grad, x, weight):
        return None
    return _empty(x, *x.shape), _empty(x, x.shape[1]), _empty(x, x.shape[1])


def _nll_loss(x: Tensor, target: Tensor, weight: Any, reduction: int, ignored: int) -> Outputs:
    if weight is not None or reduction not in (1, 2) or not _plain(x) or target.shape != x.shape[:-1] or x.dim() != 2:
        return None
    return _empty(x), _empty(x)


def _nll_loss_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Any, reduction: int, ignored: int, total: Tensor
) -> Outputs:
    return _empty(x, *x.shape) if _nll_loss(x, target, weight, reduction, ignored) and grad.dim() == 0 else None


KNOWN: dict[str, Callable[..., Outputs]] = {
    **dict.fromkeys(("relu.default", "gelu.default", "pow.Tensor_Scalar", "mul.Scalar", "div.Scalar"), _like),
    **dict.fromkeys(("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor"), _like),
    **dict.fromkeys(("threshold_backward.default", "gelu_backward.default"), _like),
    **dict.fromkeys(("tanh_backward.default", "sigmoid_backward.default"), _like),
    **dict.fromkeys(("_log_softmax.default", "_softmax.default"), _softmax),
    **dict.fromkeys(("_log_softmax_backward_data.default", "_softmax_backward_data.default"), _softmax_backward),
    "addmm.default": _addmm,
    "native_layer_norm.default": _layer_norm,
    "native_layer_norm_backward.default": _layer_norm_backward,
    "native_batch_norm.default": _batch_norm,
    "native_batch_norm_backward.default": _batch_norm_backward,
    "nll_loss_forward.default": _nll_loss,
    "nll_loss_backward.default": _nll_loss_backward,
}


def shaped(func: Callable[..., Any], known: Callable[..., Outputs]) -> Callable[..., Any]:
    """The op with its plain case made by `known`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        made = known(*args, **kwargs)
        return func(*args, **kwargs) if made is None else made

    return run
