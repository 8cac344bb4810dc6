"""How updates are weighed: one update is applied as it is, and weights fall with age and with straying."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from budjoule.training.server.methods import METHODS, STALENESS, Arrival, age_variance, aggregate, polynomial

FLOATS = st.floats(-100, 100, width=32)


def arrival(values: np.ndarray, staleness: int = 0, gap: float = 1.0, examples: int = 1) -> Arrival:
    return Arrival(client=0, examples=examples, staleness=staleness, gap_slots=gap, values=values.astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(
    weights=arrays(np.float32, 7, elements=FLOATS), delta=arrays(np.float32, 7, elements=FLOATS), age=st.integers(0, 50)
)
def test_a_single_update_is_applied_to_the_bit_whatever_its_weight(
    weights: np.ndarray, delta: np.ndarray, age: int
) -> None:
    one = [arrival(delta, age, gap=3.0, examples=17)]
    for method in METHODS.values():
        for staleness in STALENESS.values():
            assert np.array_equal(aggregate(weights, one, method.weigh(one, staleness), 1.0), weights + delta)


def test_equal_updates_give_that_update() -> None:
    delta = np.array([1.0, -2.0, 3.0], np.float32)
    several = [arrival(delta, age) for age in (0, 3, 9)]
    for method in METHODS.values():
        step = aggregate(np.zeros(3, np.float32), several, method.weigh(several, age_variance), 1.0)
        assert step == pytest.approx(delta)


def test_older_updates_weigh_less_and_fedbuff_weighs_by_the_root() -> None:
    ages = [arrival(np.ones(2), age) for age in (0, 3, 8)]
    assert polynomial(ages) == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_straying_update_weighs_less() -> None:
    rng = np.random.default_rng(0)
    near = [arrival(rng.normal(0, 1, 50)) for _ in range(5)]
    weights = age_variance([*near, arrival(rng.normal(0, 30, 50))])
    assert weights[:5].min() > 10 * weights[5]
    assert weights.max() == 1.0


def test_fedavg_weighs_by_examples() -> None:
    two = [arrival(np.array([1.0]), examples=30), arrival(np.array([-1.0]), examples=10)]
    weights = METHODS["fedavg"].weigh(two, STALENESS["constant"])
    assert aggregate(np.zeros(1, np.float32), two, weights, 1.0) == pytest.approx(0.5)


def test_silent_clients_weigh_more_up_to_a_cap_and_alike_where_nobody_waits() -> None:
    weigh = METHODS["budjoule"].weigh
    gaps = [arrival(np.ones(1), gap=gap) for gap in (1.0, 4.0, 16.0, 400.0)]
    assert weigh(gaps, polynomial) == pytest.approx([1, 2, 4, 4])
    level = [arrival(np.ones(1), age) for age in (0, 1, 2)]
    assert np.array_equal(weigh(level, polynomial), METHODS["fedbuff"].weigh(level, polynomial))
