"""Laws of sweeping: one trace a shape, every setting as `predict` gives it, the frontier undominated, the best on it."""

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import budjoule as bj
from budjoule.energy.model_spec import parse_inputs
from budjoule.energy.whatif.grid import FEW, predict_clocks
from budjoule.energy.whatif.sweep import Sweep, parse_axes, sweep
from budjoule.energy.workload import Workload


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    with torch.device("meta"):
        return torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 8))


@pytest.fixture(scope="module")
def works(net: torch.nn.Module) -> dict[int | None, Workload]:
    return {
        batch: bj.trace(net, parse_inputs("4x256", batch=batch), mode="training", optimizer="sgd")
        for batch in (None, 1, 4, 64)
    }


def made(works: dict[int | None, Workload], *axes: str, devices: tuple[str, ...] = ("cpu-generic",)) -> Sweep:
    return sweep(lambda batch: works[batch], [bj.load_profile(name) for name in devices], parse_axes(axes))


def test_every_setting_is_what_predict_gives_there(works: dict[int | None, Workload]) -> None:
    found = made(works, "batch=1,4,64", "clock-mhz=1800..3600:600", devices=("cpu-generic", "raspberry-pi-5"))
    assert {(p.estimate.device, p.batch, p.wanted_clock_hz) for p in found.points} == {
        *product(["cpu-generic"], (1, 4, 64), (1.8e9, 2.4e9, 3.0e9, 3.6e9)),
        *product(["raspberry-pi-5"], (1, 4, 64), (1.8e9, 2.4e9)),
    }
    for point in found.points:
        alone = bj.predict(works[point.batch], device=point.estimate.device, clock_hz=point.wanted_clock_hz)
        assert (point.estimate.energy_j, point.estimate.duration_s) == (alone.energy_j, alone.duration_s)
        assert point.example_energy_j * point.batch == pytest.approx(alone.energy_j)
    assert any("raspberry-pi-5: clocks outside" in note for note in found.notes)


@pytest.mark.parametrize("device", ["a100-pcie-40gb", "raspberry-pi-5"])
@pytest.mark.parametrize("limit_frac", [1.0, 0.6])
def test_many_clocks_are_what_predict_gives_at_each(
    works: dict[int | None, Workload], device: str, limit_frac: float
) -> None:
    profile = bj.load_profile(device)
    work, limit_w = works[64], limit_frac * profile.spec.power_limit_w
    clocks_hz = [profile.spec.clock_hz * (0.65 + 0.35 * i / 40) for i in (40, *range(40))]
    found = predict_clocks(work, profile, clocks_hz, limit_w)
    assert len(found) == len(clocks_hz) > FEW
    assert any(e.power_limited for e in found) == (device == "raspberry-pi-5" and limit_frac < 1)
    for clock_hz, many in zip(clocks_hz, found, strict=True):
        alone = bj.predict(work, device=profile, clock_hz=clock_hz, power_limit_w=limit_w)
        for name in ("energy_j", "duration_s", "idle_energy_j", "clock_hz"):
            assert getattr(many, name) == pytest.approx(getattr(alone, name), rel=1e-6)
        for name in ("energy_low_j", "energy_high_j", "duration_low_s", "duration_high_s"):
            assert getattr(many, name) == pytest.approx(getattr(alone, name), rel=0.01)
        assert many.power_limited == alone.power_limited
        assert [row["energy_j"] for row in many.by_op] == pytest.approx([row["energy_j"] for row in alone.by_op])
        assert sum(row["duration_s"] for row in many.by_module) == pytest.approx(alone.duration_s)


def test_each_shape_is_traced_once(works: dict[int | None, Workload]) -> None:
    asked: list[int | None] = []

    def work_of(batch: int | None) -> Workload:
        asked.append(batch)
        return works[batch]

    profiles = [bj.load_profile(name) for name in ("cpu-generic", "raspberry-pi-5")]
    sweep(work_of, profiles, parse_axes(["batch=1,64", "clock-mhz=1500..2400:300"]))
    assert asked == [1, 64]
    asked.clear()
    sweep(work_of, profiles, parse_axes(["clock-mhz=1500..2400:300"]))
    assert asked == [None]


def test_frontier_is_undominated_and_dominates_the_rest(works: dict[int | None, Workload]) -> None:
    found = made(works, "batch=1,4,64", "clock-mhz=900..3600:300", "power-limit-w=30..65:5")
    for device in found.devices:
        frontier = found.frontier(device)
        energies = [p.example_energy_j for p in frontier]
        assert energies == sorted(energies, reverse=True)
        assert len(set(energies)) == len(energies)
        for point in found.of(device):
            better = [
                p
                for p in frontier
                if p.example_energy_j <= point.example_energy_j and p.example_duration_s <= point.example_duration_s
            ]
            assert better
            assert (point in better) if point.efficient else (point not in better)


