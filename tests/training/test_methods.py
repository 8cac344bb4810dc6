"""How updates are weighed: one update is applied as it is, and weights fall with age and with straying."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from budjoule.training.server.methods import (
    METHODS,
    STALENESS,
    Arrival,
    age_variance,
    aggregate,
    agreement,
    damping,
    polynomial,
)

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


@settings(max_examples=100, deadline=None)
@given(
    deltas=st.lists(arrays(np.float32, 5, elements=FLOATS), min_size=1, max_size=6),
    age=st.integers(0, 50),
    scale=st.sampled_from((0.125, 8.0)),
)
def test_damping_stays_between_one_and_its_share_of_the_age_whatever_the_scale(
    deltas: list[np.ndarray], age: int, scale: float
) -> None:
    updates = [arrival(delta, age) for delta in deltas]
    shares = np.ones(len(updates))
    factor = damping(updates, shares)
    assert 1 / (1 + age) <= factor <= 1
    assert damping([arrival(delta * scale, age) for delta in deltas], 3 * shares) == pytest.approx(factor)


@pytest.mark.parametrize("others", [[], [np.full(5, 2.2e-16)], [np.zeros(5)]])
def test_an_update_alone_agrees_with_none_to_the_bit(others: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        updates = [arrival(rng.normal(size=5), 50), *(arrival(other, 50) for other in others)]
        assert damping(updates, rng.uniform(0.1, 1, len(updates))) == 1.0


def test_damping_counts_what_updates_in_flight_repeat() -> None:
    along, across = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    shares = np.ones(2)

    def of(first: np.ndarray, second: np.ndarray, age: int) -> float:
        return damping([arrival(first, age), arrival(second, age)], shares)

    assert of(along, 3 * along, 9) == pytest.approx(1 / 10)
    assert of(along, 3 * along, 0) == 1.0
    assert of(along, across, 9) == 1.0
    assert of(along, -along, 9) == 1.0
    assert of(along, along + across / 2, 9) == pytest.approx(1 / (1 + 9 * 0.5**0.5))
    assert damping([arrival(along, 9)], np.ones(1)) == 1.0
    assert agreement([arrival(np.zeros(2), 9)] * 2, shares) == 0.0


def distance_after(steps: int, age: int, *, damped: bool) -> float:
    """How far from the minimum of ``|w|^2 / 2`` two clients end who both go there at once, from where the server was `age` steps ago."""
    past = [np.ones(3, np.float32)] * (age + 1)
    for _ in range(steps):
        two = [arrival(-past[-1 - age], age)] * 2
        rate = damping(two, np.ones(2)) if damped else 1.0
        past.append(aggregate(past[-1], two, np.ones(2), rate))
    return float(np.linalg.norm(past[-1]))


@pytest.mark.parametrize("age", [3, 10, 40])
def test_damped_steps_converge_at_any_age_where_whole_ones_diverge(age: int) -> None:
    assert distance_after(60 * age, age, damped=True) < 1e-3
    assert distance_after(10 * age, age, damped=False) > 2


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
