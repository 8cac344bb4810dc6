"""Differential privacy: the promise is kept with no more noise than it needs, and everything that carries it is enforced."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from budjoule.energy.errors import UsageError
from budjoule.training.compression.update import layout_of
from budjoule.training.config.config import load_config
from budjoule.training.run import train
from budjoule.training.server.methods import GAP_CAP, METHODS, STALENESS, Arrival, updates_a_version
from budjoule.training.server.privacy import (
    Privacy,
    clip_norm,
    epsilon_spent,
    noise_multiplier,
    noisy_mean,
    plan_privacy,
)
from budjoule.training.server.server import Server

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


@pytest.mark.parametrize(("epsilon", "delta", "count"), [(8.0, 1e-3, 5), (2.0, 1e-5, 10), (1.0, 1e-5, 100)])
def test_the_noise_is_a_twentieth_to_a_tenth_above_the_least_there_is(epsilon: float, delta: float, count: int) -> None:
    """P Gaussians are one of noise z / sqrt(P), whose exact curve is known: Balle and Wang, ICML 2018, theorem 8."""

    def spent(noise: float) -> float:
        mu = count**0.5 / noise
        return float(norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))

    least = brentq(lambda noise: spent(noise) - delta, 0.1, 1000)
    assert 1.05 <= noise_multiplier(epsilon, delta, count) / least <= 1.1


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


def test_a_buffer_divides_by_as_many_updates_as_it_waits_for() -> None:
    keys = {"fleet": {"clients": 3}, "privacy": PROMISE, "stop": {"rounds": 5}}
    config = load_config({**keys, "server": {"method": "fedbuff", "buffer_size": 10}})
    assert plan_privacy(config).divisor == updates_a_version(config) == 3


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


@pytest.mark.parametrize("method", ["fedavg", "fedavg-deadline"])
@pytest.mark.parametrize(
    "protection", [{"epsilon": 8.0, "delta": 1e-3, "clip": 1.0}, {"secure_aggregation": True, "clip": 1.0}]
)
def test_weights_that_look_at_the_updates_are_refused_in_rounds_too(method: str, protection: dict[str, Any]) -> None:
    server = {"method": method, "staleness": "age-variance"}
    update = {"compress": [], "error_feedback": False}
    load_config({"server": server, "update": update})
    with pytest.raises(UsageError, match="age-variance looks at"):
        load_config({"server": server, "update": update, "privacy": protection})


def plain(**keys: Any) -> dict[str, Any]:
    return {
        "task": {"partition": "iid"},
        "fleet": {"clients": 4, "straggler_frac": 0.0},
        "budget": {"energy": "none"},
        "training": {"local_steps": 1, "batch_size": 4, "learning_rate": 1e-12},
        "update": {"compress": [], "error_feedback": False},
        "schedule": {"policy": "every-block", "slot": "none"},
        "server": {"method": "fedavg", "cohort": 4, "average": 0.0},
        "stop": {"rounds": 1, "target_accuracy_frac": "none"},
        "privacy": {"clip": 0.5, **keys},
    }


@pytest.mark.parametrize("secure", [False, True])
def test_the_noise_of_a_run_is_what_its_summary_says(tmp_path: Path, secure: bool) -> None:
    """Clients learn nothing here, so that what a version differs by is the noise: of the whole run, masked or not."""
    models = []
    for name, promise in (("without", {}), ("with", {"epsilon": 2.0, "delta": 1e-5})):
        run = train(plain(secure_aggregation=secure, **promise), output=tmp_path / name)
        state = torch.load(tmp_path / name / "model.pt", weights_only=True)
        models.append(np.concatenate([value.numpy().ravel() for value in state.values()]).astype(np.float64))
    said = run.summary["privacy"]
    noise = (models[1] - models[0]) * said["divisor"] / (said["noise_multiplier"] * 0.5)
    assert noise.size > 1000
    assert noise.std() == pytest.approx(1.0, abs=4 / noise.size**0.5)
    assert abs(noise.mean()) < 4 / noise.size**0.5


LAYOUT = layout_of([("weight", (1000,))])


def step_of(server: Server, examples: tuple[int, ...] = (1, 1, 1), gap_slots: float = GAP_CAP) -> Any:
    """What a server makes of updates that are at right angles and of length 1."""
    for client, count in enumerate(examples):
        values = np.eye(len(examples), 1000, dtype=np.float32)[client]
        server.state.buffer.append(
            Arrival(client=client, examples=count, staleness=0, gap_slots=gap_slots, values=values)
        )
    server.finish(Mock())
    return server.state.weights


def private_server(method: str, noise_seed: int | None = None) -> Server:
    document = plain(epsilon=8.0, delta=1e-3, clip=1.0) | {"server": {"method": method, "cohort": 3, "buffer_size": 3}}
    return Server(load_config(document), LAYOUT, np.zeros(1000, np.float32), noise_seed=noise_seed)


@pytest.mark.parametrize("method", METHODS)
def test_no_client_weighs_more_than_its_clip_in_a_private_version(method: str) -> None:
    document = plain(epsilon=8.0, delta=1e-3, clip=1.0)
    document["server"] = {"method": method, "cohort": 3, "buffer_size": 3, "staleness": "polynomial"}
    server = Server(load_config(document), LAYOUT, np.zeros(1000, np.float32))
    server.privacy = replace(server.privacy, noise_multiplier=0.0)
    assert step_of(server, examples=(1, 1, 10**6))[:3] == pytest.approx(1 / 3)


def test_every_version_has_noise_of_its_own() -> None:
    server = private_server("fedavg", noise_seed=7)
    first = step_of(server)
    assert not np.isclose(step_of(server) - first, first).any()


def test_a_resumed_server_knows_how_often_each_client_took_part() -> None:
    server = private_server("fedavg")
    server.state.participations = {3: 2, 5: 1}
    other = private_server("fedavg")
    other.restore(json.loads(json.dumps(server.numbers())), server.state.weights, server.state.average, [])
    assert other.state.participations == {3: 2, 5: 1}


@pytest.mark.parametrize("slot", ["none", "60 s"])
def test_where_no_client_can_be_silent_private_budjoule_steps_as_far_as_fedbuff(slot: str) -> None:
    steps = {}
    for method in ("fedbuff", "budjoule"):
        document = plain(epsilon=8.0, delta=1e-3, clip=1.0) | {"schedule": {"policy": "price-threshold", "slot": slot}}
        document["server"] = {"method": method, "cohort": 3, "buffer_size": 3}
        server = Server(load_config(document), LAYOUT, np.zeros(1000, np.float32))
        server.privacy = replace(server.privacy, noise_multiplier=0.0)
        steps[method] = step_of(server, gap_slots=1.0)
    share = 1.0 if slot == "none" else GAP_CAP**-0.5
    np.testing.assert_allclose(steps["budjoule"], share * steps["fedbuff"], rtol=1e-6)


def test_the_noise_of_a_real_server_follows_from_nothing_that_others_know() -> None:
    steps = [step_of(private_server("fedavg")) for _ in range(2)]
    assert not np.isclose(*steps).any()
    seeded = [step_of(private_server("fedavg", noise_seed=7)) for _ in range(2)]
    assert np.array_equal(*seeded)


@pytest.mark.parametrize(
    ("policy", "compress", "covered"),
    [
        ("every-block", [], True),
        ("price-threshold", ["fp16"], True),
        ("price-threshold", ["randomk:0.01"], True),
        ("joule-queue", ["randomk:0.01|0.1", "fp16"], True),
        ("price-threshold", ["lowrank:2"], True),
        ("norm-threshold", [], False),
        ("price-threshold", ["topk:0.01|0.1"], False),
        ("joule-queue", ["topk-per-joule:0.01|0.1", "fp16"], False),
        ("every-block", ["topk:0.01"], False),
        ("every-block", ["randomk:0.01", "quantize:8"], False),
        ("every-block", ["ternary"], False),
        ("every-block", ["fp32z"], False),
    ],
)
def test_timing_is_covered_where_neither_the_choice_nor_the_size_of_a_send_looks_at_the_update(
    policy: str, compress: list[str], covered: bool
) -> None:
    document = plain(epsilon=8.0, delta=1e-3) | {"schedule": {"policy": policy}, "update": {"compress": compress}}
    planned = plan_privacy(load_config(document))
    assert planned is not None
    assert planned.covers_timing is covered


def test_damping_is_no_matter_in_rounds_which_are_never_late() -> None:
    private = ["privacy.epsilon=2.0", "privacy.clip=1.0", "privacy.delta=1e-5"]
    assert load_config({"server": {"method": "fedavg", "damping": True}}, overrides=private).server.damping
