"""The proof without hardware: a machine of known coefficients, whose powercap counter steps, is quantised and wraps, is recovered."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.calibrate import Calibration, calibrate
from budjoule.calibration.microbenchmarks import Prepared
from budjoule.calibration.prior import prior_for
from budjoule.calibration.reading import Reading, read_step
from budjoule.calibration.target import Target
from budjoule.calibration.this_machine import ThisMachine
from budjoule.energy.coefficients import INDEX, NAMES
from budjoule.energy.device import DeviceProfile
from budjoule.energy.meters.load import Processor
from budjoule.energy.windows.watch import Watch
from budjoule.energy.workload import Workload

UNIT_J, UPDATE_S, RANGE_J = 2.0**-14, 1e-3, 262.0
WRAPS_AFTER_J = 1.0  # more than a warm-up takes, less than the repeats
NOISE = 0.02  # standard deviation of one step's log time and log energy
MOVED = {
    "eff_fp32": 0.2,
    "eff_conv_fp32": -0.25,
    "eff_depthwise": -0.4,
    "eff_dram": -0.15,
    "cycles_light": 0.5,
    "cycles_heavy": 0.4,
    "t_view_s": 0.4,
    "t_module_s": 0.5,
    "t_conv_s": -0.4,
    "e_fp32_j": 0.3,
    "busy_frac": -0.4,
    "e_heavy_j": 0.4,
}


class Synthetic(Processor):
    """A processor on a clock of its own, with a package counter under a powercap tree that its load drives."""

    def __init__(self, truth: DeviceProfile, root: Path) -> None:
        self.truth = truth
        self.now_s = 0.0
        self.energy_j = 0.0
        self.wrapped: list[bool] = []  # of each reading
        self.random = np.random.default_rng(1)
        zone = root / "class/powercap/intel-rapl:0"
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text(f"{RANGE_J * 1e6:.0f}\n")
        self.counter = zone / "energy_uj"
        self.update()

    def clock(self) -> float:
        return self.now_s

    def busy_s(self) -> tuple[float, float]:
        return self.now_s, self.now_s

    def own_s(self) -> float:
        return self.now_s

    def stolen_s(self) -> float:
        return 0.0

    def run(self, duration_s: float, energy_j: float) -> None:
        """Work for a while; the counter shows what had been drawn at its last update."""
        noise_t, noise_e = np.exp(NOISE * self.random.standard_normal(2))
        before_s = self.now_s
        self.now_s += duration_s * noise_t
        self.energy_j += energy_j * noise_e
        if self.now_s // UPDATE_S > before_s // UPDATE_S:
            self.update(self.now_s % UPDATE_S * energy_j * noise_e / (duration_s * noise_t))

    def update(self, not_yet_j: float = 0.0) -> None:
        units = (self.energy_j - not_yet_j) % RANGE_J // UNIT_J
        self.counter.write_text(f"{units * UNIT_J * 1e6:.0f}\n")

    def step_of(self, work: Workload) -> Callable[[], None]:
        """What a workload does to the clock and the counter."""
        e = bj.predict(work, device=self.truth)
        return lambda: self.run(e.duration_s, e.energy_j)

    def read(self, prepared: Prepared, limit_s: float) -> Reading:
        # others draw until the counter is about to wrap: each reading holds a wrap
        self.energy_j += RANGE_J - WRAPS_AFTER_J - self.energy_j % RANGE_J
        self.update()
        wraps = self.energy_j // RANGE_J
        step = self.step_of(prepared.workload)
        reading = read_step(step, limit_s=limit_s, clock=self.clock, processor=self, meters=("rapl",))
        self.wrapped.append(self.energy_j // RANGE_J > wraps)
        return reading


@pytest.fixture(scope="module")
def truth() -> DeviceProfile:
    base = bj.load_profile("cpu-generic")
    prior = prior_for(base.spec, base, name="synthetic")
    mean = prior.log_mean.copy()
    for name, shift in MOVED.items():
        mean[INDEX[name]] += shift
    return replace(prior, log_mean=mean)


@pytest.fixture(scope="module")
def synthetic(truth: DeviceProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synthetic]:
    root = tmp_path_factory.mktemp("sys")
    machine = Synthetic(truth, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUDJOULE_SYSFS_ROOT", str(root))
        patch.setattr("budjoule.energy.windows.choose.Watch", partial(Watch, clock=machine.clock, attended=False))
        patch.setattr("budjoule.calibration.calibrate.time", SimpleNamespace(perf_counter=machine.clock))
        yield machine


@pytest.fixture(scope="module")
def made(synthetic: Synthetic) -> Calibration:
    spec = synthetic.truth.spec
    return calibrate(
        limit_s=0.3,
        read=synthetic.read,
        target=Target(kind="cpu", device="meta", cores=2),
        machine=ThisMachine(title="synthetic", spec=spec, assumed=()),
    )


def test_the_counter_wrapped_in_every_reading(synthetic: Synthetic, made: Calibration) -> None:
    assert synthetic.wrapped
    assert all(synthetic.wrapped)
    assert all(reading.energy_j is not None for reading in made.readings.values())


def test_identifiable_coefficients_come_back(truth: DeviceProfile, made: Calibration) -> None:
    identified = [name for name in NAMES if made.profile.log_sd_[name] < 0.13]
    assert {"eff_fp32", "eff_conv_fp32", "eff_dram", "cycles_heavy", "t_view_s", "e_fp32_j", "busy_frac"} <= set(
        identified
    )
    for name in identified:
        assert made.profile.coef_[name] == pytest.approx(truth.coef_[name], rel=0.1), name
    for name in NAMES:
        assert abs(np.log(made.profile.coef_[name] / truth.coef_[name])) < 2.5 * made.profile.log_sd_[name], name


def test_held_out_steps_are_hit(made: Calibration) -> None:
    assert len(made.validation) == 2
    for row in made.validation:
        assert abs(row["time_error_frac"]) < 0.05
        assert abs(row["energy_error_frac"]) < 0.05
    assert made.profile.status == "fitted"


UNSEEN = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), (64, 784), "sgd"),
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 3)), (16, 3, 24, 24), "adamw"),
    "encoder": (lambda: nn.TransformerEncoderLayer(64, 2, 256, dropout=0.0, batch_first=True), (8, 32, 64), "adamw"),
    "recurrent": (lambda: nn.LSTM(32, 64, batch_first=True), (16, 24, 32), "sgd"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_energy_of_unseen_training_steps_is_hit_and_covered(truth: DeviceProfile, made: Calibration, name: str) -> None:
    build, shape, optimizer = UNSEEN[name]
    work = bj.trace(build(), torch.empty(shape, device="meta"), mode="training", optimizer=optimizer)
    true = bj.predict(work, device=truth)
    e = bj.predict(work, device=made.profile)
    assert e.energy_j == pytest.approx(true.energy_j, rel=0.05)
    assert e.energy_low_j < true.energy_j < e.energy_high_j
    assert e.duration_low_s < true.duration_s < e.duration_high_s
    assert e.energy_high_j < 1.7 * e.energy_j  # and not by being wide
