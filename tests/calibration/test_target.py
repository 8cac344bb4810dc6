"""Laws of the target: a processor and a GPU each have their own counters, clocks and datasheet."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.observation import Observation
from budjoule.calibration.target import COPY_FRAC, COPY_NAME, target_for
from budjoule.calibration.this_gpu import Board


def test_gpu_profile_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(bj.BudjouleError, match="cpu-generic"):
        target_for(bj.load_profile("jetson-orin-nano"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU that PyTorch sees, with what NVML says of it."""
    answers = SimpleNamespace(domain="gpu-3", clock_hz=1.1e9, throttled=2)
    properties = SimpleNamespace(name="Example GPU", multi_processor_count=10, total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(Board, "domain", lambda board: answers.domain)
    monkeypatch.setattr(Board, "clock_hz", lambda board: answers.clock_hz)
    monkeypatch.setattr(Board, "throttle_count", lambda board: answers.throttled)
    monkeypatch.setattr(Board, "power_limit_w", lambda board: 90.0)
    monkeypatch.setattr(Board, "top_clock_hz", lambda board: 1.3e9)
    return answers


def test_a_gpus_joules_clock_and_heat_are_its_own(gpu: SimpleNamespace) -> None:
    target = target_for(bj.load_profile("a10-pcie-24gb"))
    assert target.meters == ("nvml",)
    assert target.conditions.domain == "gpu-3"
    assert target.conditions.clock_hz() == 1.1e9
    assert target.conditions.throttle_count() == 2
    assert target.synchronize is torch.cuda.synchronize
    assert target.cores == 80
    assert target.shortest_s >= 1.0  # its counter steps ten times a second


def test_without_nvmls_energy_a_boards_rail_is_read(gpu: SimpleNamespace) -> None:
    gpu.domain = ""
    target = target_for(bj.load_profile("jetson-orin-nano"))
    assert target.meters == ("hwmon",)
    assert target.conditions.domain == ""
    assert target.shortest_s == 0.0


def copied(energy_j: float | None = None) -> dict[str, Observation]:
    work = bj.trace(nn.ReLU(), torch.zeros(1 << 20))
    return {COPY_NAME: Observation(workload=work, duration_s=1e-3, energy_j=energy_j)}


def test_a_gpus_datasheet_is_nvmls_and_its_bandwidth_the_copys(gpu: SimpleNamespace) -> None:
    base = bj.load_profile("a10-pcie-24gb")
    observations = copied()
    machine = target_for(base).machine(base.spec, observations, 15.0)
    assert machine.spec.power_limit_w == 90.0
    assert machine.spec.clock_hz == 1.3e9
    assert machine.spec.idle_w == 15.0
    moved = observations[COPY_NAME].workload.moved_bytes
    assert machine.spec.dram_bytes_per_s == pytest.approx(moved / 1e-3 / COPY_FRAC)


def test_processor_is_calibrated_on_pytorchs_threads_without_a_gpus_joules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bj.load_profile("cpu-generic")
    target = target_for(base)
    assert target.cores == torch.get_num_threads()
    assert "nvml" not in target.meters
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    assert target.machine(base.spec, copied(energy_j=1.0), None).spec.power_limit_w == pytest.approx(1000.0)
