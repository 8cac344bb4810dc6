"""Laws of the power limit: the clock found is the one where the power fits that is held, and the lowest where none does."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import budjoule as bj
from budjoule.energy.coefficients import INDEX
from budjoule.energy.power_limit import WINDOW_S, _soft_w, held, under_power_limit
from budjoule.energy.roofline import PARTS, Cost, Roofline, features
from budjoule.energy.workload import Workload


@pytest.fixture(scope="module")
def work() -> Workload:
    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(3)))
    return bj.trace(model, torch.randn(4096, 2048), precision="bf16")


@given(limit_frac=st.floats(0.2, 1.0), device=st.sampled_from(["a100-pcie-40gb", "raspberry-pi-5"]))
def test_power_at_the_clock_found_is_the_limit(work: Workload, limit_frac: float, device: str) -> None:
    profile = bj.load_profile(device)
    roofline = Roofline(features(work, profile.spec), profile, profile.settings)
    top_hz = np.full(len(profile.settings), profile.spec.clock_hz)
    free = roofline.at(top_hz)
    free_w = free.energy_j / free.duration_s
    limit_w = limit_frac * free_w
    clock_hz, cost = under_power_limit(roofline, top_hz, limit_w, locked=True)
    power_w = cost.energy_j / cost.duration_s
    lowest_hz = max(profile.spec.min_clock_hz, 0.1 * profile.spec.clock_hz)
    at_lowest = clock_hz <= lowest_hz * (1 + 1e-12)
    assert np.all(power_w[at_lowest] >= limit_w[at_lowest] * (1 - 1e-9))
    binding = ~at_lowest & (limit_frac < 0.998)
    np.testing.assert_allclose(power_w[binding], limit_w[binding], rtol=1e-8)


def test_limit_out_of_reach_changes_nothing(work: Workload) -> None:
    profile = bj.load_profile("a100-pcie-40gb")
    roofline = Roofline(features(work, profile.spec), profile, profile.settings[:1])
    top_hz = np.array([profile.spec.clock_hz])
    clock_hz, cost = under_power_limit(roofline, top_hz, np.array([1e4]))
    assert clock_hz == top_hz
    assert cost.energy_j == pytest.approx(roofline.at(top_hz).energy_j, rel=1e-12)


def test_power_never_jumps_as_the_limit_falls(work: Workload) -> None:
    profile = bj.load_profile("a100-pcie-40gb")
    roofline = Roofline(features(work, profile.spec), profile, profile.settings[:1])
    free = roofline.at(np.array([profile.spec.clock_hz]))
    free_w = free.energy_j[0] / free.duration_s[0]
    # from where none is felt to below the power at the lowest clock
    limit_w = np.geomspace(4 * free_w, 0.1 * free_w, 20_000)
    top_hz = np.full(limit_w.size, profile.spec.clock_hz)
    clock_hz, cost = under_power_limit(
        Roofline(features(work, profile.spec), profile, np.repeat(profile.settings[:1], limit_w.size, axis=0)),
        top_hz,
        limit_w,
    )
    fell = -np.diff(np.log(cost.energy_j / cost.duration_s))
    assert clock_hz[0] == profile.spec.clock_hz
    assert clock_hz[-1] == pytest.approx(profile.spec.min_clock_hz)
    assert fell.min() >= -1e-9
    assert fell.max() <= 1.05 * np.log(limit_w[0] / limit_w[1])


def test_ops_weighted_by_their_calls_add_up_to_the_step(work: Workload) -> None:
    for device in ("a100-pcie-40gb", "raspberry-pi-5"):
        profile = bj.load_profile(device)
        f = features(work, profile.spec)
        roofline = Roofline(f, profile, profile.settings)
        clock_hz = np.full(len(profile.settings), 0.8 * profile.spec.clock_hz)
        op_s, op_j = roofline.op_costs(clock_hz)
        step = roofline.at(clock_hz)
        own_host_s = step.duration_s - op_s @ f.calls  # calls of modules belong to no op
        assert np.all(own_host_s > -1e-12 * step.duration_s)
        floor_w = step.idle_energy_j / step.duration_s + roofline.host_w
        np.testing.assert_allclose(step.energy_j, op_j @ f.calls + floor_w * own_host_s, rtol=1e-9)


def test_power_of_the_memory_lasts_as_long_as_ops_stream_at_any_clock_of_a_gpu(work: Workload) -> None:
    def step(work: Workload, device: str, times: float, clock_frac: float) -> Cost:
        profile = bj.load_profile(device)
        settings = profile.settings[:1].copy()
        settings[:, INDEX["memory_frac"]] += np.log(times)
        roofline = Roofline(features(work, profile.spec), profile, settings)
        return roofline.at(np.array([clock_frac * profile.spec.clock_hz]))

    streams = bj.trace(nn.Sequential(*(nn.Tanh() for _ in range(3))), torch.randn(4096, 65536), precision="bf16")
    profile = bj.load_profile("a100-pcie-40gb")
    memory_w = np.exp(profile.settings[0, INDEX["memory_frac"]]) * profile.spec.power_limit_w
    for clock_frac in (0.5, 1.0):
        once, twice = (step(streams, "a100-pcie-40gb", times, clock_frac) for times in (1, 2))
        assert 0.9 * once.duration_s < (twice.energy_j - once.energy_j) / memory_w <= once.duration_s
        assert len({float(step(work, "a100-pcie-40gb", times, clock_frac).energy_j[0]) for times in (1, 2)}) == 1
    assert step(streams, "raspberry-pi-5", 2, 1.0).energy_j == step(streams, "raspberry-pi-5", 1, 1.0).energy_j


def test_power_of_busy_cores_is_that_of_products_on_a_gpu_and_of_all_on_a_cpu(work: Workload) -> None:
    streams = bj.trace(nn.Tanh(), torch.randn(4096, 65536))

    def added_j(work: Workload, device: str) -> float:
        profile = bj.load_profile(device)
        settings = np.repeat(profile.settings[:1], 2, axis=0)
        settings[1, INDEX["busy_frac"]] += 0.1
        roofline = Roofline(features(work, profile.spec), profile, settings)
        return float(np.diff(roofline.at(np.full(2, profile.spec.clock_hz)).energy_j)[0])

    assert added_j(work, "a100-pcie-40gb") > 0
    assert added_j(streams, "a100-pcie-40gb") == 0
    assert added_j(work, "raspberry-pi-5") > 0
    assert added_j(streams, "raspberry-pi-5") > 0


def swing_w(model: nn.Module, batch: int) -> tuple[float, float]:
    """What the governor sees above the mean power, and the step's time."""
    profile = bj.load_profile("a40-pcie-48gb")
    work = bj.trace(model, torch.empty(batch, 4096, device="meta"), precision="tf32")
    roofline = Roofline(features(work, profile.spec), profile, profile.settings[:1])
    top_hz = np.array([profile.spec.clock_hz])
    held_w, cost = held(roofline, top_hz)
    same = roofline.at(top_hz)
    assert (cost.energy_j, cost.duration_s) == (pytest.approx(same.energy_j), pytest.approx(same.duration_s))
    return float((held_w - cost.energy_j / cost.duration_s)[0]), float(cost.duration_s[0])


