"""Laws of calibrating: a simulated machine gives its coefficients back, the new profile covers the steps it has not seen."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import budjoule as bj
from budjoule.calibration.calibrate import Calibration, Reading, calibrate, idle_w, read_step
from budjoule.calibration.fit import prior_for
from budjoule.calibration.microbenchmarks import SUITE, Microbenchmark, prepared
from budjoule.calibration.this_machine import ThisMachine, this_machine
from budjoule.cli.main import main
from budjoule.energy.coefficients import INDEX, NAMES
from budjoule.energy.device import DeviceProfile
from budjoule.energy.meters.meter import Domain

MOVED = {
    "eff_fp32": 0.2,
    "eff_dram": -0.2,
    "t_launch_s": 0.5,
    "cycles_heavy": 0.4,
    "eff_depthwise": -0.4,
    "eff_conv": 0.2,
    "t_view_s": 0.4,
}


@pytest.fixture(scope="module")
def truth() -> DeviceProfile:
    prior = prior_for(bj.load_profile("cpu-generic").spec, None, name="simulated")
    mean = prior.log_mean.copy()
    for name, shift in MOVED.items():
        mean[INDEX[name]] += shift
    return replace(prior, log_mean=mean)


def simulated(
    truth: DeviceProfile, energy: bool, *, others_cores: float = 0.0, held_out_factor: float = 1.0
) -> Calibration:
    random = np.random.default_rng(0)

    def read(benchmark: Microbenchmark, limit_s: float) -> Reading:
        module, x = benchmark.build()
        work = bj.trace(
            module,
            x,
            mode="training" if benchmark.training else "inference",
            optimizer="sgd",
            precision=benchmark.precision,
        )
        e = bj.predict(work, device=truth)
        noise = np.exp(0.01 * random.standard_normal(2))
        factor = held_out_factor if benchmark.held_out else 1.0
        return Reading(
            duration_s=e.duration_s * noise[0] * factor,
            energy_j=e.energy_j * noise[1] if energy else None,
            spread_frac=0.0,
            others_cores=others_cores,
        )

    return calibrate(read=read, machine=ThisMachine(title="simulated", spec=truth.spec, assumed=()))


def test_a_simulated_machine_gives_its_identifiable_coefficients_back(truth: DeviceProfile) -> None:
    made = simulated(truth, energy=True)
    pinned = [name for name in NAMES if made.profile.log_sd_[name] < 0.1]
    assert len(pinned) >= 4
    for name in pinned:
        assert made.profile.coef_[name] == pytest.approx(truth.coef_[name], rel=0.1), name
    for row in made.validation:
        assert abs(row["energy_error_frac"]) < 0.05, row
        assert abs(row["time_error_frac"]) < 0.05, row


def test_without_a_counter_energy_stays_at_its_prior_and_it_is_said(truth: DeviceProfile) -> None:
    made = simulated(truth, energy=False)
    i = INDEX["e_fp32_j"]
    assert made.profile.log_mean[i] == pytest.approx(made.prior.log_mean[i])
    assert any("no energy counter" in note for note in made.notes)
    assert made.profile.status != "fitted"
    assert "energy_error_frac" not in made.profile.provenance["held_out_training_steps"]


def test_interval_covers_the_steps_it_has_not_seen(truth: DeviceProfile) -> None:
    surprising = replace(truth, log_mean=truth.log_mean + np.where(np.array(NAMES) == "t_product_s", 3.0, 0.0))
    made = simulated(surprising, energy=False)
    for row in made.validation:
        assert abs(np.log(row["estimated_duration_s"] / row["duration_s"])) < 2.2 * made.profile.residual_time + 0.3


def test_repeats_stop_when_the_time_is_tight_or_up() -> None:
    now = [0.0]

    def step() -> None:
        now[0] += 0.01

    steady = read_step(step, limit_s=100.0, clock=lambda: now[0])
    assert steady.duration_s == pytest.approx(0.01)
    assert now[0] < 20.0
    now[0] = 0.0
    jumps = iter(range(10**6))

    def unsteady() -> None:
        now[0] += 0.01 if next(jumps) % 2 else 0.03

    read_step(unsteady, limit_s=1.0, clock=lambda: now[0])
    assert now[0] < 1.3


def test_drifting_times_are_told() -> None:
    now = [0.0]

    def slowing() -> None:
        now[0] += 0.01 * (1 + now[0])

    assert read_step(slowing, limit_s=2.0, clock=lambda: now[0]).spread_frac > 0.25


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda b: b.name)
def test_what_runs_is_what_is_traced(benchmark: Microbenchmark) -> None:
    module, x = benchmark.build()
    if x.numel() < 1 << 20:
        prepared(benchmark)()
    work = bj.trace(module, x, mode="training" if benchmark.training else "inference", precision=benchmark.precision)
    assert work.ops
    assert not work.unruled


def test_datasheet_comes_from_the_files_and_the_rest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Example CPU\ncpu MHz\t\t: 2500.0\nflags\t\t: fpu fma avx2\n")
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache/index3"
    cache.mkdir(parents=True)
    (cache / "size").write_text("8192K\n")
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "constraint_0_power_limit_uw").write_text("45000000\n")
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path / "sys"))
    machine = this_machine(threads=4, dram_bytes_per_s=2e10, cpuinfo=cpuinfo)
    assert machine.title == "Example CPU"
    assert machine.spec.flop_per_clock["fp32"] == 32
    assert machine.spec.cache_bytes == 8192 * 1024
    assert machine.spec.power_limit_w == pytest.approx(45.0)
    assert not any("power limit" in text for text in machine.assumed)
    assert any("idle" in text for text in machine.assumed)


class TestVerb:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: DeviceProfile) -> Callable[..., int]:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", lambda **_: simulated(truth, energy=False))

        def go(*arguments: str) -> int:
            monkeypatch.setattr("sys.argv", ["budjoule", "calibrate", *arguments])
            with pytest.raises(SystemExit) as stopped:
                main()
            return int(stopped.value.code or 0)

        return go

    def test_profile_is_picked_up_as_this_machine(
        self, run: Callable[..., int], capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run() == 0
        assert "not measured" in capfd.readouterr().out
        assert bj.load_profile("this-machine").title == "simulated"
        assert run("--json") == 0
        import json

        document = json.loads(capfd.readouterr().out)
        assert {"schema", "profile", "status", "readings", "validation", "coefficients", "notes"} <= set(document)

    def test_interruption_leaves_the_old_profile(
        self, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run() == 0
        before = bj.load_profile("this-machine").log_mean

        def interrupted(**_: object) -> Calibration:
            raise KeyboardInterrupt

        monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", interrupted)
        assert run() == 130
        assert np.array_equal(bj.load_profile("this-machine").log_mean, before)

    def test_unwritable_or_existing_output_is_refused_before_anything_runs(
        self, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "kept.toml").write_text("mine")
        assert run("-o", str(tmp_path / "kept.toml")) == 1
        assert "--force" in capfd.readouterr().err
        assert (tmp_path / "kept.toml").read_text() == "mine"
        assert run("-o", str(tmp_path / "kept.toml" / "no.toml")) == 1
        assert "writable" in capfd.readouterr().err


def test_threads_are_those_of_pytorch() -> None:
    assert this_machine(threads=torch.get_num_threads(), dram_bytes_per_s=1e10).spec.units == torch.get_num_threads()


class OtherLoad:
    """A machine where other processes keep some cores busy, on a clock of its own."""

    def __init__(self, now: list[float], cores: float) -> None:
        self.now, self.cores = now, cores

    def busy_s(self) -> tuple[float, float]:
        return (1.0 + self.cores) * self.now[0], 4 * self.now[0]

    def own_s(self) -> float:
        return self.now[0]


@pytest.mark.parametrize("cores", [0.0, 1.0])
def test_steady_load_of_others_is_told_though_nothing_drifts(cores: float, truth: DeviceProfile) -> None:
    now = [0.0]

    def step() -> None:
        now[0] += 0.01

    reading = read_step(step, limit_s=1.0, clock=lambda: now[0], processor=OtherLoad(now, cores))  # type: ignore[arg-type]
    assert reading.others_cores == pytest.approx(cores)
    assert reading.spread_frac < 0.25
    made = simulated(truth, energy=False, others_cores=reading.others_cores)
    assert any("other processes" in note for note in made.notes) == (cores > 0)


class Counter:
    """A counter that a simulated machine drives."""

    name, source, method, notes = "simulated", "measured", "simulated counter", ()
    domains = (Domain(name="package-0", limit_w=1e12),)

    def __init__(self) -> None:
        self.energy_j = 0.0

    def read(self) -> list[float]:
        return [self.energy_j]

    def close(self) -> None:
        pass


def test_energy_of_a_step_is_the_counters_over_its_repeats() -> None:
    counter, now = Counter(), [0.0]

    def step() -> None:
        now[0] += 0.01
        counter.energy_j += 0.25

    reading = read_step(step, limit_s=1.0, clock=lambda: now[0], meter=counter)
    assert reading.energy_j == pytest.approx(0.25)
    assert reading.duration_s == pytest.approx(0.01)
    assert reading.meter == "simulated counter"


def test_idle_power_is_the_counters_and_nothing_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()

    def rest(duration_s: float) -> None:
        counter.energy_j += 1.0

    power_w = idle_w(limit_s=1.0, meter=counter, sleep=rest)
    assert power_w is not None
    assert power_w > 0
    assert idle_w(limit_s=1.0, meter=counter, sleep=lambda duration_s: None) is None  # a counter that stood still
    machine = this_machine(threads=2, dram_bytes_per_s=1e10, idle_w=power_w)
    assert machine.spec.idle_w == power_w
    assert not any("idle" in text for text in machine.assumed)
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert idle_w(limit_s=1.0, sleep=rest) is None


def test_profile_that_misses_the_held_out_steps_says_so(truth: DeviceProfile) -> None:
    assert not any("held-out" in note for note in simulated(truth, energy=False).notes)
    made = simulated(truth, energy=False, held_out_factor=5.0)
    assert any("held-out training steps are wrong by -7" in note or "by -8" in note for note in made.notes)


def test_prior_of_another_kind_is_refused() -> None:
    with pytest.raises(bj.BudjouleError, match="cpu-generic"):
        calibrate(prior="jetson-orin-nano")
