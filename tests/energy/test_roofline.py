"""The equations of time and energy, worked out by hand for one op at a time."""

from typing import Any

import numpy as np
import pytest

import budjoule as bj
from budjoule.energy.device import DeviceProfile
from budjoule.energy.roofline import Roofline, features
from budjoule.energy.workload import OpCost, Workload

GPU = bj.load_profile("a100-pcie-40gb")
SPEC = GPU.spec
C = GPU.coef_


def cost(op: OpCost, clock_hz: float, profile: DeviceProfile = GPU) -> tuple[float, float]:
    """Time and energy of a step of one op. [s], [J]"""
    work = Workload(model="op", mode="inference", precision="fp32", optimizer=None, ops=(op,))
    found = Roofline(features(work, profile.spec), profile, profile.log_mean[None]).at(np.array([clock_hz]))
    return float(found.duration_s[0]), float(found.energy_j[0])


def op(**rest: Any) -> OpCost:
    return OpCost(**{"name": "op", "kind": "elementwise", "precision": "fp32", "launches": 4} | rest)


def floor(clock_hz: float, duration_s: float) -> float:
    """Joules of waiting so long. [J]"""
    idle_w = C["idle_frac"] * float(GPU.idle_w(clock_hz))
    return (idle_w + C["host_frac"] * SPEC.power_limit_w) * duration_s


def dynamic(clock_hz: float) -> float:
    """What voltage and leakage multiply joules of maths by."""
    leak = 1 + C["leak_frac"] * max(clock_hz / SPEC.clock_hz - 0.6, 0) / 0.4
    return float(GPU.voltage_ratio(clock_hz)) ** 2 * leak


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_an_elementwise_op_by_hand(share: float) -> None:
    clock_hz = share * SPEC.clock_hz
    elements, heavy, moved = 4_000_000, 1_000_000, 32_000_000
    lanes = SPEC.units * SPEC.lanes
    math_s = ((elements - heavy) * C["cycles_light"] + heavy * C["cycles_heavy"]) / (lanes * clock_hz)
    miss = moved**2 / (moved**2 + (C["cache_frac"] * SPEC.cache_bytes) ** 2)
    dram_s = miss * moved / (SPEC.dram_bytes_per_s * C["eff_dram"])
    device_s = (math_s**6 + dram_s**6) ** (1 / 6) + 4 * C["t_kernel_s"] / share
    host_s = 4 * C["t_launch_s"]
    duration_s = (device_s**8 + host_s**8) ** (1 / 8)
    math_j = (elements - heavy) * C["e_light_j"] + heavy * C["e_heavy_j"]
    energy_j = (
        floor(clock_hz, duration_s)
        + dynamic(clock_hz) * math_j
        + C["memory_frac"] * SPEC.power_limit_w * miss * device_s
        + C["e_dram_j"] * miss * moved
    )
    counted = op(elements=elements, heavy_elements=heavy, activation_bytes=moved)
    assert cost(counted, clock_hz) == pytest.approx((duration_s, energy_j), rel=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_product_by_hand(share: float, zeros: bool) -> None:
    """A tile of 128 x 128 for each of the 108 units: they are full, but for the tile's own efficiency."""
    clock_hz = share * SPEC.clock_hz
    m, n, k, weights = 128 * 108, 128, 4096, 128 * 4096 * 2
    flop = 2 * m * n * k
    counted = op(
        kind="matmul", precision="bf16", flop=flop, product=(1, m, n, k), weight_bytes=weights, zeros=zeros, launches=1
    )
    f = features(Workload(model="op", mode="inference", precision="bf16", optimizer=None, ops=(counted,)), SPEC)
    excess = float(f.filled_clocks[0]) * SPEC.units * 2048 / flop
    assert 1 <= excess < 1.3
    started = 1 + C["k_start"] / k
    math_s = float(f.filled_clocks[0]) * started / (C["eff_tensor"] * clock_hz)
    dram_s = weights / (SPEC.dram_bytes_per_s * C["eff_dram"])
    device_s = (math_s**1.3 + dram_s**1.3) ** (1 / 1.3) + C["t_kernel_s"] / share
    host_s = C["t_launch_s"] + C["t_product_s"]
    duration_s = (device_s**8 + host_s**8) ** (1 / 8)
    busy_w = C["busy_frac"] * SPEC.power_limit_w * share
    math_j = C["e_tensor_j"] * flop * started * (C["zeros_frac"] if zeros else 1.0)
    energy_j = floor(clock_hz, duration_s) + dynamic(clock_hz) * (math_j + busy_w * device_s) + C["e_dram_j"] * weights
    assert cost(counted, clock_hz) == pytest.approx((duration_s, energy_j), rel=1e-9)


def test_weights_come_from_memory_and_small_activations_from_the_cache() -> None:
    cached, stored = op(activation_bytes=10**4, elements=1), op(weight_bytes=10**4, elements=1)
    assert cost(cached, SPEC.clock_hz)[1] < cost(stored, SPEC.clock_hz)[1]
