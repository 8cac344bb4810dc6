"""Apple silicon through a fake of zeus-apple-silicon: its counters, its absent ones, machines that are none."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.apple import open_apple

FIELDS = ("cpu_total_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj")


def library(metrics: SimpleNamespace) -> Any:
    return SimpleNamespace(AppleEnergyMonitor=lambda: SimpleNamespace(get_cumulative_energy=lambda: metrics))


def test_apple_adds_processor_gpu_engine_and_memory_and_shows_the_sram() -> None:
    metrics = SimpleNamespace(**dict.fromkeys(FIELDS, 1_000))
    with bj.measure(meter=open_apple(library(metrics))) as m:
        metrics.cpu_total_mj, metrics.gpu_mj, metrics.ane_mj = 5_000, 3_000, 1_500
        metrics.dram_mj, metrics.gpu_sram_mj = 1_250, 1_100
    assert m.energy_j == pytest.approx(4.0 + 2.0 + 0.5 + 0.25)
    assert m.summed == ("cpu", "gpu", "ane", "dram")
    assert m.domains["gpu-sram"] == pytest.approx(0.1)
    assert m.energy_high_j >= 1.2 * m.energy_j
    assert any("models" in note for note in m.notes)


def test_apple_counter_that_a_chip_lacks_is_no_zero() -> None:
    metrics = SimpleNamespace(**dict.fromkeys(FIELDS) | {"cpu_total_mj": 1_000})
    assert [domain.name for domain in open_apple(library(metrics)).domains] == ["cpu"]


def test_apple_without_a_counter_that_counts_is_refused() -> None:
    metrics = SimpleNamespace(**dict.fromkeys(FIELDS) | {"gpu_sram_mj": 1_000})
    with pytest.raises(MeterError, match="newer version"):
        open_apple(library(metrics))


def test_apple_on_another_machine_or_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(MeterError, match="not a Mac"):
        open_apple()
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    with pytest.raises(MeterError, match=r"pip install 'budjoule\[apple\]'"):
        open_apple()

    def intel() -> Any:
        raise RuntimeError("Failed to create IOReport subscription")

    with pytest.raises(MeterError, match="IOReport subscription"):
        open_apple(SimpleNamespace(AppleEnergyMonitor=intel))
