"""AMD's library through a fake module: energy counters, several GPUs, two dies a board, GPUs and libraries that refuse."""

import sys
from types import ModuleType
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.amd import open_amd

COUNT_UJ = 15.259


class AmdSmiException(Exception):  # noqa: N818 - the library's name
    """What amdsmi raises."""


class FakeAmdSmi(ModuleType):
    """GPUs as dicts: `ticks` where it has a counter, `name`, `key` for libraries before ROCm 6.2."""

    AmdSmiException = AmdSmiException

    def __init__(self, *gpus: dict[str, Any]) -> None:
        super().__init__("amdsmi")
        self.gpus, self.sessions = gpus, 0

    def amdsmi_init(self) -> None:
        self.sessions += 1

    def amdsmi_shut_down(self) -> None:
        self.sessions -= 1

    def amdsmi_get_processor_handles(self) -> list[dict[str, Any]]:
        return list(self.gpus)

    def amdsmi_get_gpu_asic_info(self, handle: dict[str, Any]) -> dict[str, Any]:
        if "name" not in handle:
            raise AmdSmiException("not supported")
        return {"market_name": handle["name"]}

    def amdsmi_get_energy_count(self, handle: dict[str, Any]) -> dict[str, Any]:
        if "ticks" not in handle:
            raise AmdSmiException("not supported")
        return {
            handle.get("key", "energy_accumulator"): handle["ticks"],
            "counter_resolution": COUNT_UJ,
            "timestamp": 1,
        }


@pytest.mark.parametrize("key", ["energy_accumulator", "power"])
def test_amd_reads_counts_of_every_gpu_as_joules(key: str) -> None:
    gpus = [{"name": "AMD Instinct MI300X", "ticks": 10**9, "key": key} for _ in range(2)]
    with bj.measure(meter=open_amd(FakeAmdSmi(*gpus))) as m:
        gpus[0]["ticks"] = 10**9 + 3_000_000
        gpus[1]["ticks"] = 10**9 + 1_000_000
    assert m.domains == {"amd-gpu-0": pytest.approx(3 * COUNT_UJ), "amd-gpu-1": pytest.approx(COUNT_UJ)}
    assert m.energy_j == pytest.approx(4 * COUNT_UJ)
    assert (m.source, m.summed) == ("measured", ("amd-gpu-0", "amd-gpu-1"))
    assert m.energy_low_j < m.energy_j < m.energy_high_j


def test_amd_second_die_of_a_board_is_not_counted_again() -> None:
    dies = [{"name": "AMD Instinct MI250X", "ticks": 5} for _ in range(4)]
    meter = open_amd(FakeAmdSmi(*dies))
    assert [domain.name for domain in meter.domains] == ["amd-gpu-0", "amd-gpu-2"]
    assert any("its energy is in amd-gpu-2" in note for note in meter.notes)


@pytest.mark.parametrize("gpu", [{"name": "AMD Radeon 780M"}, {"ticks": 0}])
def test_amd_gpu_without_a_counter_is_left_out_with_the_reason(gpu: dict[str, Any]) -> None:
    fake = FakeAmdSmi(gpu)
    with pytest.raises(MeterError, match="no energy counter"):
        open_amd(fake)
    assert fake.sessions == 0
    meter = open_amd(FakeAmdSmi({"name": "AMD Radeon RX 7900 XT", "ticks": 1}, gpu))
    assert [domain.name for domain in meter.domains] == ["amd-gpu-0"]
    assert "amd-gpu-1" in meter.notes[0]


def test_amd_gpu_that_stops_answering_is_a_lower_bound() -> None:
    gpu: dict[str, Any] = {"name": "AMD Instinct MI210", "ticks": 1_000_000}
    window = bj.measure(meter=open_amd(FakeAmdSmi(gpu))).begin()
    gpu["ticks"] = 2_000_000
    window.read()
    del gpu["ticks"]
    m = window.end()
    assert m.energy_j == pytest.approx(COUNT_UJ)
    assert any("could not be read any more" in note for note in m.notes)


def test_amd_without_driver_package_or_gpu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr("budjoule.energy.meters.amd._DRIVER", "/no/such/module")
    with pytest.raises(MeterError, match=r"no AMD GPU driver \(/no/such/module\)"):
        open_amd()
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(MeterError, match="pip install amdsmi"):
        open_amd()
    with pytest.raises(MeterError, match="finds no GPU"):
        open_amd(FakeAmdSmi())


def test_amd_library_that_does_not_fit_is_refused_quietly(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "amdsmi.py").write_text("print('libamd_smi.so not found')\nraise KeyError('AMDSMI')\n")
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr("budjoule.energy.meters.amd._DRIVER", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MeterError, match=r"does not load \('AMDSMI'\)"):
        open_amd()
    assert capsys.readouterr().out == ""


def test_amd_stands_beside_rapl(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu: dict[str, Any] = {"name": "AMD Instinct MI210", "ticks": 1_000_000}
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi(gpu))
    tree.zone("intel-rapl:0", "package-0", 0)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 2_000_000)
        gpu["ticks"] = 2_000_000
    assert m.energy_j == pytest.approx(2.0 + COUNT_UJ)
    assert m.summed == ("package-0", "amd-gpu-0")
