"""Outputs made without PyTorch's shape functions are what those give, and what they refuse is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from budjoule.energy.ops.shapes import KNOWN, shaped

F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64


def t(*shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def last(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta", memory_format=torch.channels_last)


LABELS = torch.empty(6, dtype=torch.int64, device="meta")
X, C, ALL = t(2, 6, 4, 4), t(6), [True, True, True]
PLAIN: dict[str, tuple[Any, ...]] = {
    "relu.default": (X,),
    "gelu.default": (t(3, 5, dtype=BF16),),
    "pow.Tensor_Scalar": (t(3, 5), 2),
    "mul.Scalar": (t(3), 2.0),
    "div.Scalar": (t(3, 1), 3),
    "add.Tensor": (t(4, 5), t(4, 5)),
    "sub.Tensor": (t(), t()),
    "mul.Tensor": (t(4, 5, dtype=F64), t(4, 5, dtype=F64)),
    "div.Tensor": (t(0, 5), t(0, 5)),
    "threshold_backward.default": (X, X, 0),
    "gelu_backward.default": (t(3, 5), t(3, 5)),
    "tanh_backward.default": (t(3, 5, dtype=BF16), t(3, 5, dtype=BF16)),
    "sigmoid_backward.default": (t(3, 5), t(3, 5)),
    "_log_softmax.default": (t(6, 10), 1, False),
    "_softmax.default": (t(2, 3, 4), -1, False),
    "_log_softmax_backward_data.default": (t(6, 10), t(6, 10), 1, F32),
    "_softmax_backward_data.default": (t(6, 10, dtype=BF16), t(6, 10, dtype=BF16), -1, BF16),
    "addmm.default": (t(5), t(3, 4), t(5, 4).t()),
    "native_layer_norm.default": (t(2, 3, 4), [3, 4], t(3, 4), t(3, 4), 1e-5),
    "native_layer_norm_backward.default": (t(2, 4), t(2, 4), [4], t(2, 1), t(2, 1), t(4), t(4), ALL),
    "native_batch_norm.default": (X, C, C, C, C, True, 0.1, 1e-5),
    "native_batch_norm_backward.default": (X, X, C, C, C, C, C, True, 1e-5, ALL),
    "nll_loss_forward.default": (t(6, 10), LABELS, None, 1, -100),
    "nll_loss_backward.default": (t(), t(6, 10), LABELS, None, 1, -100, t()),
}
# Calls that are no plain case, or wrong.
OTHER: list[tuple[str, tuple[Any, ...]]] = [
    ("relu.default", (last(2, 6, 4, 4),)),
    ("relu.default", (t(3, 5).t(),)),
    ("relu.default", (torch.empty(3, dtype=torch.int64, device="meta"),)),
    ("pow.Tensor_Scalar", (torch.empty(3, dtype=torch.int64, device="meta"), 2.0)),
    ("mul.Tensor", (t(4, 5), t(5))),
    ("mul.Tensor", (t(4, 5), t(4, 5, dtype=BF16))),
    ("mul.Tensor", (t(4, 5), t(5, 4).t())),
    ("mul.Tensor", (t(4, 5), 2j)),
    ("add.Tensor", (t(4, 5), t(3, 5))),
    ("div.Scalar", (torch.empty(3, dtype=torch.int64, device="meta"), 3)),
    ("threshold_backward.default", (X, last(2, 6, 4, 4), 0)),
    ("_log_softmax.default", (t(6, 10), 5, False)),
    ("_log_softmax_backward_data.default", (t(6, 10), t(6, 10), 1, BF16)),
    ("_softmax_backward_data.default", (t(6, 10), t(6, 10), 7, F32)),
    ("addmm.default", (t(3, 5), t(3, 4), t(4, 5))),
    ("addmm.default", (t(5), t(3, 4), t(3, 5))),
    ("addmm.default", (t(1), t(3, 4), t(4, 5))),
    ("addmm.default", (t(5), t(3, 4), t(4, 5, dtype=BF16))),
    ("native_layer_norm.default", (t(2, 4, dtype=BF16), [4], t(4, dtype=BF16), None, 1e-5)),
    ("native_layer_norm.default", (t(2, 4), [4], None, None, 1e-5)),
    ("native_layer_norm.default", (t(2, 4), [3], t(3), t(3), 1e-5)),
    ("native_layer_norm_backward.default", (t(2, 4), t(2, 4), [4], t(2, 1), t(2, 1), t(4), t(4), [True, False, False])),
    ("native_layer_norm_backward.default", (t(2, 4), t(2, 4), [4], t(2, 1), t(2, 1), None, None, [True, False, False])),
    ("native_batch_norm.default", (X, C, C, C, C, False, 0.1, 1e-5)),
    ("native_batch_norm.default", (X, None, None, None, None, True, 0.1, 1e-5)),
    ("native_batch_norm.default", (last(2, 6, 4, 4), C, C, C, C, True, 0.1, 1e-5)),
    ("native_batch_norm_backward.default", (X, X, C, C, C, C, C, True, 1e-5, [False, True, True])),
    ("native_batch_norm_backward.default", (X, X, None, C, C, C, C, True, 1e-5, [True, False, False])),
    ("nll_loss_forward.default", (t(6, 10), LABELS, None, 0, -100)),
    ("nll_loss_forward.default", (t(6, 10), LABELS[:4], None, 1, -100)),
    ("nll_loss_forward.default", (t(6, 10), LABELS, t(10), 1, -100)),
]


def overload(name: str) -> Callable[..., Any]:
    base, kind = name.split(".")
    return getattr(getattr(torch.ops.aten, base), kind)  # type: ignore[no-any-return]


def outcome(run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Shapes, strides and dtypes, or what is said against the call."""
    try:
        made = run(*args)
    except (RuntimeError, IndexError) as error:
        return type(error), str(error)
    parts = made if isinstance(made, (tuple, list)) else (made,)
    return [None if p is None else (p.shape, p.stride(), p.dtype, p.device.type) for p in parts]


@pytest.mark.parametrize("name", KNOWN)
def test_the_plain_case_is_answered_as_pytorch_answers_it(name: str) -> None:
    assert KNOWN[name](*PLAIN[name]) is not None
    assert outcome(KNOWN[name], PLAIN[name]) == outcome(overload(name), PLAIN[name])


@pytest.mark.parametrize(("name", "args"), OTHER)
def test_any_other_call_is_pytorchs(name: str, args: tuple[Any, ...]) -> None:
    func = overload(name)
    assert outcome(shaped(func, KNOWN[name]), args) == outcome(func, args)
