"""What was learnt and not yet sent: kept for the next update, in memory and on disk, layer by layer."""

import json
import sqlite3
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from budjoule.training.compression.update import Layout, Vector

_TABLE = """
CREATE TABLE IF NOT EXISTS residual (layer TEXT NOT NULL, shape TEXT NOT NULL, owed BLOB NOT NULL, PRIMARY KEY (layer, shape))
STRICT, WITHOUT ROWID
"""


@dataclass(slots=True)
class ErrorFeedback:
    """Keeps what a lossy update did not carry, and adds it to the next.

    Source: Seide et al., 1-bit stochastic gradient descent, Interspeech 2014; Karimireddy et al., Error feedback fixes
    SignSGD, ICML 2019, arXiv 1901.09847.

    Args:
        residual: What was learnt and not yet sent. Shape (layout.size,).
    """

    residual: Vector

    @classmethod
    def empty(cls, layout: Layout) -> "ErrorFeedback":
        """Nothing kept yet."""
        return cls(np.zeros(layout.size, np.float32))

    def apply(self, delta: Vector) -> Vector:
        """What should be sent: the new delta and what was kept. The residual is now all of it, until `settle`."""
        self.residual = self.residual + delta
        return self.residual

    def settle(self, sent: Vector) -> None:
        """Note what arrived; the rest stays for the next update."""
        self.residual = self.residual - sent


def save_residual(cursor: sqlite3.Cursor, layout: Layout, residual: Vector) -> None:
    """Write a residual, in the caller's transaction. Layers that are not trained now keep what they were owed.

    Args:
        cursor: In an open transaction.
        layout: What is trained.
        residual: What is owed. Shape (layout.size,).
    """
    cursor.execute(_TABLE)
    cursor.executemany(
        "INSERT OR REPLACE INTO residual VALUES (?, ?, ?)",
        (
            (name, json.dumps(shape), residual[start:stop].astype("<f4", copy=False).tobytes())
            for name, shape, (start, stop) in zip(layout.names, layout.shapes, pairwise(layout.bounds), strict=True)
        ),
    )


def load_residual(cursor: sqlite3.Cursor, layout: Layout) -> Vector:
    """What is owed of these layers: of those that fit by name and shape, and zeros for the others. Shape (layout.size,)."""
    cursor.execute(_TABLE)
    rows = cursor.execute("SELECT layer, shape, owed FROM residual").fetchall()
    kept = {(layer, shape): owed for layer, shape, owed in rows}
    residual = np.zeros(layout.size, np.float32)
    for name, shape, (start, stop) in zip(layout.names, layout.shapes, pairwise(layout.bounds), strict=True):
        owed = kept.get((name, json.dumps(shape)))
        if owed is not None:
            residual[start:stop] = np.frombuffer(owed, "<f4")
    return residual
