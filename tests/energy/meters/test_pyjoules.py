"""pyJoules and us: its handlers on our measurements, its devices as our meters, and its faults beside our numbers."""

import gc
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters.pyjoules import PyJoulesMeter, to_trace
from budjoule.energy.meters.rapl import open_rapl
from budjoule.energy.windows.watch import Watch

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # pyJoules leaks one file a reading


def measurement(label: str, **domains: float) -> Measurement:
    named = {name.replace("_", "-"): energy_j for name, energy_j in domains.items()}
    total_j = sum(named.values())
    return Measurement(
        energy_j=total_j, energy_low_j=total_j, energy_high_j=total_j, duration_s=2.0, domains=named, source="measured", method="test", label=label, begin_unix_s=1.7e9
    )  # fmt: skip


@pytest.fixture
def rapl_device(tree: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from pyJoules.device import rapl_device

    monkeypatch.setattr(rapl_device, "RAPL_API_DIR", str(tree.root / "class" / "powercap" / "intel-rapl"))
    return rapl_device.RaplDevice


def test_trace_of_measurements_has_their_tags_times_and_microjoules() -> None:
    trace = to_trace([measurement("a", package_0=1.5, gpu_0=2.0), measurement("b", package_0=0.5, gpu_0=1.0)])
    assert [sample.tag for sample in trace] == ["a", "b"]
    assert trace["a"].energy == {"package_0": pytest.approx(1.5e6), "nvidia_gpu_0": pytest.approx(2e6)}
    assert (trace["b"].duration, trace["b"].timestamp) == (2.0, 1.7e9)


def test_trace_goes_through_the_handlers_of_pyjoules(tmp_path: Path) -> None:
    from pyJoules.handler.csv_handler import CSVHandler

    handler = CSVHandler(str(tmp_path / "trace.csv"))
    handler.process(to_trace([measurement("a", package_0=1.0), measurement("b", package_0=2.0)]))
    handler.save_data()
    assert (tmp_path / "trace.csv").read_text().splitlines() == [
        "timestamp;tag;duration;package_0",
        "1700000000.0;a;2.0;1000000.0",
        "1700000000.0;b;2.0;2000000.0",
    ]


def test_window_knows_when_it_began_for_the_trace() -> None:
    with bj.measure("now") as m:
        pass
    assert to_trace([m.measurement])[0].timestamp > 1.6e9


def test_device_of_pyjoules_is_a_meter(tree: Any, rapl_device: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 1_000_000, nested=True)
    folder = tree.zone("intel-rapl:0:0", "core", 0, nested=True)
    with bj.measure(meter=PyJoulesMeter(rapl_device())) as m:
        (folder.parent / "energy_uj").write_text("6000000\n")
        (folder / "energy_uj").write_text("2000000\n")
    assert m.energy_j == pytest.approx(5.0)
    assert m.domains == {"package-0": pytest.approx(5.0), "core-0": pytest.approx(2.0)}
    assert m.summed == ("package-0",)


def test_wrap_reads_minus_262_kj_in_pyjoules_and_right_in_ours(tree: Any, rapl_device: Any) -> None:
    from pyJoules.energy_meter import EnergyMeter

    folder = tree.zone("intel-rapl:0", "package-0", 262_143_328_850 - 1_000_000, nested=True)
    device = rapl_device()
    device.configure()
    theirs = EnergyMeter([device])
    theirs.start("work")
    with bj.measure() as ours, bj.measure(meter=PyJoulesMeter(device)) as mended:
        (folder / "energy_uj").write_text("2000000\n")
    theirs.stop()
    assert theirs.get_trace()["work"].energy["package_0"] * 1e-6 < -262_000
    assert ours.energy_j == pytest.approx(3.0)
    assert mended.energy_j == pytest.approx(3.0)


def test_dies_and_packages_behind_psys_are_missed_by_pyjoules_and_found_by_ours(tree: Any, rapl_device: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 0, nested=True)
    tree.zone("intel-rapl:1", "psys", 0, nested=True)
    tree.zone("intel-rapl:2", "package-1-die-0", 0, nested=True)
    assert rapl_device.available_domains() == []
    ours = open_rapl(tree.root)
    assert {domain.name for domain in ours.domains} == {"package-0-die-0", "package-1-die-0", "psys"}
    ours.close()


def test_file_handles_leak_a_reading_in_pyjoules_and_not_in_ours(tree: Any, rapl_device: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 0, nested=True)
    device = rapl_device()
    device.configure()
    ours, opened = Watch(open_rapl(tree.root), attended=False), []
    hook = opened.append
    sys.addaudithook(lambda event, arguments: hook(arguments[0]) if event == "open" and hook is not None else None)
    device.get_energy()
    device.get_energy()
    leaked = len([path for path in opened if str(path).endswith("energy_uj")])
    opened.clear()
    ours.begin()
    ours.end()
    hook = None  # type: ignore[assignment]  # an audit hook cannot be taken back
    assert leaked == 2
    assert opened == []
    gc.collect()


def test_millijoules_of_nvml_are_taken_for_microjoules_by_pyjoules_and_not_by_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace

    counter = {"mj": 1_000}
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counter["mj"],
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    from pyJoules.energy_meter import EnergyMeter

    sys.modules.pop("pyJoules.device.nvidia_device", None)
    nvidia_device = importlib.import_module("pyJoules.device.nvidia_device")
    device = nvidia_device.NvidiaGPUDevice()
    device.configure()
    theirs = EnergyMeter([device])
    theirs.start("work")
    with bj.measure(meter="nvml") as ours, bj.measure(meter=PyJoulesMeter(device)) as mended:
        counter["mj"] += 5_000
    theirs.stop()
    assert theirs.get_trace()["work"].energy["nvidia_gpu_0"] * 1e-6 == pytest.approx(0.005)  # a thousandth
    assert ours.energy_j == pytest.approx(5.0)
    assert mended.energy_j == pytest.approx(5.0)
    monkeypatch.delitem(sys.modules, "pyJoules.device.nvidia_device")


def test_device_of_a_users_own_is_read_in_its_unit() -> None:
    from pyJoules.device import Device

    class Rail(Device):  # type: ignore[misc]
        value = 0.0

        @staticmethod
        def available_domains() -> list[str]:
            return ["rail"]

        def get_energy(self) -> list[float]:
            return [self.value]

    device = Rail()
    with bj.measure(meter=PyJoulesMeter(device, unit_j=1e-3)) as m:
        device.value = 2500.0
    assert m.domains == {"rail": pytest.approx(2.5)}


def test_device_without_domains_is_refused(tree: Any, rapl_device: Any) -> None:
    tree.zone("intel-rapl:0", "psys", 0, nested=True)
    with pytest.raises(MeterError, match="no domain"):
        PyJoulesMeter(rapl_device())
