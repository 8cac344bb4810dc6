"""Levels: in order, worth what they carry, and chosen by a scheduler within the budget."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.compression.compress import Compressor, decode
from budjoule.training.compression.levels import parse_levels, values_of
from budjoule.training.compression.update import layout_of

LAYOUT = layout_of([("weight", (20, 10)), ("bias", (10,))])


def test_bars_offer_levels_from_the_smallest_share_to_the_largest() -> None:
    levels = parse_levels(["topk:0.1|0.01|0.03", "quantize:8"], error_feedback=True)
    assert [level.kept_frac for level in levels] == [0.01, 0.03, 0.1]
    assert {(level.selection, level.values, level.unbiased) for level in levels} == {("topk", "int8", False)}


@pytest.mark.parametrize("steps", [["topk:0.01", "quantize:8"], [], ["fp16"], ["lowrank:2"]])
def test_without_bars_there_is_the_one_level_that_was_asked_for(steps: list[str]) -> None:
    assert parse_levels(steps) == (Compressor.parse(steps),)
    assert values_of(parse_levels(steps), np.zeros(5, np.float32)) == [1.0]


@pytest.mark.parametrize("steps", [["topk:0.1|"], ["topk:0.1|2"], ["quantize:8|4"], ["lowrank:1|2"]])
def test_levels_that_mean_nothing_are_refused(steps: list[str]) -> None:
    with pytest.raises(UsageError, match="compress step"):
        parse_levels(steps)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), peaked=st.floats(0.2, 4))
def test_a_level_is_worth_one_less_its_distortion(seed: int, peaked: float) -> None:
    update = (np.random.default_rng(seed).normal(size=LAYOUT.size) ** 3 * peaked).astype(np.float32)
    levels = parse_levels(["topk:0.02|0.1|0.5|1"])
    values = values_of(levels, update)
    assert values == sorted(values)
    for level, value in zip(levels, values, strict=True):
        arrived = decode(level.encode(update, LAYOUT, np.random.default_rng(0)), LAYOUT)
        distortion = float(np.sum((update - arrived) ** 2.0) / np.sum(update**2.0))
        assert value == pytest.approx(1 - distortion, abs=1e-5)


def test_a_random_selection_is_worth_its_share() -> None:
    assert values_of(parse_levels(["randomk:0.2|0.1"]), np.ones(7, np.float32)) == [0.1, 0.2]


def test_a_fleet_uses_its_levels_and_keeps_its_budget(small: dict[str, Any], run_bits: Callable[..., Any]) -> None:
    """On a link whose rate swings 32-fold, where bytes are what costs: large frames in good times, small ones in bad."""
    extra = {
        "fleet": {"link": "wifi-pi", "link_state": "two-state:32"},
        "update": {"compress": ["topk:0.01|0.1|0.5", "quantize:8"]},
        "server": {"broadcast": ["quantize:8"], "cohort": 6},
        "budget": {"energy": 0.08},
    }
    summary, events = run_bits(small, extra)
    sent = [event for event in map(json.loads, events.splitlines()) if event.get("event") == "send"]
    assert len({event["level"] for event in sent}) >= 2
    assert summary["overspent_clients"] == 0
    assert all(row["spent_j"] <= row["budget_j"] for row in summary["by_client"])
