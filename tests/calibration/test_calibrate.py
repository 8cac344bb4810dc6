"""Laws of calibrating: a simulated machine gives its coefficients back, the new profile covers the steps it has not seen."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import budjoule as bj
from budjoule.calibration.calibrate import Calibration, Target, calibrate, target_for
from budjoule.calibration.fit import prior_for
from budjoule.calibration.microbenchmarks import SUITE, Prepared
from budjoule.calibration.reading import Reading
from budjoule.calibration.this_machine import ThisMachine
from budjoule.energy.coefficients import INDEX, NAMES
from budjoule.energy.device import DeviceProfile

MOVED = {
    "eff_fp32": 0.2,
    "eff_dram": -0.2,
    "t_launch_s": 0.5,
    "cycles_heavy": 0.4,
    "eff_depthwise": -0.4,
    "eff_conv": 0.2,
    "t_view_s": 0.4,
}


def true_profile(name: str) -> DeviceProfile:
    """A machine whose coefficients lie away from those of the profile that calibrating starts from."""
    base = bj.load_profile(name)
    prior = prior_for(base.spec, base, name="simulated")
    mean = prior.log_mean.copy()
    for coefficient, shift in MOVED.items():
        mean[INDEX[coefficient]] += shift
    return replace(prior, log_mean=mean)


@pytest.fixture(scope="module")
def truth() -> DeviceProfile:
    return true_profile("cpu-generic")


Change = Callable[[Prepared, Reading], Reading]


def simulated(
    truth: DeviceProfile,
    *,
    energy: bool,
    prior: str = "cpu-generic",
    cores: int = 2,
    change: Change = lambda prepared, reading: reading,
) -> Calibration:
    """Calibrate a machine that takes what `truth` says, give or take a percent; nothing runs for real."""
    random = np.random.default_rng(0)

    def read(prepared: Prepared, limit_s: float) -> Reading:
        e = bj.predict(prepared.workload, device=truth)
        noise = np.exp(0.01 * random.standard_normal(2))
        reading = Reading(
            duration_s=e.duration_s * noise[0], energy_j=e.energy_j * noise[1] if energy else None, spread_frac=0.0
        )
        return change(prepared, reading)

    return calibrate(
        prior=prior,
        read=read,
        target=Target(kind=truth.spec.kind, device="meta", cores=cores),
        machine=ThisMachine(title="simulated", spec=truth.spec, assumed=()),
    )


@pytest.fixture(scope="module")
def with_energy(truth: DeviceProfile) -> Calibration:
    return simulated(truth, energy=True)


@pytest.fixture(scope="module")
def time_only(truth: DeviceProfile) -> Calibration:
    return simulated(truth, energy=False)


def assert_recovered(made: Calibration, truth: DeviceProfile, *, at_least: int) -> None:
    pinned = [name for name in NAMES if made.profile.log_sd_[name] < 0.1]
    assert len(pinned) >= at_least
    for name in pinned:
        assert made.profile.coef_[name] == pytest.approx(truth.coef_[name], rel=0.1), name
    for row in made.validation:
        assert abs(row["time_error_frac"]) < 0.05, row


def test_a_simulated_machine_gives_its_identifiable_coefficients_back(
    truth: DeviceProfile, with_energy: Calibration
) -> None:
    assert_recovered(with_energy, truth, at_least=5)
    assert all(abs(row["energy_error_frac"]) < 0.05 for row in with_energy.validation)
    assert with_energy.profile.status == "fitted"


def test_clock_alone_gives_the_times_coefficients_back(truth: DeviceProfile, time_only: Calibration) -> None:
    assert_recovered(time_only, truth, at_least=5)


def test_a_simulated_gpu_gives_its_identifiable_coefficients_back() -> None:
    truth = true_profile("a10-pcie-24gb")
    made = simulated(truth, energy=True, prior="a10-pcie-24gb", cores=8 * truth.spec.units)
    assert_recovered(made, truth, at_least=3)
    assert "large product, fp16" in made.readings


def test_without_a_counter_energy_stays_at_its_prior_and_it_is_said(time_only: Calibration) -> None:
    i = INDEX["e_fp32_j"]
    assert time_only.profile.log_mean[i] == pytest.approx(time_only.prior.log_mean[i], abs=1e-3)
    assert any("no energy counter" in note for note in time_only.notes)
    assert time_only.profile.provenance["meter"] == "none: time only"
    assert time_only.profile.status not in ("fitted", "few-shot")
    assert "energy_error_frac" not in time_only.profile.provenance["held_out_training_steps"]
    assert all(row["energy_error_frac"] is None for row in time_only.validation)


def test_what_is_held_out_is_not_fitted(truth: DeviceProfile, time_only: Calibration) -> None:
    def slow_held_out(prepared: Prepared, reading: Reading) -> Reading:
        return replace(reading, duration_s=5 * reading.duration_s) if prepared.benchmark.held_out else reading

    made = simulated(truth, energy=False, change=slow_held_out)
    assert np.array_equal(made.profile.log_mean, time_only.profile.log_mean)
    assert made.profile.residual_time > 1.0  # and what was missed widens the interval
    assert any("held-out training steps are wrong by -80 % and -80 %" in note for note in made.notes)
    assert not any("held-out" in note for note in time_only.notes)
    for row in made.validation:
        benchmark = next(b for b in SUITE if b.name == row["name"])
        e = bj.estimate(*benchmark.build(2), device=made.profile, mode="training", optimizer="sgd")
        assert e.duration_low_s < row["duration_s"] < e.duration_high_s


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"others_cores": 1.0}, "other processes kept 1.0 cores busy"),
        ({"spread_frac": 0.5}, "drifted"),
        ({"error_frac": 0.2}, "did not settle"),
        ({"throttled": 3}, "heat held the processor back"),
    ],
)
def test_bad_conditions_are_told(
    truth: DeviceProfile, time_only: Calibration, change: dict[str, float], word: str
) -> None:
    made = simulated(truth, energy=False, change=lambda prepared, reading: replace(reading, **change))  # type: ignore[arg-type]
    assert any(word in note for note in made.notes)
    assert not any(word in note for note in time_only.notes)
    assert list(made.notes) == made.profile.provenance["notes"]


@pytest.mark.parametrize(("energy", "effect"), [(True, "their joules"), (False, "least disturbed")])
def test_what_others_do_to_time_or_joules_is_told(truth: DeviceProfile, energy: bool, effect: str) -> None:
    made = simulated(truth, energy=energy, change=lambda prepared, reading: replace(reading, others_cores=1.0))
    assert any("other processes" in note and effect in note for note in made.notes)


def test_a_falling_clock_is_told_and_kept(truth: DeviceProfile) -> None:
    def slower(prepared: Prepared, reading: Reading) -> Reading:
        return replace(reading, clock_hz=2e9 if prepared.benchmark.name == "convolution" else 3e9)

    made = simulated(truth, energy=False, change=slower)
    assert any("2.00 and 3.00 GHz, lowest during convolution:" in note for note in made.notes)
    assert made.profile.provenance["clock_hz"] == [2e9, 3e9]


def test_progress_names_every_microbenchmark_and_ends_full(truth: DeviceProfile) -> None:
    told: list[tuple[str, int, int]] = []
    calibrate(
        read=lambda prepared, limit_s: Reading(
            duration_s=bj.predict(prepared.workload, device=truth).duration_s, energy_j=None, spread_frac=0.0
        ),
        progress=lambda name, done, total: told.append((name, done, total)),
        target=Target(kind="cpu", device="meta", cores=2),
        machine=ThisMachine(title="simulated", spec=truth.spec, assumed=()),
    )
    assert {b.name for b in SUITE if "cpu" in b.kinds} <= {name for name, _, _ in told}
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert told[-1][1] == told[-1][2]


def test_gpu_profile_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(bj.BudjouleError, match="cpu-generic"):
        calibrate(prior="jetson-orin-nano")


@pytest.mark.parametrize(("gpus", "meters"), [(1, ("nvml", "hwmon")), (2, ())])
def test_a_gpus_joules_are_read_only_where_they_are_its_own(
    monkeypatch: pytest.MonkeyPatch, gpus: int, meters: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(multi_processor_count=10))
    target = target_for(bj.load_profile("a10-pcie-24gb"))
    assert target.meters == meters
    assert target.synchronize is torch.cuda.synchronize
    assert target.cores == 80


def test_processor_is_calibrated_on_pytorchs_threads_without_a_gpus_joules() -> None:
    target = target_for(bj.load_profile("cpu-generic"))
    assert target.cores == torch.get_num_threads()
    assert "nvml" not in target.meters


def test_slow_steps_leave_less_time_for_the_rest(truth: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, limits_s = [0.0], []

    def slow(prepared: Prepared, limit_s: float) -> Reading:
        now_s[0] += 1.1 * limit_s + (5.0 if len(limits_s) < 5 else 0.0)  # the first five are slow
        limits_s.append(limit_s)
        return Reading(duration_s=3.0, energy_j=None, spread_frac=0.0)

    monkeypatch.setattr("budjoule.calibration.calibrate.time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    calibrate(
        limit_s=4.0,
        read=slow,
        target=Target(kind="cpu", device="meta", cores=2),
        machine=ThisMachine(title="simulated", spec=truth.spec, assumed=()),
    )
    assert limits_s[0] == 4.0
    assert limits_s[:6] == sorted(limits_s[:6], reverse=True)
    assert limits_s[5] < 4.0
    assert now_s[0] < 1.2 * 4.0 * len(limits_s)
