"""Factorisations and solvers of small dense matrices: cubic FLOP on the lanes, and launches that batched kernels need.

Source: Golub and Van Loan, Matrix Computations, 4th ed., tables of flop counts.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from budjoule.energy.ops.rule import Counted, first, rule, tensors


def _cubic(x: Any, factor: float, launches: int) -> Counted:
    batch, (m, n) = prod(x.shape[:-2]), x.shape[-2:]
    return Counted(kind="reduction", elements=int(factor * batch * m * n * min(m, n)), launches=launches)


@rule(
    "linalg_cholesky_ex", "linalg_lu_factor_ex", "linalg_lu", "linalg_ldl_factor_ex", "_linalg_det", "_linalg_slogdet"
)
def factor(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _cubic(args[0], 2 / 3, 4)


@rule("linalg_inv_ex", "linalg_qr", "linalg_householder_product", "cholesky_inverse", "geqrf", "linalg_matrix_exp")
def inverse(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _cubic(args[0], 2, 8)


@rule("_linalg_svd", "_linalg_eigh", "linalg_eig", "_linalg_eigvals", "linalg_lstsq", "linalg_pinv")
def decomposition(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return _cubic(args[0], 12, 32)


@rule(
    "linalg_solve_triangular",
    "triangular_solve",
    "cholesky_solve",
    "_linalg_solve_ex",
    "linalg_lu_solve",
    "linalg_ldl_solve",
)
def solve(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    side = max(min(t.shape[-2:]) for t in tensors(list(args)) if t.dim() > 1)
    return Counted(kind="reduction", elements=2 * side * first(out).numel(), launches=2)
