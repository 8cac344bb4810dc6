"""Which entries of a vector to send: the largest, the largest for their joules, or a random set that a seed names."""

import numpy as np
from numpy.typing import NDArray

from budjoule.training.compression.update import Vector

Indices = NDArray[np.int64]

_SAMPLE_STEP = 61  # every 61st entry guesses the threshold; a prime, so that it does not run along the rows of a layer
_SURE_SIZE = 50_000  # below this, partitioning everything is as fast as guessing


def largest_indices(values: Vector, kept: int) -> Indices:
    """Indices of the `kept` entries of largest magnitude, ascending; ties go to the lower index, zeros are left out.

    The threshold is guessed low from a sample, so that only a few candidates are partitioned; the result is exact.
    """
    size = np.abs(values)
    if kept >= values.size:
        return np.flatnonzero(size).astype(np.int64, copy=False)
    candidates = None
    if values.size > _SURE_SIZE:
        sample = size[::_SAMPLE_STEP]
        wanted = min(sample.size, int(1.3 * kept / _SAMPLE_STEP) + 20)
        guess = np.partition(sample, sample.size - wanted)[sample.size - wanted]
        found = np.flatnonzero(size >= guess)
        if guess > 0 and found.size >= kept:
            candidates = found
    if candidates is None:
        candidates = np.flatnonzero(size)
        if candidates.size <= kept:
            return candidates.astype(np.int64, copy=False)
    size = size[candidates]
    threshold = np.partition(size, size.size - kept)[size.size - kept]
    above = size > threshold
    ties = np.flatnonzero(size == threshold)[: kept - int(np.count_nonzero(above))]
    above[ties] = True
    chosen: Indices = candidates[above].astype(np.int64, copy=False)
    return chosen


def worthiest_indices(values: Vector, kept: int, bounds: tuple[int, ...], value_bits: float) -> Indices:
    """`kept` indices, ascending, of the largest squared magnitude for the joules that sending them takes.

    A link's joules go with the bits. In a layer that sends k of n entries one more takes ``b = v + log2((n - k) / k)``
    bits, the growth of log2 C(n, k) and the value's own; so entries are ranked by ``|x| / sqrt(b)``, with k from the
    plain choice of the largest. An entry among many that are sent is cheaper to name than a lone one.

    Args:
        values: What could be sent. Shape (n,).
        kept: How many are.
        bounds: Where each layer starts, and the end of the last.
        value_bits: Bits of a value, v.
    """
    edges = np.asarray(bounds)
    count = np.diff(np.searchsorted(largest_indices(values, kept), edges))
    index_bits = np.log2((np.diff(edges) - count + 0.5) / (count + 0.5))
    cost = np.sqrt(value_bits + np.maximum(index_bits, 0.0))
    worth = np.asarray(cost.max(initial=0.0) / cost, np.float32)  # at least 1, so that no tiny value becomes zero
    with np.errstate(over="ignore"):
        return largest_indices(values * np.repeat(worth, np.diff(edges)), kept)


def hashed_indices(size: int, kept: int, seed: int) -> Indices:
    """`kept` of `size` indices, ascending, every set about as likely: those whose hash with the seed is smallest.

    Spelt out here instead of drawn from a library's generator, so that both sides agree whatever versions they run.

    Source: SplitMix64, Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        z = (np.arange(1, size + 1, dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    if kept >= size:
        return np.arange(size, dtype=np.int64)
    if kept <= 0:
        return np.zeros(0, np.int64)
    threshold = np.partition(z, kept - 1)[kept - 1]  # SplitMix64 is a bijection: no two indices share a hash
    return np.flatnonzero(z <= threshold).astype(np.int64, copy=False)
