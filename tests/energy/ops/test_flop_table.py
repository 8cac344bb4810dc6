"""Every aten op that PyTorch's FLOP counter knows, against our rule for it, on meta tensors."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import flop_registry

from budjoule.energy.ops import RULES
from budjoule.energy.ops.rule import Counted

Call = tuple[tuple[Any, ...], Any]  # arguments, output


def t(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def half(*shape: int) -> torch.Tensor:
    return t(*shape, dtype=torch.bfloat16)


def conv(
    x: torch.Tensor, w: torch.Tensor, stride: int = 1, dilation: int = 1, transposed: bool = False, groups: int = 1
) -> tuple[Any, ...]:
    n = w.dim() - 2
    return (x, w, None, [stride] * n, [1] * n, [dilation] * n, transposed, [0] * n, groups)


CONVOLUTIONS = {
    "plain": conv(t(2, 8, 16, 16), t(12, 8, 3, 3)),
    "strided": conv(t(2, 8, 17, 16), t(12, 8, 3, 5), stride=2),
    "dilated": conv(t(2, 8, 16, 16), t(12, 8, 3, 3), dilation=2),
    "grouped": conv(t(2, 8, 16, 16), t(12, 2, 3, 3), groups=4),
    "depthwise": conv(t(2, 8, 16, 16), t(8, 1, 3, 3), groups=8),
    "transposed": conv(t(2, 8, 16, 16), t(8, 6, 3, 3), stride=2, transposed=True),
    "one-dimensional": conv(t(2, 8, 100), t(12, 8, 7)),
    "three-dimensional": conv(t(2, 4, 8, 8, 8), t(6, 4, 3, 3, 3)),
}
HEADS = {"equal": (64, 64, 32), "cross": (16, 80, 32), "tall": (128, 32, 64)}  # rows, columns, width


def attention(name: str, rows: int, columns: int, width: int) -> tuple[Call, Call]:
    """Forward and backward calls of a scaled_dot_product op."""
    q, k, v = half(2, 4, rows, width), half(2, 4, columns, width), half(2, 4, columns, width)
    out, log = half(2, 4, rows, width), t(2, 4, rows)
    grad = half(2, 4, rows, width)
    forward = (q, k, v, None, True) if "efficient" in name or "cudnn" in name else (q, k, v)
    backward: dict[str, tuple[Any, ...]] = {
        "efficient": (grad, q, k, v, None, out, log, t(), t(), 0.0, [True] * 4),
        "flash": (grad, q, k, v, out, log, t(3), t(3), rows, columns, 0.0, False, t(), t()),
        "cudnn": (grad, q, k, v, out, log, t(), t(), None, t(3), t(3), rows, columns, 0.0, False),
    }
    return (forward, (out, log)), (next(a for key, a in backward.items() if key in name), (q, k, v))


def cases() -> list[tuple[str, str, Call]]:
    found: list[tuple[str, str, Call]] = [
        ("mm", "", ((t(5, 7), t(7, 3)), t(5, 3))),
        ("addmm", "", ((t(3), t(5, 7), t(7, 3)), t(5, 3))),
        ("bmm", "", ((t(2, 5, 7), t(2, 7, 3)), t(2, 5, 3))),
        ("baddbmm", "", ((t(2, 5, 3), t(2, 5, 7), t(2, 7, 3)), t(2, 5, 3))),
        ("_scaled_mm", "", ((t(16, 32), t(32, 48), t(), t()), t(16, 48))),
    ]
    for what, args in CONVOLUTIONS.items():
        out = torch.ops.aten.convolution(*args)
        found += [(name, what, (args, out)) for name in ("convolution", "convolution_overrideable")]
        found.append(("_convolution", what, ((*args, False, False, True, True), out)))
    x, w = t(2, 8, 16, 16), t(12, 8, 3, 3)
    found.append(("cudnn_convolution", "", ((x, w, [1, 1], [1, 1], [1, 1], 1, False, False, True), t(2, 12, 16, 16))))
    for what, sizes in HEADS.items():
        for kind in ("efficient", "flash", "cudnn"):
            name = f"_scaled_dot_product_{kind}_attention"
            forward, backward = attention(name, *sizes)
            found += [(name, what, forward), (f"{name}_backward", what, backward)]
    return found


def ours(name: str, call: Call) -> Counted:
    args, out = call
    return RULES[name](args, {}, out)


def theirs(name: str, call: Call) -> int:
    args, out = call
    return int(flop_registry[getattr(torch.ops.aten, name)](*args, out_val=out))


@pytest.mark.parametrize(("name", "what", "call"), cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_rule_counts_the_flop_of_pytorchs_counter(name: str, what: str, call: Call) -> None:
    assert ours(name, call).flop == theirs(name, call) > 0


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False), (False, True, True)])
@pytest.mark.parametrize("what", CONVOLUTIONS)
def test_each_gradient_of_a_convolution_costs_its_forward(what: str, wanted: tuple[bool, ...]) -> None:
    x, w, _, *rest = CONVOLUTIONS[what]
    out = torch.ops.aten.convolution(x, w, None, *rest)
    args = (out, x, w, [w.shape[0]], *rest, list(wanted))
    made = tuple(g if want else None for g, want in zip((x, w, t(w.shape[0])), wanted, strict=True))
    forward = ours("convolution", ((x, w, None, *rest), out)).flop
    flop = ours("convolution_backward", (args, made)).flop
    assert flop == forward * sum(wanted[:2])
    # PyTorch leaves groups out of the weight gradient (pytorch/pytorch, torch/utils/flop_counter.py, conv_backward_flop)
    if rest[-1] == 1:
        assert flop == theirs("convolution_backward", (args, made))


@pytest.mark.parametrize("kind", ["flash", "efficient"])
def test_attention_kernels_take_tokens_before_heads(kind: str) -> None:
    """The kernels' tensors are (batch, tokens, heads, width); PyTorch's counter reads them as (batch, heads, tokens, width)."""
    batch, tokens, heads, width = 2, 64, 4, 32
    q = half(batch, tokens, heads, width)
    log = t(batch, heads, tokens)
    bias: tuple[Any, ...] = (None,) if kind == "efficient" else ()
    args = (q, q, q, *bias, None, None, tokens, tokens, 0.0, False, False)
    expected = 2 * 2 * batch * heads * tokens * tokens * width
    assert ours(f"_{kind}_attention_forward", (args, (q, log))).flop == expected
    rest = (
        (q, q, q, *bias, q, log, None, None) if kind == "flash" else (q, q, q, None, q, None, None, tokens, tokens, log)
    )
    assert ours(f"_{kind}_attention_backward", ((q, *rest), (q, q, q))).flop == expected * 5 // 2
    flat = q.flatten(0, 1)
    starts = torch.arange(0, batch * tokens + 1, tokens)
    packed = (flat, flat, flat, *bias, starts, starts, tokens, tokens, 0.0, False, False)
    assert ours(f"_{kind}_attention_forward", (packed, (flat, log))).flop == expected


def test_slow_convolution_costs_what_the_plain_one_does() -> None:
    """PyTorch's row for it takes other arguments than the op has, so it cannot be asked."""
    x, w, out = t(2, 8, 16, 16), t(12, 8, 3, 3), t(2, 12, 16, 16)
    slow = ours("_slow_conv2d_forward", ((x, w, [3, 3], None, [1, 1], [1, 1]), out))
    assert slow.flop == theirs("convolution", (conv(x, w), out))


def test_every_row_of_pytorchs_counter_has_a_rule() -> None:
    names = {str(op) for op in flop_registry}
    aten = {name.removeprefix("aten.") for name in names if name.startswith("aten.")}
    assert aten <= set(RULES)
    # no aten ops: a trace runs them as one (tests/energy/tracing/test_trace_flex.py)
    assert {n for n in names if not n.startswith("aten.")} == {"flex_attention", "flex_attention_backward"}
    apart = {
        "convolution_backward",
        "_slow_conv2d_forward",
        *(n for n in aten if n.startswith(("_flash_", "_efficient_"))),
    }
    assert aten - apart == {name for name, _, _ in cases()}


@pytest.mark.parametrize("build", [lambda: (t(8, 4), t(6, 4), None), lambda: (t(3, 8, 4), t(6, 4), t(6))])
def test_linear_counts_the_product_of_its_weights(build: Callable[[], tuple[Any, ...]]) -> None:
    args = build()
    out = t(*args[0].shape[:-1], 6)
    assert ours("linear", (args, out)).flop == 2 * prod(args[0].shape) * 6
