"""Laws of calibrating: a simulated machine gives its coefficients back, the new profile covers the steps it has not seen."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import budjoule as bj
from budjoule.calibration.calibrate import ROUNDS, Calibration, calibrate
from budjoule.calibration.microbenchmarks import SUITE, Microbenchmark, Prepared, prepare
from budjoule.calibration.prior import prior_for
from budjoule.calibration.reading import Reading
from budjoule.calibration.target import Target
from budjoule.calibration.this_machine import ASSUMED_LIMIT, ThisMachine
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


@cache
def traced(benchmark: Microbenchmark, *, cores: int, device: str) -> Prepared:
    """Each microbenchmark is traced once for all the simulated machines."""
    return prepare(benchmark, cores=cores, device=device)


@pytest.fixture(autouse=True, scope="module")
def _traced_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("budjoule.calibration.calibrate.prepare", traced)
        yield


Change = Callable[[Prepared, Reading], Reading]


def held_out_steps(made: Calibration) -> Iterator[tuple[dict[str, Any], bj.Estimate]]:
    """Each held-out step's row beside what the profile estimates for it."""
    for row in made.validation:
        benchmark = next(b for b in SUITE if b.name == row["name"])
        yield row, bj.estimate(*benchmark.build(2), device=made.profile, mode="training", optimizer="sgd")


def simulated(
    truth: DeviceProfile,
    *,
    energy: bool,
    prior: str = "cpu-generic",
    cores: int = 2,
    change: Change = lambda prepared, reading: reading,
    machine: ThisMachine | None = None,
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
        machine=machine or ThisMachine(title="simulated", spec=truth.spec, assumed=()),
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
    work = traced(SUITE[0], cores=2, device="meta").workload
    said = bj.predict(work, device=time_only.profile).notes
    assert any("its time is fitted, its energy is a forecast" in note for note in said)
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
    for row, e in held_out_steps(made):
        assert e.duration_low_s < row["duration_s"] < e.duration_high_s


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"others_cores": 1.0}, "kept 1.0 cores busy"),
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


def test_a_fit_that_the_held_out_steps_refute_says_so(truth: DeviceProfile, with_energy: Calibration) -> None:
    """In the joules alone: its status, its notes and its interval."""

    def costly(prepared: Prepared, reading: Reading) -> Reading:
        held_out = prepared.benchmark.held_out and reading.energy_j is not None
        return replace(reading, energy_j=5 * reading.energy_j) if held_out else reading  # type: ignore[operator]

    made = simulated(truth, energy=True, change=costly)
    assert (with_energy.profile.status, made.profile.status) == ("fitted", "few-shot")
    assert (with_energy.spoilt, made.spoilt) == (False, True)
    assert any("the joules of the held-out training steps are wrong by -80 % and -80 %" in note for note in made.notes)
    assert not any("the times of the held-out" in note for note in made.notes)
    for row, e in held_out_steps(made):
        assert e.energy_low_j < row["energy_j"] < e.energy_high_j


@pytest.mark.parametrize("throttled", [None, 0, 3])
def test_how_often_heat_held_it_back_is_kept(truth: DeviceProfile, throttled: int | None) -> None:
    def hot(prepared: Prepared, reading: Reading) -> Reading:
        return replace(reading, throttled=throttled if prepared.benchmark.name == "tiny ops" else None)

    kept = simulated(truth, energy=False, change=hot).profile.provenance
    assert kept.get("throttled") == (None if throttled is None else ROUNDS * throttled)


def test_power_that_was_not_fitted_against_load_is_told(truth: DeviceProfile, with_energy: Calibration) -> None:
    def metered(prepared: Prepared, reading: Reading) -> Reading:
        return replace(reading, meter="a counter")

    word = "power was not fitted against load"
    assert any(word in note for note in simulated(truth, energy=True, change=metered).notes)
    assert not any(word in note for note in with_energy.notes)  # no counter of this machine was read


def test_a_falling_clock_is_told_and_kept(truth: DeviceProfile) -> None:
    def slower(prepared: Prepared, reading: Reading) -> Reading:
        return replace(reading, clock_hz=2e9 if prepared.benchmark.name == "wide convolution" else 3e9)

    made = simulated(truth, energy=False, change=slower)
    assert any("2.00 and 3.00 GHz, lowest during wide convolution:" in note for note in made.notes)
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


@pytest.mark.parametrize(("energy", "limit_w"), [(False, 12.0), (True, 62.0)])
def test_an_assumed_power_limit_explains_nothing(truth: DeviceProfile, energy: bool, limit_w: float) -> None:
    """Nothing told the limit: what ran at full speed is estimated at full speed and with the joules that it took."""
    spec = replace(truth.spec, power_limit_w=limit_w)
    assumed = ThisMachine(title="simulated", spec=spec, assumed=(ASSUMED_LIMIT,))
    made = simulated(truth, energy=energy, machine=assumed)
    assert (made.profile.spec.power_limit_w > limit_w) != energy
    for row in made.validation:
        assert abs(row["time_error_frac"]) < 0.05, row
        assert not energy or abs(row["energy_error_frac"]) < 0.05, row


def test_a_counter_that_steps_too_seldom_for_some_is_told(truth: DeviceProfile) -> None:
    def coarse(prepared: Prepared, reading: Reading) -> Reading:
        return replace(reading, energy_j=None) if prepared.benchmark.name == "tiny ops" else reading

    made = simulated(truth, energy=True, change=coarse)
    assert any("stepped too seldom to tell the joules of tiny ops:" in note for note in made.notes)
    assert made.profile.provenance["meter"] == "none: time only"  # the simulated readings name no meter


def test_what_one_round_was_disturbed_in_another_makes_good(truth: DeviceProfile, time_only: Calibration) -> None:
    passes: dict[str, int] = {}

    def read(prepared: Prepared, limit_s: float) -> Reading:
        name = prepared.benchmark.name
        passes[name] = passes.get(name, 0) + 1
        busy = passes[name] == 2
        duration_s = bj.predict(prepared.workload, device=truth).duration_s * (3 if busy else 1)
        return Reading(duration_s=duration_s, energy_j=None, spread_frac=0.0, others_cores=1.0 if busy else 0.0)

    spec = ThisMachine(title="simulated", spec=truth.spec, assumed=())
    made = calibrate(read=read, target=Target(kind="cpu", device="meta", cores=2), machine=spec)
    assert set(passes.values()) == {ROUNDS}
    for name, reading in made.readings.items():
        work = next(traced(b, cores=2, device="meta").workload for b in SUITE if b.name == name)
        assert reading.duration_s == pytest.approx(bj.predict(work, device=truth).duration_s)
        assert reading.spread_frac == 0.0


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
    assert limits_s[0] == pytest.approx(4.0 / ROUNDS)
    assert limits_s[:6] == sorted(limits_s[:6], reverse=True)
    assert 0.0 < limits_s[5] < 4.0 / ROUNDS
    assert now_s[0] < 1.2 * 4.0 / ROUNDS * len(limits_s)