def test_governor_sees_swings_that_outlast_its_window_alone() -> None:
    products, streams = [nn.Linear(4096, 4096) for _ in range(16)], [nn.Tanh() for _ in range(128)]
    apart = nn.Sequential(*products, *streams)
    in_turns = nn.Sequential(*(m for i, p in enumerate(products) for m in (p, *streams[8 * i : 8 * i + 8])))
    long_w, long_s = swing_w(apart, 65536)
    short_w, short_s = swing_w(apart, 256)
    turns_w, turns_s = swing_w(in_turns, 65536)
    assert long_s == pytest.approx(turns_s)
    assert long_s > 5 * WINDOW_S
    assert short_s < 0.1 * WINDOW_S
    assert turns_w < 0.25 * long_w
    assert short_w < 0.1 * long_w
    alike_w, _ = swing_w(nn.Sequential(*products), 65536)
    assert alike_w < 0.02 * long_w


def test_swing_counts_each_part_of_a_step_for_as_long_as_it_lasts(work: Workload) -> None:
    """Two levels of power, the parts of one thrice as long: the root mean square is that of a step spent so."""

    class Two:
        profile = bj.load_profile("a40-pcie-48gb")

        def parts_at(self, clock_hz: np.ndarray) -> tuple[Cost, np.ndarray, np.ndarray]:
            long = np.arange(PARTS) < PARTS // 2
            part_s = np.where(long, 3.0, 1.0)[None] * 1e3  # so long that the window lets every harmonic through
            part_j = part_s * np.where(long, 100.0, 300.0)
            total = part_s.sum(axis=1), part_j.sum(axis=1)
            return Cost(duration_s=total[0], energy_j=total[1], idle_energy_j=0 * total[1]), part_s, part_j

    held_w, cost = held(Two(), np.array([1e9]))  # type: ignore[arg-type]
    mean_w = 0.75 * 100 + 0.25 * 300
    assert cost.energy_j / cost.duration_s == pytest.approx(mean_w)
    swing = (0.75 * (100 - mean_w) ** 2 + 0.25 * (300 - mean_w) ** 2) ** 0.5
    assert held_w - mean_w == pytest.approx(swing, rel=0.05)


