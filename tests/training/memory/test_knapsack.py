"""The knapsack fits, and comes close to trying every combination."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.training.memory.knapsack import best_items

ITEMS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=1, max_size=9)


@given(ITEMS, st.floats(1, 200))
@settings(max_examples=60, deadline=None)
def test_what_is_taken_fits_and_is_nearly_the_best(items: list[tuple[float, float]], room: float) -> None:
    values, sizes = [v for v, _ in items], [s for _, s in items]
    taken = best_items(values, sizes, room)
    assert np.dot(taken, sizes) <= room * (1 + 1e-9)
    # A room smaller by the rounding of sizes holds no more than was found.
    smaller = room * (1 - len(items) / 2048)
    best = max(np.dot(t, values) for t in product((0, 1), repeat=len(items)) if np.dot(t, sizes) <= smaller)
    assert np.dot(taken, values) >= best - 1e-6


def test_everything_is_taken_where_it_fits_and_nothing_where_nothing_does() -> None:
    assert best_items([1.0, 2.0], [3.0, 4.0], 7.0).all()
    assert not best_items([1.0, 2.0], [3.0, 4.0], 2.0).any()


@pytest.mark.parametrize("room", [1000.0, 5000.0])
def test_many_items_lose_less_than_the_best_single_one(room: float) -> None:
    rng = np.random.default_rng(0)
    values, sizes = rng.uniform(0, 1, 2000), rng.uniform(1, 10, 2000)
    taken = best_items(values.tolist(), sizes.tolist(), room)
    order = np.argsort(-values / sizes)
    bound = float(np.interp(room, np.cumsum(sizes[order]), np.cumsum(values[order])))  # with fractions of items
    assert sizes[taken].sum() <= room
    assert values[taken].sum() >= bound - values.max()
