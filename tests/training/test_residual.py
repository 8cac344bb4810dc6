"""A residual on disk: it comes back as it was, and of layers that are trained again after a change of w*."""

import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest

from budjoule.training.compression.residual import load_residual, save_residual
from budjoule.training.compression.update import Layout, Vector, layout_of

WIDE = layout_of([("conv.weight", (4, 1, 3, 3)), ("fc.weight", (3, 5)), ("fc.bias", (3,))])
HEAD = layout_of([("fc.weight", (3, 5)), ("fc.bias", (3,))])
RESHAPED = layout_of([("fc.weight", (5, 3)), ("fc.bias", (3,)), ("new", ())])


@pytest.fixture
def cursor() -> Iterator[sqlite3.Cursor]:
    connection = sqlite3.connect(":memory:")
    yield connection.cursor()
    connection.close()


def owed(layout: Layout, seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(layout.size).astype(np.float32)


def test_a_residual_comes_back_to_the_bit(cursor: sqlite3.Cursor) -> None:
    assert not load_residual(cursor, WIDE).any()
    for seed in range(2):
        save_residual(cursor, WIDE, owed(WIDE, seed))
        assert load_residual(cursor, WIDE).tobytes() == owed(WIDE, seed).tobytes()


def test_a_device_whose_layers_change_keeps_what_fits(cursor: sqlite3.Cursor) -> None:
    save_residual(cursor, WIDE, owed(WIDE, 0))
    assert np.array_equal(load_residual(cursor, HEAD), owed(WIDE, 0)[36:])
    changed = load_residual(cursor, RESHAPED)
    assert not changed[:15].any()  # another shape is another layer
    assert np.array_equal(changed[15:18], owed(WIDE, 0)[51:])
    assert not changed[18:].any()


def test_layers_that_rest_are_owed_still_when_they_are_trained_again(cursor: sqlite3.Cursor) -> None:
    save_residual(cursor, WIDE, owed(WIDE, 0))
    save_residual(cursor, HEAD, owed(HEAD, 1))
    back = load_residual(cursor, WIDE)
    assert np.array_equal(back, np.concatenate([owed(WIDE, 0)[:36], owed(HEAD, 1)]))


def test_an_empty_layout_owes_nothing(cursor: sqlite3.Cursor) -> None:
    save_residual(cursor, layout_of([]), np.zeros(0, np.float32))
    assert load_residual(cursor, layout_of([])).size == 0