def test_parts_of_a_step_hold_every_call_once(work: Workload) -> None:
    mixed = bj.trace(
        nn.Sequential(nn.Linear(64, 640), nn.ReLU(), nn.Linear(640, 8)), torch.randn(9, 64), mode="training"
    )
    for one in (work, mixed):
        f = features(one, bj.load_profile("a40-pcie-48gb").spec)
        np.testing.assert_allclose(f.parts.sum(axis=1), f.calls)
        assert np.all(f.parts >= 0)


@pytest.mark.parametrize(
    ("top_w", "limit_w", "left_w"),
    [
        (200.0, 500.0, 200.0),  # r = 0.22: nothing is felt below 0.4
        (200.0, 351.0, 200.0),
        (200.0, 200.0, 100.0 + 100.0 * (1 + 1 - 0.4**3) ** (-1 / 3)),
        (200.0, 150.0, 100.0 + 100.0 * (1 + 2**3 - 0.4**3) ** (-1 / 3)),
        (200.0, 101.0, 100.0 + 100.0 * (1 + 100**3 - 0.4**3) ** (-1 / 3)),
        (200.0, 90.0, 90.0),  # the lowest clock draws more: it is what is left, and the clock is found at its end
    ],
)
def test_a_governor_holds_softly_what_lies_above_the_lowest_clocks_power(
    top_w: float, limit_w: float, left_w: float
) -> None:
    found = _soft_w(np.array([top_w]), np.array([100.0]), np.array([limit_w]))
    assert found[0] == pytest.approx(left_w, rel=1e-12)


def test_no_limit_pushes_below_a_tenth_of_the_top_clock_where_the_spec_has_no_lowest(work: Workload) -> None:
    board = bj.load_profile("cpu-generic")
    spec = replace(board.spec, min_clock_hz=0.0)
    estimate = bj.predict(work, device=replace(board, spec=spec), power_limit_w=0.01)
    assert estimate.clock_hz == pytest.approx(0.1 * spec.clock_hz)


@pytest.mark.parametrize("device", ["v100-pcie-32gb", "a40-pcie-48gb", "a100-pcie-40gb", "raspberry-pi-4b"])
def test_a_lower_limit_is_never_quicker_and_never_draws_more(device: str) -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU())
    step = bj.trace(layer, torch.empty(64, 64, 56, 56), mode="training", optimizer="sgd")
    profile = bj.load_profile(device)
    limits = np.linspace(0.2, 1.0, 60) * profile.spec.power_limit_w
    found = [bj.predict(step, device=profile, power_limit_w=float(limit)) for limit in limits]
    times, powers = [e.duration_s for e in found], [e.power_w for e in found]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(times))
    assert all(later >= earlier * (1 - 1e-5) for earlier, later in itertools.pairwise(powers))
    assert times[0] > times[-1] or not found[0].power_limited
