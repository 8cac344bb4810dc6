"""Laws of the power limit: the clock found is the one where the mean power fits, and the lowest where none does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import budjoule as bj
from budjoule.energy.coefficients import INDEX
from budjoule.energy.power_limit import under_power_limit
from budjoule.energy.roofline import Cost, Roofline, features
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
    assert cost.energy_j == roofline.at(top_hz).energy_j


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


def test_power_of_the_memory_lasts_as_long_as_kernels_run_at_any_clock_of_a_gpu(work: Workload) -> None:
    def step(device: str, times: float, clock_frac: float) -> Cost:
        profile = bj.load_profile(device)
        settings = profile.settings[:1].copy()
        settings[:, INDEX["memory_frac"]] += np.log(times)
        roofline = Roofline(features(work, profile.spec), profile, settings)
        return roofline.at(np.array([clock_frac * profile.spec.clock_hz]))

    profile = bj.load_profile("a100-pcie-40gb")
    memory_w = np.exp(profile.settings[0, INDEX["memory_frac"]]) * profile.spec.power_limit_w
    for clock_frac in (0.5, 1.0):
        once, twice = (step("a100-pcie-40gb", times, clock_frac) for times in (1, 2))
        assert 0.5 * once.duration_s < (twice.energy_j - once.energy_j) / memory_w <= once.duration_s
    assert step("raspberry-pi-5", 2, 1.0).energy_j == step("raspberry-pi-5", 1, 1.0).energy_j
