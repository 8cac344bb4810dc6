"""How weighed updates become one: the mean, or a row that a minority of bad clients cannot pull far.

For the latter the server takes one update of each client into a version: a quick client could else be the majority of a buffer.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import UsageError
from budjoule.training.compression.update import Vector

Weights = NDArray[np.float64]
Combine = Callable[[Sequence[Vector], Weights], Vector]


def mean(deltas: Sequence[Vector], shares: Weights) -> Vector:
    """``sum_i s_i d_i / sum_i s_i``, summed in double precision in the order given. Shape (n,)."""
    total = np.zeros(deltas[0].shape, np.float64)
    for delta, share in zip(deltas, shares, strict=True):
        total += share * delta.astype(np.float64)
    result: Vector = (total / shares.sum()).astype(np.float32)
    return result


def median(deltas: Sequence[Vector], _shares: Weights) -> Vector:
    """The middle value of each coordinate; weights do not count. Shape (n,).

    Of sparse updates most coordinates are zero in most clients, and so is the median: send dense updates with it.

    Source: Yin et al., Byzantine-robust distributed learning, ICML 2018, arXiv:1803.01498.
    """
    return np.median(np.stack(deltas), axis=0).astype(np.float32)


def trimmed_mean(cut_frac: float) -> Combine:
    """The mean of each coordinate without its highest and lowest values; weights do not count.

    Args:
        cut_frac: Share of the updates that is left out at either end, rounded down, at least one where three are there.

    Source: Yin et al., ICML 2018, arXiv:1803.01498.
    """

    def combine(deltas: Sequence[Vector], _shares: Weights) -> Vector:
        count = len(deltas)
        cut = min(max(1, int(cut_frac * count)), (count - 1) // 2)
        ordered = np.sort(np.stack(deltas), axis=0)[cut : count - cut]
        result: Vector = ordered.mean(axis=0, dtype=np.float64).astype(np.float32)
        return result

    return combine


def norm_bound(times_median: float) -> Combine:
    """The weighed mean, an update longer than so many median lengths being shortened to that.

    Args:
        times_median: The bound as a multiple of the buffer's median norm.

    Source: Sun et al., Can you really backdoor federated learning?, 2019, arXiv:1911.07963.
    """

    def combine(deltas: Sequence[Vector], shares: Weights) -> Vector:
        norms = np.array([float(np.linalg.norm(delta)) for delta in deltas])
        bound = times_median * float(np.median(norms))
        scales = np.where(norms > bound, bound / np.maximum(norms, np.finfo(np.float64).tiny), 1.0)
        return mean([delta * np.float32(scale) for delta, scale in zip(deltas, scales, strict=True)], shares)

    return combine


def parse_aggregate(spec: str) -> Combine:
    """Read `mean`, `median`, `trimmed-mean:0.1` or `norm-bound:2`.

    Raises:
        UsageError: The spec is unknown or its number out of range.
    """
    name, _, argument = spec.partition(":")
    if spec in ("mean", "median"):
        return mean if spec == "mean" else median
    try:
        value = float(argument) if argument else {"trimmed-mean": 0.1, "norm-bound": 2.0}.get(name, 0.0)
    except ValueError:
        value = 0.0
    if name == "trimmed-mean" and 0 < value < 0.5:
        return trimmed_mean(value)
    if name == "norm-bound" and 0 < value < float("inf"):
        return norm_bound(value)
    raise UsageError(f"server.aggregate: {spec!r} is not mean, median, trimmed-mean:0.1 (below 0.5) or norm-bound:2")