def test_best_settings_are_the_least_and_efficient(works: dict[int | None, Workload]) -> None:
    found = made(works, "batch=1,4,64", "clock-mhz=900..3600:300")
    best = found.best("cpu-generic")
    assert best["energy"].example_energy_j == min(p.example_energy_j for p in found.points)
    assert best["energy_delay"].energy_delay == min(p.energy_delay for p in found.points)
    assert best["energy"].efficient
    assert best["energy_delay"].efficient
    document = found.to_dict()
    for name, index in document["best"]["cpu-generic"].items():
        assert document["points"][index]["example_energy_j"] == best[name].example_energy_j


def test_lower_limit_never_draws_more_power_and_never_is_quicker(works: dict[int | None, Workload]) -> None:
    found = made(works, "power-limit-w=25..65:5")
    powers = [p.estimate.power_w for p in found.points]
    times = [p.estimate.duration_s for p in found.points]
    assert powers == sorted(powers)
    assert times == sorted(times, reverse=True)
    for point in found.points:
        assert point.power_limit_w is not None
        assert point.estimate.power_w <= 1.02 * point.power_limit_w


def test_settings_that_no_device_has_are_said(works: dict[int | None, Workload]) -> None:
    with pytest.raises(bj.BudjouleError, match="no setting"):
        made(works, "clock-mhz=9000,9900")
    with pytest.raises(bj.BudjouleError, match="settings"):
        made(works, "clock-mhz=1000..3000:2.5", "power-limit-w=20..65:0.05")
    assert len(made(works, "clock-mhz=3600,3700").points) == 1  # a model may extrapolate, a processor has no such clock
    found = made(works, "power-limit-w=0.5,60,700")
    assert [p.power_limit_w for p in found.points] == [60.0]
    assert any("above its own 65 W" in note for note in found.notes)
    assert any("lowest clock" in note for note in found.notes)


@given(low=st.integers(1, 500), steps=st.integers(0, 40), step=st.integers(1, 90))
@settings(max_examples=50, deadline=None)
def test_range_holds_both_ends_and_even_steps(low: int, steps: int, step: int) -> None:
    high = low + steps * step
    values = parse_axes([f"clock-mhz={low}..{high}:{step}"])["clock-mhz"]
    assert values == tuple(float(low + i * step) for i in range(steps + 1))


@given(low=st.integers(1, 50), factor=st.floats(1, 900))
@settings(max_examples=50, deadline=None)
def test_range_without_a_step_doubles_as_far_as_it_goes(low: int, factor: float) -> None:
    high = math.floor(low * factor)
    values = parse_axes([f"batch={low}..{high}"])["batch"]
    assert values[0] == low
    assert all(b == 2 * a for a, b in pairwise(values))
    assert values[-1] <= high < 2 * values[-1]


@pytest.mark.parametrize(
    "text",
    [
        "batch", "size=3", "batch=", "batch=a", "batch=1..", "batch=4..2", "batch=0", "batch=0..4:2", "batch=1.5",
        "clock-mhz=1..2:0", "clock-mhz=1..999999:1", "batch=-3", "clock-mhz=nan", "batch=1;2",
    ],
)  # fmt: skip
def test_axis_that_cannot_be_read_is_a_clear_error(text: str) -> None:
    with pytest.raises(bj.BudjouleError, match=r"sweep|batch|range"):
        parse_axes([text])


def test_axis_given_twice_is_an_error() -> None:
    with pytest.raises(bj.BudjouleError, match="twice"):
        parse_axes(["batch=1", "batch=2"])


def test_batches_that_do_not_fit_are_marked_and_never_best(works: dict[int | None, Workload]) -> None:
    profile = bj.load_profile("cpu-generic")
    room = works[4].peak_memory_bytes
    assert works[1].peak_memory_bytes < room < works[64].peak_memory_bytes
    small = replace(profile, spec=replace(profile.spec, memory_bytes=float(room)))
    axes = parse_axes(["batch=1,4,64", "power-limit-w=40,65"])
    found = sweep(lambda batch: works[batch], [small], axes)
    assert {point.batch: point.fits for point in found.points} == {1: True, 4: True, 64: False}
    assert all(point.fits for point in (*found.frontier(small.name), *found.best(small.name).values()))
    assert any("batch 64" in note for note in found.notes)
    none = sweep(lambda batch: works[batch], [replace(small, spec=replace(small.spec, memory_bytes=1.0))], axes)
    assert none.best(small.name)["energy"].batch == 64  # nothing fits, and the notes say so
    assert any("batch 1, 4, 64" in note for note in none.notes)
