"""A measured total in an estimate's shares: rows that add up to it, and a profile's times where there is one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import budjoule as bj
from budjoule.energy.errors import UsageError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.replay import ReplayMeter


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))


@pytest.fixture(scope="module")
def estimate(model: nn.Module) -> bj.Estimate:
    return bj.estimate(model, torch.ones(16, 64), device="cpu-generic", mode="training", optimizer="sgd")


@pytest.fixture
def window() -> Any:
    with bj.measure(meter=ReplayMeter([Domain(name="package-0")], [[0.0], [120.0]])) as m:
        pass
    return m


@pytest.mark.parametrize("by", ["module", "op"])
def test_split_rows_add_up_to_the_measured_total_in_the_estimates_shares(
    by: str, window: Any, estimate: bj.Estimate
) -> None:
    rows = window.split(estimate, by=by)
    assert sum(row["energy_j"] for row in rows) == pytest.approx(120.0)
    assert sum(row["share_frac"] for row in rows) == pytest.approx(1.0)
    expected = {row["name"]: row["energy_j"] / estimate.energy_j for row in getattr(estimate, f"by_{by}")}
    assert {row["name"]: row["share_frac"] for row in rows} == pytest.approx(expected)
    assert [row["share_frac"] for row in rows] == sorted((row["share_frac"] for row in rows), reverse=True)


def test_split_is_labelled_as_an_estimate_of_what_was_measured(window: Any, estimate: bj.Estimate) -> None:
    assert {row["source"] for row in window.split(estimate)} == {"estimated share of a measured total"}
    by_load = ReplayMeter([Domain(name="package")], [[0.0], [1.0]], source="estimated")
    with bj.measure(meter=by_load) as m:
        pass
    assert m.split(estimate)[0]["source"] == "estimated share of an estimated total"


def events(estimate: bj.Estimate, scale: Callable[[str], float]) -> Any:
    """A profile whose ops took their estimated time, scaled."""
    rows = [
        SimpleNamespace(
            key=row["name"].replace("aten.", "aten::"),
            cpu_time_total=row["duration_s"] * scale(row["name"]),
            device_time_total=0.0,
        )
        for row in estimate.by_op
    ]
    return SimpleNamespace(key_averages=lambda: rows)


def test_split_with_a_profile_that_agrees_changes_nothing(window: Any, estimate: bj.Estimate) -> None:
    plain = {row["name"]: row["energy_j"] for row in window.split(estimate)}
    profiled = window.split(estimate, profiler=events(estimate, lambda name: 7e6))
    assert {row["name"]: row["energy_j"] for row in profiled} == pytest.approx(plain)
    assert profiled[0]["source"] == "share by profiled time and estimated power of a measured total"


def test_split_gives_an_op_the_time_that_the_profile_saw(window: Any, estimate: bj.Estimate) -> None:
    plain = {row["name"]: row["energy_j"] for row in window.split(estimate, by="op")}
    slow = events(estimate, lambda name: 3.0 if name == "aten.relu" else 1.0)
    rows = {row["name"]: row["energy_j"] for row in window.split(estimate, by="op", profiler=slow)}
    assert rows["aten.relu"] / rows["aten.mm"] == pytest.approx(3 * plain["aten.relu"] / plain["aten.mm"])
    assert sum(rows.values()) == pytest.approx(120.0)


def test_split_takes_the_profilers_own_table(model: nn.Module, window: Any, estimate: bj.Estimate) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(16, 64)).mean().backward()
            optimizer.step()
    rows = {row["name"]: row["energy_j"] for row in window.split(estimate, by="op", profiler=profiler)}
    assert sum(rows.values()) == pytest.approx(120.0)
    assert min(rows.values()) >= 0
    plain = {row["name"]: row["energy_j"] for row in window.split(estimate, by="op")}
    assert set(rows) == set(plain)
    assert rows != pytest.approx(plain)


def test_split_refuses_what_it_cannot_divide_by(window: Any, estimate: bj.Estimate) -> None:
    with pytest.raises(UsageError, match="cannot split by 'layer'; give one of module, op"):
        window.split(estimate, by="layer")
    with pytest.raises(UsageError, match="names none of the estimate's ops"):
        window.split(estimate, profiler=SimpleNamespace(key_averages=list))
