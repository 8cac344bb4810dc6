"""Differential privacy: the promise is kept with no more noise than it needs, and everything that carries it is enforced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.config.config import load_config
from budjoule.training.server.combine import mean
from budjoule.training.server.methods import GAP_CAP, METHODS, STALENESS, Arrival
from budjoule.training.server.privacy import (
    Privacy,
    clip_norm,
    clipped,
    epsilon_spent,
    noise_multiplier,
    noisy_mean,
    plan_privacy,
)

Bits = Callable[..., tuple[dict[str, Any], bytes]]
PROMISE = {"epsilon": 8.0, "delta": 1e-3, "clip": 0.5}


def promise(**changes: Any) -> Privacy:
    keys = {"epsilon": 2.0, "delta": 1e-5, "clip": 0.5, "participations": 4, "noise_multiplier": 1.0, "divisor": 8}
    return Privacy(**(keys | {"covers_timing": True} | changes))


@given(epsilon=st.floats(0.1, 20), delta=st.floats(1e-8, 1e-2), participations=st.integers(1, 500))
@settings(max_examples=25, deadline=None)
def test_the_noise_is_enough_and_no_more(epsilon: float, delta: float, participations: int) -> None:
    noise = noise_multiplier(epsilon, delta, participations)
    kept = promise(epsilon=epsilon, delta=delta, noise_multiplier=noise, participations=participations)
    assert 0.98 * epsilon <= epsilon_spent(kept, participations) <= epsilon * (1 + 1e-6)


@pytest.mark.parametrize(("epsilon", "participations"), [(1.0, 1), (1.0, 10), (4.0, 100)])
def test_the_noise_is_near_the_closed_bound_of_zero_concentrated_privacy(epsilon: float, participations: int) -> None:
    """P Gaussians of noise z are (P / 2 z^2)-zCDP, so epsilon <= rho + 2 sqrt(rho log(1 / delta)): Bun, Steinke 2016."""
    rho = participations / (2 * noise_multiplier(epsilon, 1e-5, participations) ** 2)
    bound = rho + 2 * np.sqrt(rho * np.log(1e5))
    assert epsilon <= bound <= 1.3 * epsilon


def test_less_epsilon_and_more_versions_need_more_noise() -> None:
    noises = [noise_multiplier(epsilon, 1e-5, 10) for epsilon in (0.5, 1.0, 4.0)]
    assert noises == sorted(noises, reverse=True)
    noises = [noise_multiplier(1.0, 1e-5, count) for count in (1, 10, 100)]
    assert noises == sorted(noises)


def test_an_absurd_promise_is_refused() -> None:
    with pytest.raises(UsageError, match="raise epsilon"):
        noise_multiplier(1e-6, 1e-12, 1000)


def test_no_update_moves_the_sum_further_than_the_clip() -> None:
    rng = np.random.default_rng(0)
    deltas = [rng.normal(0, scale, 50).astype(np.float32) for scale in (1e-3, 1.0, 1e6)]
    silent = promise(noise_multiplier=0.0)
    shares = np.array([1.0, 0.5, 1.0])
    for left_out in range(3):
        kept = [index for index in range(3) if index != left_out]
        whole = noisy_mean(silent, rng)(deltas, shares)
        without = noisy_mean(silent, rng)([deltas[index] for index in kept], shares[kept])
        moved = np.linalg.norm(whole.astype(np.float64) - without) * silent.divisor
        assert moved <= shares[left_out] * silent.clip * (1 + 1e-5)


def test_short_updates_are_not_clipped() -> None:
    short = np.full(4, 0.01, np.float32)
    assert clip_norm(short, 1.0) is short
    np.testing.assert_array_equal(clipped(mean, 1.0)([short], np.ones(1)), short)


def test_the_noise_covers_every_entry_at_its_scale() -> None:
    kept = promise(noise_multiplier=3.0, clip=0.5, divisor=10)
    noise = noisy_mean(kept, np.random.default_rng(1))([np.zeros(20_000, np.float32)], np.ones(1))
    assert (noise != 0).all()
    assert noise.std() == pytest.approx(3.0 * 0.5 / 10, rel=0.03)
    assert abs(noise.mean()) < 4 * 0.15 / np.sqrt(20_000)


@pytest.mark.parametrize("method", METHODS)
@given(facts=st.lists(st.tuples(st.integers(0, 1000), st.floats(1, 1000)), min_size=1, max_size=10))
@settings(max_examples=30, deadline=None)
def test_private_weights_are_at_most_one_and_know_no_values(method: str, facts: list[tuple[int, float]]) -> None:
    def weights(scale: float) -> Any:
        arrivals = [
            Arrival(client=i, examples=7**i, staleness=age, gap_slots=gap, values=np.full(3, scale * i, np.float32))
            for i, (age, gap) in enumerate(facts)
        ]
        return METHODS[method].weigh_privately(arrivals, STALENESS["polynomial"])

    assert (weights(1.0) <= 1 + 1e-12).all()
    np.testing.assert_array_equal(weights(1.0), weights(50.0))
    assert GAP_CAP > 1


@pytest.mark.parametrize("method", ["fedavg", "budjoule"])
def test_a_run_keeps_its_promise_and_repeats(small: dict[str, Any], run_bits: Bits, method: str) -> None:
    config = small | {"server": {**small["server"], "method": method, "staleness": "polynomial"}, "privacy": PROMISE}
    config["stop"] = {"target_accuracy_frac": "none", "rounds": 8}
    config["privacy"] = {**PROMISE, "participations": 2}
    summary, events = run_bits(config)
    assert summary["privacy"]["participations"] == 2
    assert 0 < summary["privacy"]["epsilon_spent"] <= 8.0
    assert not summary["rejects"]
    assert max(row["sends"] - row["lost"] for row in summary["by_client"]) == 2
    assert (summary, events) == run_bits(config)


def test_the_plan_follows_cohort_and_rounds() -> None:
    keys = {"fleet": {"clients": 100}, "privacy": PROMISE, "stop": {"rounds": 50}}
    server = {"method": "fedavg", "cohort": 10}
    assert plan_privacy(load_config({**keys, "server": server})).participations == 10
    rare = plan_privacy(load_config({**keys, "server": server, "stop": {"rounds": 5}}))
    often = plan_privacy(load_config({**keys, "server": server, "stop": {"rounds": 500}}))
    assert rare.noise_multiplier < often.noise_multiplier
    assert rare.divisor == 10


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["privacy.epsilon=2.0", "privacy.delta=1e-5"], "needs privacy.clip"),
        (["privacy.epsilon=2.0", "privacy.clip=1.0"], "needs privacy.delta"),
        (["privacy.epsilon=2.0", "privacy.clip=1.0", "privacy.delta=1e-5", "stop.rounds=none"], "needs stop.rounds"),
        (
            ["privacy.epsilon=2.0", "privacy.clip=1.0", "privacy.delta=1e-5", "server.aggregate=median"],
            "aggregate = 'mean'",
        ),
        (
            ["privacy.epsilon=2.0", "privacy.clip=1.0", "privacy.delta=1e-5", "server.staleness=age-variance"],
            "public weights",
        ),
        (
            ["privacy.epsilon=2.0", "privacy.clip=1.0", "privacy.delta=1e-5", "server.damping=true"],
            "length is public",
        ),
    ],
)
def test_what_privacy_does_not_combine_with_is_refused_with_the_reason(overrides: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        load_config({}, overrides=["server.staleness=polynomial", *overrides])


def test_damping_is_no_matter_in_rounds_which_are_never_late() -> None:
    private = ["privacy.epsilon=2.0", "privacy.clip=1.0", "privacy.delta=1e-5"]
    assert load_config({"server": {"method": "fedavg", "damping": True}}, overrides=private).server.damping
