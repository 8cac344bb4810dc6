"""Matrix products: ``2 B M N K`` FLOP."""

from collections.abc import Sequence
from math import prod
from typing import Any

from budjoule.energy.ops.rule import Counted, first, rule


def product(batch: int, m: int, n: int, k: int, **rest: Any) -> Counted:
    """A batch of products of (m, k) and (k, n) matrices."""
    kind = "matmul" if batch == 1 else "batched_matmul"
    return Counted(kind=kind, flop=2 * batch * m * n * k, product=(batch, m, n, k), **rest)


@rule("mm", "_int_mm", "_scaled_mm")
def mm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    (m, k), n = args[0].shape, args[1].shape[-1]
    return product(1, m, n, k)


@rule("addmm", "_addmm_activation")
def addmm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    (m, k), n = args[1].shape, args[2].shape[-1]
    return product(1, m, n, k)


@rule("bmm")
def bmm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    batch, m, k = args[0].shape
    return product(batch, m, args[1].shape[-1], k)


@rule("baddbmm", "addbmm")
def baddbmm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    batch, m, k = args[1].shape
    return product(batch, m, args[2].shape[-1], k)


@rule("mv")
def mv(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    m, k = args[0].shape
    return product(1, m, 1, k)


@rule("addmv")
def addmv(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    m, k = args[1].shape
    return product(1, m, 1, k)


@rule("dot", "vdot", "linalg_vecdot")
def dot(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=2 * args[0].numel())


@rule("addr", "ger")
def outer(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="elementwise", elements=first(out).numel())


@rule("linear")
def linear(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    n, k = args[1].shape
    return product(1, prod(args[0].shape[:-1]), n, k)


@rule("linear_backward")
def linear_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    n, k = args[2].shape
    m = prod(args[0].shape[:-1])
    return Counted(kind="matmul", flop=4 * m * n * k, product=(2, m, n, k), launches=3)


@rule("_trilinear")
def trilinear(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    b, i, o = args[0].numel(), args[1].shape[-1], args[2].shape[-1]
    return product(1, b, o, i)


@rule("_grouped_mm")
def grouped_mm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    a, b = args[0], args[1]
    groups = b.shape[0] if b.dim() == 3 else a.shape[0]
    m = a.shape[-2] if a.dim() == 3 else max(1, a.shape[0] // groups)
    return Counted(
        kind="batched_matmul", flop=2 * a.numel() * b.shape[-1], product=(groups, m, b.shape[-1], a.shape[-1])
    )


@rule("_euclidean_dist")
def distances(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    """``|a|^2 - 2 a b + |b|^2`` as one product, the squares as two more columns."""
    *batch, m, n = out.shape
    return product(prod(batch), m, n, args[0].shape[-1] + 2, heavy=out.numel(), elements=2 * out.numel(), launches=6)
