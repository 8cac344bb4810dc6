"""Laws of the load model's calibration: it is the counter's, at the loads that were really there, and nothing without a counter."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from budjoule.calibration.load_levels import SPREAD_FRAC, fit_load
from budjoule.calibration.target import Target
from budjoule.energy.meters.load import Processor
from budjoule.energy.meters.load_model import LoadSample
from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.watch import Watch

THREADS, IDLE_W, BUSY_W = 4, 6.0, 30.0


class Machine(Processor):
    """Four threads, their clock and a counter that they drive, on a time of its own."""

    name, source, method, notes = "simulated", "measured", "simulated counter", ()
    domains = (Domain(name="package-0", limit_w=1e12),)

    def __init__(self) -> None:
        self.threads = THREADS
        self.now_s = self.busy = self.energy_j = 0.0

    def busy_s(self) -> tuple[float, float]:
        return self.busy, THREADS * self.now_s

    def clock_hz(self) -> float | None:
        return None

    def read(self) -> list[float]:
        return [self.energy_j]

    def close(self) -> None:
        pass

    def spend(self, duration_s: float, load_frac: float) -> None:
        self.now_s += duration_s
        self.busy += duration_s * THREADS * load_frac
        self.energy_j += duration_s * (IDLE_W + BUSY_W * load_frac)

    def work(self) -> None:
        self.spend(0.01, torch.get_num_threads() / THREADS)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    clocked = partial(Watch, clock=lambda: made.now_s, attended=False)
    monkeypatch.setattr("budjoule.energy.windows.choose.Watch", clocked)
    monkeypatch.setattr("budjoule.calibration.load_levels.prepare", lambda *_, **__: SimpleNamespace(step=made.work))
    return made


def test_power_at_each_load_is_the_counters(machine: Machine) -> None:
    before = torch.get_num_threads()
    target = Target(kind="cpu", device="meta", cores=THREADS, meters=[machine])
    model = fit_load(
        target,
        limit_s=10.0,
        processor=machine,
        sleep=lambda duration_s: machine.spend(duration_s, 0.0),
        clock=lambda: machine.now_s,
    )
    assert torch.get_num_threads() == before
    assert model is not None
    for load_frac in (0.0, 0.25, 0.5, 1.0):
        assert model.power_w(load_frac) == pytest.approx(IDLE_W + BUSY_W * load_frac, rel=0.15)
    assert "calibration" in model.basis


def test_a_machine_as_busy_at_rest_as_at_work_has_no_load_model(machine: Machine) -> None:
    machine.work = lambda: machine.spend(0.01, 1.0)  # type: ignore[method-assign]
    model = fit_load(
        Target(kind="cpu", device="meta", cores=THREADS, meters=[machine]),
        limit_s=10.0,
        processor=machine,
        sleep=lambda duration_s: machine.spend(duration_s, 1.0),
        clock=lambda: machine.now_s,
    )
    assert model is None


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_without_a_counter_or_a_processor_there_is_no_load_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    assert fit_load(Target(kind=kind, device="cpu", cores=2, meters=("rapl",)), limit_s=1.0) is None


def test_threads_work_for_a_share_of_the_time_at_the_spread_level(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: list[LoadSample] = []
    monkeypatch.setattr("budjoule.calibration.load_levels.fit_load_model", samples.extend)
    fit_load(
        Target(kind="cpu", device="meta", cores=THREADS, meters=[machine]),
        limit_s=10.0,
        processor=machine,
        sleep=lambda duration_s: machine.spend(duration_s, 0.0),
        clock=lambda: machine.now_s,
    )
    assert [sample.load_frac for sample in samples] == pytest.approx([0.0, 0.25, 0.5, 1.0, SPREAD_FRAC], abs=0.02)
