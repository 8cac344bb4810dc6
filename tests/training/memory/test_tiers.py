"""Devices of different memories: each trains what fits, over one vector, and nobody changes what another cannot hold."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from budjoule.energy.errors import UsageError
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.config.config import load_config
from budjoule.training.memory.predict import footprint
from budjoule.training.memory.tiers import Tiers, plan_tiers
from budjoule.training.task.learning import load_task

BOTH = "fleet.device={ raspberry-pi-5 = 0.5, jetson-orin-nano = 0.5 }"


def table(little: str, more: str) -> str:
    return f'training.memory={{ raspberry-pi-5 = "{little}", jetson-orin-nano = "{more}" }}'


@pytest.fixture(scope="module", params=[("mlp", "30 %", "none"), ("mlp", "30 %", "60 %"), ("conv", "15 %", "60 %")])
def planned(request: pytest.FixtureRequest) -> tuple[Tiers, Workbench, Any]:
    model, *limits = request.param
    config = load_config(
        {"task": {"model": model}, "training": {"batch_size": 8, "learning_rate": 0.1}},
        overrides=[BOTH, table(*limits)],
    )
    task = load_task(config)
    full = footprint(task.model, task.data.inputs[:8], task.data.labels[:8])
    made = plan_tiers(task.model, task.data, config.training, config.training.memory, full=full, batch=8, seed=0)
    assert made is not None
    for device, plan in made.by_device.items():
        assert plan.peak_bytes <= min(full.peak_bytes, config.training.memory[device].bytes_of(full.peak_bytes))
    return made, Workbench(task.model, config.training, memory=made.together), task


def test_more_memory_trains_more_but_for_layers_that_stay_random(planned: tuple[Tiers, Workbench, Any]) -> None:
    made, bench, task = planned
    small, large = made.by_device["raspberry-pi-5"], made.by_device["jetson-orin-nano"]
    random = [name for name, layer in small.layers.items() if layer.storage == "signs"]
    assert bool(random) == (task.model[1].__class__ is torch.nn.Linear)  # the dense net's first layer
    assert all(large.layers[name] == small.layers[name] for name in random)
    counts = {}
    for device in made.by_device:
        frozen = made.frozen(bench.layout, len(bench.trained_names), device)
        counts[device] = bench.layout.size - (0 if frozen is None else len(frozen))
    assert counts["raspberry-pi-5"] < counts["jetson-orin-nano"]
    assert large.peak_bytes > small.peak_bytes == min(plan.peak_bytes for plan in made.by_device.values())
    assert made.peak_bytes == large.peak_bytes


def test_exactly_what_a_device_trains_moves(planned: tuple[Tiers, Workbench, Any]) -> None:
    made, bench, task = planned
    still = made.frozen(bench.layout, len(bench.trained_names), "raspberry-pi-5")
    assert still is not None
    start = bench.values()
    with one_thread():
        small = bench.block(start, task.data.inputs[:99], task.data.labels[:99], seed=(1,), frozen=still) != start
        whole = bench.block(start, task.data.inputs[:99], task.data.labels[:99], seed=(1,)) != start
    assert not small[still].any()
    assert np.delete(small, still).mean() > 0.5
    assert whole[still].mean() > 0.3  # some units are dead


def test_plans_travel_as_json(planned: tuple[Tiers, Workbench, Any]) -> None:
    assert Tiers.from_dict(json.loads(json.dumps(planned[0].to_dict()))) == planned[0]


def test_a_run_says_what_each_device_holds_and_workers_change_no_bit(
    small: dict[str, Any], run_bits: Callable[..., tuple[dict[str, Any], bytes]]
) -> None:
    conv = {"task": {"model": "conv"}, "fleet": {**small["fleet"], "link": "wifi-pi"}}
    tiers = run_bits(small, conv, BOTH, table("15 %", "none"), "stop.rounds=6")
    peaks = {row["device"]: row["peak_memory_bytes"] for row in tiers[0]["by_client"]}
    assert peaks["raspberry-pi-5"] <= 0.15 * tiers[0]["full_memory_bytes"] < peaks["jetson-orin-nano"]
    assert tiers[0]["peak_memory_bytes"] == max(peaks.values())
    assert run_bits(small, conv, BOTH, table("15 %", "none"), "stop.rounds=6", workers=2) == tiers
    same = run_bits(small, conv, BOTH, table("15 %", "15 %"), "stop.rounds=6")
    one = run_bits(small, conv, BOTH, "training.memory=15 %", "stop.rounds=6")
    assert same == one
    assert one[0]["parameters"] < tiers[0]["parameters"]


def test_a_device_without_a_limit_or_a_limit_without_a_device_is_named(
    small: dict[str, Any], run_bits: Callable[..., tuple[dict[str, Any], bytes]]
) -> None:
    with pytest.raises(UsageError, match="does not say what 'jetson-orin-nano' has"):
        run_bits(small, BOTH, 'training.memory={ raspberry-pi-5 = "15 %" }')
    with pytest.raises(UsageError, match="names 'phone', which is not in fleet"):
        run_bits(small, 'training.memory={ raspberry-pi-5 = "15 %", phone = "none" }')
    with pytest.raises(UsageError, match="no device's memory"):
        run_bits(small, "training.memory={}")
