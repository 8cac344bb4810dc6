"""Laws of the target: a processor and a GPU each have their own counters, clocks and datasheet."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.calibrate import calibrate
from budjoule.calibration.microbenchmarks import SUITE, prepare
from budjoule.calibration.observation import Observation
from budjoule.calibration.target import COPY_FRAC, COPY_NAME, target_for
from budjoule.calibration.this_gpu import Board
from budjoule.energy.meters.meter import Domain


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


def test_a_full_gpu_is_one_line_with_the_remedy(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    target = replace(target_for(bj.load_profile("a10-pcie-24gb")), synchronize=lambda: None, meters=())
    prepared = replace(prepare(SUITE[0], cores=1, device="meta"), step=full)
    with pytest.raises(bj.BudjouleError, match=r"'tiny layers'.*nvidia-smi"):
        target.read(prepared, 1.0)


class GpuCounter:
    """NVML's two boards, the second of which draws 50 W and is the one that PyTorch uses."""

    name, source, method, notes = "nvml", "measured", "simulated boards", ()
    domains = (Domain(name="gpu-2", limit_w=1e6), Domain(name="gpu-3", limit_w=1e6))

    def read(self) -> list[float]:
        return [200 * time.perf_counter(), 50 * time.perf_counter()]

    def close(self) -> None:
        pass


def test_a_gpus_microbenchmarks_run_through_on_its_queue_and_its_boards_joules(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the processor in a GPU's place, so that only the kernels are not CUDA's."""
    waits: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    monkeypatch.setattr(Board, "processes", lambda board: 2)
    monkeypatch.setattr(Board, "driver", lambda board: "555.42")
    monkeypatch.setattr("budjoule.calibration.reading.IDLE_S", 0.01)
    seen = target_for(bj.load_profile("a10-pcie-24gb"))
    target = replace(seen, device="cpu", cores=1, meters=(GpuCounter(),), shortest_s=0.0)
    some = ("tiny ops", "big copy", "cache-sized copy", "large product")
    suite = [b for b in SUITE if b.name in some or b.held_out]
    made = calibrate(prior="a10-pcie-24gb", target=target, suite=suite, limit_s=0.06)
    assert {"cache-sized copy", "big copy"} < set(made.readings)
    assert len(waits) > 3 * len(made.readings)
    for reading in made.readings.values():
        assert reading.energy_j is not None
        assert 30.0 < reading.energy_j / reading.duration_s < 100.0  # the other board draws 200 W
        assert reading.clock_hz == 1.1e9
    assert made.profile.spec.kind == "gpu"
    assert made.profile.spec.idle_w == pytest.approx(50.0, rel=0.2)
    assert made.profile.provenance["driver"] == "555.42"
    assert made.load_model is None
    assert any("1 other processes have work on this GPU" in note for note in made.notes)


def test_processor_is_calibrated_on_pytorchs_threads_without_a_gpus_joules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bj.load_profile("cpu-generic")
    target = target_for(base)
    assert target.cores == torch.get_num_threads()
    assert "nvml" not in target.meters
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    assert target.machine(base.spec, copied(energy_j=1.0), None).spec.power_limit_w == pytest.approx(1100.0)
