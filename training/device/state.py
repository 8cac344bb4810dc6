"""A device's training state, in tables of its ledger's file: written in the same transaction as the joules it took.

Kept are the base version and its weights, the local weights, the optimizer's tensors and what was learnt and not sent, by
layer, and the counts from which everything random is drawn. After a change of the trained layers what fits is kept.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from budjoule.training.compression.residual import load_residual, save_residual
from budjoule.training.compression.update import Layout, Vector

if TYPE_CHECKING:
    from torch import Tensor

_TABLES = """
CREATE TABLE IF NOT EXISTS device_numbers (id INTEGER PRIMARY KEY CHECK (id = 0), numbers TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS device_weights (name TEXT PRIMARY KEY, weights BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS device_optimizer (
    layer TEXT NOT NULL, name TEXT NOT NULL, shape TEXT NOT NULL, tensor BLOB NOT NULL, PRIMARY KEY (layer, name)
) STRICT
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Counts and figures of a device.

    Args:
        version: Version of the model that it trains from.
        blocks: Local blocks begun and ended.
        unsent_blocks: Blocks that no send has carried.
        sends: Updates that went out.
        noise_scale: Examples whose mean gradient is as much signal as noise, as seen of late; None before it was seen.
    """

    version: int = 0
    blocks: int = 0
    unsent_blocks: int = 0
    sends: int = 0
    noise_scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that changes of a training device.

    Args:
        residual: What was learnt and not sent. Shape (n,).
        numbers: Counts and figures.
        base: Weights of the version it trains from; None while it waits for one. Shape (n,).
        local: Its own weights. Shape (n,).
        optimizer: The optimizer's tensors by layer and name.
    """

    residual: Vector
    numbers: Numbers = field(default_factory=Numbers)
    base: Vector | None = None
    local: Vector | None = None
    optimizer: "dict[tuple[str, str], Tensor]" = field(default_factory=dict)


def save(cursor: sqlite3.Cursor, layout: Layout, state: State) -> None:
    """Write the state, in the caller's transaction."""
    document = {**asdict(state.numbers), "layout": list(zip(layout.names, layout.shapes, strict=True))}
    cursor.execute("INSERT OR REPLACE INTO device_numbers VALUES (0, ?)", (json.dumps(document),))
    cursor.execute("DELETE FROM device_weights")
    weights = {name: vector for name in ("base", "local") if (vector := getattr(state, name)) is not None}
    cursor.executemany(
        "INSERT INTO device_weights VALUES (?, ?)", ((name, _blob(vector)) for name, vector in weights.items())
    )
    cursor.executemany("DELETE FROM device_optimizer WHERE layer = ?", ((layer,) for layer in layout.names))
    cursor.executemany(
        "INSERT INTO device_optimizer VALUES (?, ?, ?, ?)",
        (
            (layer, name, json.dumps(list(tensor.shape)), _blob(tensor.detach().numpy()))
            for (layer, name), tensor in state.optimizer.items()
        ),
    )
    save_residual(cursor, layout, state.residual)


def load(cursor: sqlite3.Cursor, layout: Layout) -> State:
    """The state that was saved, or a fresh one; in the caller's transaction.

    If other layers were trained when it was saved, what they learnt and did not send joins their residual, and the device
    waits for weights of those that are trained now.
    """
    for statement in _TABLES.split(";"):
        cursor.execute(statement)
    row = cursor.execute("SELECT numbers FROM device_numbers").fetchone()
    if row is None:
        return State(residual=load_residual(cursor, layout))
    document: dict[str, Any] = json.loads(row[0])
    trained = [(name, tuple(shape)) for name, shape in document.pop("layout")]
    was = Layout(names=tuple(name for name, _ in trained), shapes=tuple(shape for _, shape in trained))
    numbers = Numbers(**document)
    blobs = dict(cursor.execute("SELECT name, weights FROM device_weights").fetchall())
    base, local = (np.frombuffer(blobs[name], "<f4").copy() if name in blobs else None for name in ("base", "local"))
    if was.fingerprint != layout.fingerprint and base is not None and local is not None:
        save_residual(cursor, was, load_residual(cursor, was) + (local - base))
        base = local = None
    return State(
        residual=load_residual(cursor, layout),
        numbers=numbers,
        base=base,
        local=local,
        optimizer=_optimizer(cursor, layout),
    )


def _optimizer(cursor: sqlite3.Cursor, layout: Layout) -> "dict[tuple[str, str], Tensor]":
    import torch

    shapes, kept = dict(zip(layout.names, layout.shapes, strict=True)), {}
    for layer, name, shape, blob in cursor.execute(
        "SELECT layer, name, shape, tensor FROM device_optimizer"
    ).fetchall():
        size = tuple(json.loads(shape))
        if layer in shapes and size in (shapes[layer], ()):  # of the layer's shape, or a count of steps
            kept[layer, name] = torch.from_numpy(np.frombuffer(blob, "<f4").copy().reshape(size))
    return kept


def _blob(values: "np.ndarray[Any, Any]") -> bytes:
    return values.astype("<f4", copy=False).tobytes()
