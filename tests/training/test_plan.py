"""The plan of a block: progress as the noise scale and repeated examples have it, at the least joules."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.clients.plan import MOST_EPOCHS, Plan, choose_plan, progress, rate_frac


def affine(fixed_j: float, example_j: float, *, mixed: float = 1.0) -> Any:
    """A step's cost: fixed, and by the example; `mixed` is what a step in bf16 costs of that."""
    return lambda batch, precision: SimpleNamespace(
        energy_j=(fixed_j + example_j * batch) * (mixed if precision == "bf16-mixed" else 1.0)
    )


def chosen(step_cost: Any, **options: Any) -> Plan:
    given: dict[str, Any] = {"examples": 1000, "noise_scale": 30.0, "exchange_j": 0.0, "most_batch": 256, **options}
    return choose_plan(step_cost, **given)


@given(batch=st.integers(1, 512), steps=st.integers(1, 500), examples=st.integers(1, 10**5), noise=st.floats(0, 1e5))
def test_progress_grows_with_steps_and_batch_and_falls_with_noise(
    batch: int, steps: int, examples: int, noise: float
) -> None:
    def worth(batch: int = batch, steps: int = steps, noise: float = noise) -> float:
        return progress(Plan(batch_size=batch, local_steps=steps), examples=examples, noise_scale=noise)

    assert 0 < worth() <= steps * (1 + 1e-9)
    assert worth(steps=steps + 1) >= worth()
    assert worth(noise=noise + 1) < worth()
    # However often its examples come again, a device knows no more than they say.
    assert worth(steps=10**9) <= examples / (batch + noise) * (1 + 1e-9)


def test_a_fixed_cost_a_step_or_noise_asks_for_large_batches() -> None:
    sizes = [chosen(affine(fixed, 1.0)).batch_size for fixed in (0.0, 1.0, 10.0, 1000.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] >= 64
    sizes = [chosen(affine(1.0, 1.0), noise_scale=noise).batch_size for noise in (0.1, 10.0, 1000.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_dear_exchange_asks_for_long_blocks_up_to_some_epochs() -> None:
    plans = [chosen(affine(1.0, 0.1), exchange_j=exchange) for exchange in (0.0, 10.0, 1000.0, 1e9)]
    seen = [plan.local_steps * plan.batch_size for plan in plans]
    assert seen == sorted(seen)
    assert seen[0] < 100
    assert MOST_EPOCHS * 1000 * 0.8 <= seen[-1] <= MOST_EPOCHS * 1000


def test_the_cheaper_precision_is_taken_where_it_is_cheaper() -> None:
    both = ("fp32", "bf16-mixed")
    assert chosen(affine(1.0, 1.0, mixed=0.6), precisions=both).precision == "bf16-mixed"
    assert chosen(affine(1.0, 1.0, mixed=1.5), precisions=both).precision == "fp32"


@settings(max_examples=60, deadline=None)
@given(
    fixed=st.floats(0.01, 100),
    each=st.floats(0.001, 10),
    noise=st.floats(0, 1e4),
    exchange=st.floats(0, 1e4),
    examples=st.integers(1, 500),
    most=st.integers(1, 300),
)
def test_no_other_block_of_the_grid_does_more_for_a_joule(
    fixed: float, each: float, noise: float, exchange: float, examples: int, most: int
) -> None:
    cost = affine(fixed, each)
    best = choose_plan(cost, examples=examples, noise_scale=noise, exchange_j=exchange, most_batch=most)
    assert best.batch_size <= min(examples, most)

    def rate(plan: Plan) -> float:
        joules = exchange + plan.local_steps * cost(plan.batch_size, "fp32").energy_j
        return joules / progress(plan, examples=examples, noise_scale=noise)

    for batch in (1, 2, 8, 64):
        for steps in (1, 2, 4):
            if batch <= min(examples, most) and steps * batch <= MOST_EPOCHS * examples:
                assert rate(best) <= rate(Plan(batch_size=batch, local_steps=steps)) * (1 + 1e-9)


def test_the_rate_grows_with_the_batch_as_far_as_noise_allows() -> None:
    def frac(batch: int, noise: float, optimizer: str = "sgd") -> float:
        return rate_frac(batch, reference=16, noise_scale=noise, optimizer=optimizer)

    assert frac(16, 100.0) == 1
    assert frac(64, 0.0) == 1  # without noise a larger batch is no better
    assert frac(64, 1e9) == pytest.approx(4)  # with nothing but noise it may go as many times as far
    assert 1 < frac(64, 16.0) < 4
    assert frac(64, 1e9, "adam") == pytest.approx(2)
    assert frac(4, 1e9) == pytest.approx(1 / 4)


def test_what_leaves_no_choice_is_refused() -> None:
    for options in ({"examples": 0}, {"most_batch": 0}, {"precisions": ()}):
        with pytest.raises(UsageError, match="no block to choose"):
            chosen(affine(1.0, 1.0), **options)
