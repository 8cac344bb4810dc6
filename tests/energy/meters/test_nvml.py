"""NVML through a fake module: energy counters, integrated power, several GPUs, GPUs that refuse."""

import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.nvml import open_nvml
from budjoule.energy.windows.watch import Watch


class NotSupportedError(Exception):
    """What NVML raises."""


class FakeNvml:
    """GPUs as dicts: `energy_mj` and `power_mw` where they answer, `name`, `mig`, `vgpu`; `lost` where there is no handle."""

    NVMLError = NotSupportedError
    NVML_GPU_VIRTUALIZATION_MODE_VGPU = 2

    def __init__(self, *gpus: dict[str, Any]) -> None:
        self.gpus, self.sessions = gpus, 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        if "lost" in self.gpus[index]:
            raise NotSupportedError("GPU is lost")
        return self.gpus[index]

    def __getattr__(self, name: str) -> Any:
        keys = {
            "nvmlDeviceGetName": "name",
            "nvmlDeviceGetTotalEnergyConsumption": "energy_mj",
            "nvmlDeviceGetPowerUsage": "power_mw",
            "nvmlDeviceGetMigMode": "mig",
            "nvmlDeviceGetVirtualizationMode": "vgpu",
        }
        if name not in keys:
            raise AttributeError(name)

        def ask(handle: dict[str, Any]) -> Any:
            if keys[name] not in handle:
                raise NotSupportedError("Not Supported")
            return handle[keys[name]]

        return ask


def test_nvml_reads_millijoules_of_every_gpu_as_joules() -> None:
    gpus = [{"name": "V100", "energy_mj": 10_000}, {"name": b"V100", "energy_mj": 77_000}]
    with bj.measure(meter=open_nvml(FakeNvml(*gpus))) as m:
        gpus[0]["energy_mj"] += 3_000
        gpus[1]["energy_mj"] += 500
    assert m.energy_j == pytest.approx(3.5)
    assert m.domains == {"gpu-0": pytest.approx(3.0), "gpu-1": pytest.approx(0.5)}
    assert m.source == "measured"
    assert m.energy_low_j < m.energy_j < m.energy_high_j


def test_nvml_integrates_power_where_there_is_no_energy_counter(clock: Any) -> None:
    gpu = {"name": "P100", "power_mw": 100_000}
    watch = Watch(open_nvml(FakeNvml(gpu)), clock=clock, attended=False)
    assert watch.poll_s is not None
    assert watch.poll_s <= 0.1
    begin = watch.begin()
    for power_w in (100, 200, 200, 0):
        clock.now_s, gpu["power_mw"] = clock.now_s + 1.0, power_w * 1000
        watch.poll()
    end = watch.end()
    assert end.marks[0].total_j - begin.marks[0].total_j == pytest.approx(100 + 150 + 200 + 100)


def test_nvml_gpu_that_stops_answering_leaves_the_other_measured() -> None:
    gpus = [{"name": "V100", "energy_mj": 10_000}, {"name": "V100", "energy_mj": 0}]
    window = bj.measure(meter=open_nvml(FakeNvml(*gpus))).begin()
    gpus[0]["energy_mj"] += 3_000
    gpus[1]["energy_mj"] += 1_000
    window.read()
    del gpus[1]["energy_mj"]
    gpus[0]["energy_mj"] += 1_000
    m = window.end()
    assert m.energy_j == pytest.approx(5.0)
    assert any("gpu-1 could not be read" in note for note in m.notes)


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ({"name": "GRID V100D", "vgpu": 2}, "virtual GPU"),
        ({"name": "GRID A100-10C", "vgpu": 2, "power_mw": 10_000}, "vGPU.* not supported"),
        ({"name": "GRID A100-10C", "vgpu": 2, "energy_mj": 10_000}, "vGPU.* not supported"),
        ({"name": "old"}, "neither energy nor power$"),
        ({"name": "old", "vgpu": 1, "mig": (0, 1)}, "neither energy nor power$"),
        ({"name": "NVIDIA A100-PCIE-40GB", "mig": (1, 1)}, "neither energy nor power; MIG is on"),
        ({"lost": True}, "gpu-[01] left out: .*GPU is lost.*nvidia-smi"),
    ],
)
def test_nvml_gpu_without_numbers_is_refused_with_the_reason(gpu: dict[str, Any], message: str) -> None:
    fake = FakeNvml(gpu)
    with pytest.raises(MeterError, match=message):
        open_nvml(fake)
    assert fake.sessions == 0
    meter = open_nvml(FakeNvml({"name": "V100", "energy_mj": 1}, gpu))
    assert [domain.name for domain in meter.domains] == ["gpu-0"]
    assert any(re.search(message, note) for note in meter.notes)


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        ("NVIDIA A100-PCIE-40GB", True),
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA GH200 480GB", True),
        ("NVIDIA RTX A1000", False),
        ("NVIDIA A10", False),
        ("Tesla V100-SXM2-16GB", False),
    ],
)
def test_nvml_says_which_sensors_look_a_part_of_the_time_and_of_no_other(name: str, noted: bool) -> None:
    meter = open_nvml(FakeNvml({"name": name, "energy_mj": 1}))
    assert [name in note and "part of the time" in note for note in meter.notes] == [True] * noted
    assert meter.domains[0].sampled_frac == (0.25 if noted else 1.0)


