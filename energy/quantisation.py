"""How well a matrix product fills a device: tiles that stick out over its edges, and a last wave of tiles that is not full."""

import numpy as np

# Tile rows and columns, and the share of the best tile's rate that its arithmetic intensity allows (assumed).
TENSOR_TILES = (
    (256, 128, 1.0),
    (128, 128, 0.95),
    (256, 64, 0.85),
    (128, 64, 0.8),
    (64, 64, 0.65),
    (128, 32, 0.5),
    (64, 32, 0.4),
    (32, 32, 0.3),
    (64, 16, 0.25),
)
VECTOR_TILES = (
    (128, 128, 1.0),
    (128, 64, 0.95),
    (64, 64, 0.85),
    (128, 32, 0.8),
    (64, 32, 0.7),
    (32, 32, 0.6),
    (64, 16, 0.5),
)
SPLITS = (1, 2, 4, 8)
SPLIT_COST = 0.03


def excess(
    batch: np.ndarray,
    m: np.ndarray,
    n: np.ndarray,
    k: np.ndarray,
    units: int,
    tiles: tuple[tuple[int, int, float], ...],
) -> np.ndarray:
    """Time of a product over that of the same FLOP spread evenly over all units at the best tile's rate, at least 1.

    ``min over tiles (tm, tn) and splits s of  ceil(B ceil(M/tm) ceil(N/tn) s / units) tm tn (1 + .03 s) / (s e_tile)  /  (B M N / units)``

    A split of the inner dimension K is tried where K >= 512 and K/s >= 256: the library then has more, shorter tiles.

    Args:
        batch: Number of independent products. `(op,)`
        m: Rows of each. `(op,)`
        n: Columns of each. `(op,)`
        k: Inner dimension. `(op,)`
        units: Streaming multiprocessors of the device.
        tiles: Tile shapes the library has, with their relative rates.

    Source: tile and wave quantisation as in NVIDIA, Matrix multiplication background user's guide, 2023.
    """
    shapes = np.array([(a, b, e) for tm, tn, e in tiles for a, b in {(tm, tn), (tn, tm)}])
    tm, tn, rate = (column[:, None, None] for column in shapes.T)
    split = np.array(SPLITS, dtype=float)[None, :, None]
    allowed = (split == 1) | ((k >= 512) & (k / split >= 256))
    waves = np.ceil(batch * np.ceil(m / tm) * np.ceil(n / tn) * split / units)
    cost = waves * tm * tn / split / rate * np.where(split > 1, 1 + SPLIT_COST * split, 1.0)
    cost = np.where(allowed, cost, np.inf).min(axis=(0, 1))
    ratio: np.ndarray = np.maximum(cost / (batch * m * n / units), 1.0)
    return ratio