@pytest.mark.parametrize("mode", [(0, 0), (0, 1), (1, 1)])
def test_nvml_says_that_a_split_gpu_is_covered_as_a_whole_board(mode: tuple[int, int]) -> None:
    meter = open_nvml(FakeNvml({"name": "A30", "energy_mj": 1, "mig": mode}))
    assert [domain.name for domain in meter.domains] == ["gpu-0"]
    assert ["MIG" in note and "the board" in note for note in meter.notes] == [True] * mode[0]


def test_nvml_without_package_or_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="pip install nvidia-ml-py"):
        open_nvml()

    def refuse() -> None:
        raise NotSupportedError("Driver Not Loaded")

    with pytest.raises(MeterError, match=r"Driver Not Loaded.*nvidia-smi"):
        open_nvml(SimpleNamespace(NVMLError=NotSupportedError, nvmlInit=refuse))
    with pytest.raises(MeterError, match="finds no GPU"):
        open_nvml(FakeNvml())


def test_nvml_library_is_not_even_imported_where_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("budjoule.energy.meters.nvml._DEVICES", ("/dev/no-such-device",))
    with pytest.raises(MeterError, match=r"no NVIDIA driver \(none of /dev/no-such-device\)"):
        open_nvml()
    assert "pynvml" not in sys.modules


def test_nvml_session_is_opened_anew_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml({"name": "V100", "energy_mj": 5_000})
    meter = open_nvml(fake)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert meter.read() == [5.0]
    assert fake.sessions == 2
    assert meter.read() == [5.0]
    assert fake.sessions == 2
    meter.close()


def test_nvml_gpu_that_a_fork_loses_leaves_the_other_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus: list[dict[str, Any]] = [{"name": "V100", "energy_mj": 5_000}, {"name": "V100", "energy_mj": 7_000}]
    meter = open_nvml(FakeNvml(*gpus))
    gpus[1]["lost"] = True
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert meter.read() == [5.0, None]


def test_nvml_stands_beside_rapl_and_psys_is_shown_only(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "RTX", "energy_mj": 0}
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu))
    tree.zone("intel-rapl:0", "package-0", 0)
    tree.zone("intel-rapl:1", "psys", 0)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 2_000_000)
        tree.set("intel-rapl:1", 50_000_000)
        gpu["energy_mj"] = 30_000
    assert m.energy_j == pytest.approx(32.0)
    assert m.domains["psys"] == pytest.approx(50.0)
    assert m.summed == ("package-0", "gpu-0")


def test_nvml_alone_says_that_the_processor_is_not_in_the_total(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "RTX", "energy_mj": 0}
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu))
    with bj.measure() as m:
        gpu["energy_mj"] = 1_000
    assert (m.source, m.summed) == ("measured", ("gpu-0",))
    assert any("not in the total" in note for note in m.notes)
