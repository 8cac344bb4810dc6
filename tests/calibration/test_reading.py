"""Laws of reading a step: when repeats stop, whose time and joules they are, and what is told of disturbances."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from budjoule.calibration.conditions import clock_hz, throttle_count
from budjoule.calibration.reading import Conditions, Reading, idle_w, least_disturbed, read_step
from budjoule.energy.meters.load import Processor
from budjoule.energy.meters.meter import Domain


class Simulated(Processor):
    """A machine with a clock of its own, where other processes keep some cores busy."""

    def __init__(self, others_cores: float = 0.0, stolen_cores: float = 0.0) -> None:
        self.now_s, self.others_cores, self.stolen_cores, self.steps = 0.0, others_cores, stolen_cores, 0

    def clock(self) -> float:
        return self.now_s

    def busy_s(self) -> tuple[float, float]:
        return (1.0 + self.others_cores) * self.now_s, 4 * self.now_s

    def stolen_s(self) -> float:
        return self.stolen_cores * self.now_s

    def own_s(self) -> float:
        return self.now_s


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


def test_repeats_stop_when_the_time_is_tight() -> None:
    machine = Simulated()

    def step() -> None:
        machine.now_s += 0.01

    reading = read_step(step, limit_s=100.0, clock=machine.clock, processor=machine)
    assert reading.duration_s == pytest.approx(0.01)
    assert reading.error_frac < 0.01
    assert machine.now_s < 20.0  # the warm-up takes 10


def test_repeats_stop_when_the_time_is_up() -> None:
    machine = Simulated()

    def step() -> None:
        machine.steps += 1
        machine.now_s += 0.01 if machine.steps % 2 else 0.03

    reading = read_step(step, limit_s=1.0, clock=machine.clock, processor=machine)
    assert machine.now_s < 1.3
    assert reading.error_frac > 0.01


def test_a_step_longer_than_the_limit_is_read_once() -> None:
    machine = Simulated()

    def step() -> None:
        machine.now_s += 5.0
        machine.steps += 1

    assert read_step(step, limit_s=1.0, clock=machine.clock, processor=machine).duration_s == pytest.approx(5.0)
    assert machine.steps == 2


def test_drifting_times_are_told() -> None:
    machine = Simulated()

    def slowing() -> None:
        machine.now_s += 0.01 * (1 + machine.now_s)

    assert read_step(slowing, limit_s=2.0, clock=machine.clock, processor=machine).spread_frac > 0.25


def test_a_gpus_steps_are_timed_through_their_queue() -> None:
    machine, waits = Simulated(), []

    def step() -> None:
        machine.steps += 1

    def wait() -> None:  # the queue is worked off, and the wait itself costs as much as ten steps
        machine.now_s += 1e-4 * machine.steps + 1e-3
        machine.steps = 0
        waits.append(machine.now_s)

    reading = read_step(step, limit_s=1.0, clock=machine.clock, processor=machine, synchronize=wait)
    assert 1e-4 < reading.duration_s < 2e-4
    assert len(waits) > 30


@pytest.mark.parametrize("cores", [0.0, 1.0])
def test_steady_load_of_others_is_told_though_nothing_drifts(cores: float) -> None:
    machine = Simulated(cores)

    def step() -> None:
        machine.now_s += 0.01

    reading = read_step(step, limit_s=1.0, clock=machine.clock, processor=machine)
    assert reading.others_cores == pytest.approx(cores)
    assert reading.spread_frac < 0.25


def test_time_that_the_host_gives_to_other_guests_counts_as_others() -> None:
    machine = Simulated(stolen_cores=0.5)

    def step() -> None:
        machine.now_s += 0.01

    reading = read_step(step, limit_s=1.0, clock=machine.clock, processor=machine)
    assert reading.others_cores == pytest.approx(0.5)


def in_round(duration_s: float, others_cores: float, throttled: int | None = None) -> Reading:
    return Reading(
        duration_s=duration_s, energy_j=None, spread_frac=0.0, others_cores=others_cores, throttled=throttled
    )


@pytest.mark.parametrize(
    ("rounds", "expected_s"),
    [
        ([(1.0, 0.0), (1.2, 0.1), (1.1, 0.0)], 1.1),  # others left it alone: the middle one
        ([(0.9, 1.0), (1.2, 0.1), (1.1, 0.0), (1.3, 0.0)], 1.2),  # what was disturbed does not count
        ([(1.4, 1.0), (1.2, 2.0), (1.3, 1.0)], 1.2),  # they never did: others can only add time
    ],
)
def test_the_least_disturbed_round_stands_for_all(rounds: list[tuple[float, float]], expected_s: float) -> None:
    chosen = least_disturbed([in_round(*each) for each in rounds])
    assert chosen.duration_s == expected_s
    assert chosen.spread_frac > 0.1


def test_a_round_that_a_counter_told_stands_before_one_that_it_did_not() -> None:
    told = replace(in_round(1.3, 1.0), energy_j=2.0)
    assert least_disturbed([in_round(1.0, 0.0), told, in_round(1.1, 0.0)]).energy_j == 2.0


def test_heat_in_any_round_is_kept() -> None:
    assert least_disturbed([in_round(1.0, 0.0, 2), in_round(1.1, 0.0), in_round(1.2, 0.0, 1)]).throttled == 3
    assert least_disturbed([in_round(1.0, 0.0), in_round(1.1, 0.0)]).throttled is None  # nothing tells


@pytest.mark.parametrize(("cores", "expected_s"), [(0.0, 0.03), (1.0, 0.01)])
def test_others_add_time_that_is_not_the_steps(cores: float, expected_s: float) -> None:
    machine = Simulated(cores)

    def step() -> None:  # two of three steps are interrupted
        machine.steps += 1
        machine.now_s += 0.03 if machine.steps % 3 else 0.01

    reading = read_step(step, limit_s=2.0, clock=machine.clock, processor=machine)
    assert reading.duration_s == pytest.approx(expected_s)


@pytest.mark.parametrize(("threads", "expected_s"), [(1, 0.02), (2, 0.04)])
def test_a_lone_thread_that_is_always_interrupted_takes_its_processor_time(threads: int, expected_s: float) -> None:
    machine = Simulated(1.0)
    machine.own_s = lambda: machine.now_s / 2  # type: ignore[method-assign]

    def step() -> None:
        machine.now_s += 0.04

    reading = read_step(step, limit_s=2.0, clock=machine.clock, processor=machine, threads=threads)
    assert reading.duration_s == pytest.approx(expected_s)


@pytest.mark.parametrize(("cores", "duration_s", "energy_j"), [(0.0, 0.02, 0.25), (1.0, 0.01, 0.125)])
def test_energy_and_time_of_a_step_belong_together(cores: float, duration_s: float, energy_j: float) -> None:
    """Those of all repeats; where others interfere, those of a step that they left alone, at the power that was measured."""
    machine, counter = Simulated(cores), Counter()

    def step() -> None:
        machine.steps += 1
        machine.now_s += 0.03 if machine.steps % 2 else 0.01
        counter.energy_j += 0.25

    reading = read_step(step, limit_s=4.0, clock=machine.clock, processor=machine, meters=[counter])
    assert reading.energy_j == pytest.approx(energy_j, rel=0.01)
    assert reading.duration_s == pytest.approx(duration_s, rel=0.01)
    assert reading.meter == "simulated counter"


def test_a_counter_that_stands_still_is_no_energy() -> None:
    machine = Simulated()

    def step() -> None:
        machine.now_s += 0.01

    reading = read_step(step, limit_s=1.0, clock=machine.clock, processor=machine, meters=[Counter()])
    assert reading.energy_j is None
    assert reading.meter == ""


@pytest.mark.parametrize(("update_s", "told"), [(1e-3, True), (60.0, False)])
def test_a_counter_that_steps_too_seldom_for_the_window_is_no_energy(update_s: float, told: bool) -> None:
    machine, counter = Simulated(), Counter()
    counter.domains = (Domain(name="package-0", limit_w=1e12, update_s=update_s),)

    def step() -> None:
        time.sleep(0.002)  # the window is real
        machine.now_s += 0.01
        counter.energy_j += 0.25

    reading = read_step(step, limit_s=0.2, clock=machine.clock, processor=machine, meters=[counter])
    assert (reading.energy_j is not None) == told


def test_energy_is_that_of_the_devices_own_domain() -> None:
    machine, counter = Simulated(), Counter()
    counter.domains = (Domain(name="gpu-0", limit_w=1e12), Domain(name="gpu-1", limit_w=1e12))
    counter.read = lambda: [5 * counter.energy_j, counter.energy_j]  # type: ignore[method-assign]

    def step() -> None:
        machine.now_s += 0.01
        counter.energy_j += 0.25

    def energy_j(domain: str) -> float | None:
        conditions = Conditions(domain=domain)
        return read_step(
            step, limit_s=1.0, clock=machine.clock, processor=machine, meters=[counter], conditions=conditions
        ).energy_j

    assert energy_j("") == pytest.approx(1.5)
    assert energy_j("gpu-1") == pytest.approx(0.25)
    assert energy_j("gpu-7") is None


def test_idle_power_is_the_counters_and_nothing_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()

    def rest(duration_s: float) -> None:
        assert duration_s >= 1.0
        counter.energy_j += 1.0

    power_w = idle_w(limit_s=1.0, meters=[counter], sleep=rest)
    assert power_w is not None
    assert power_w > 0
    assert idle_w(limit_s=1.0, meters=[counter], sleep=lambda duration_s: None) is None  # a counter that stood still
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    assert idle_w(limit_s=1.0, meters=("rapl", "hwmon", "battery"), sleep=rest) is None
    assert idle_w(limit_s=1.0, meters=("rapl", counter), sleep=rest) is not None


def cpu_file(root: Path, name: str, text: str) -> None:
    path = root / "devices/system/cpu" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_clock_is_that_of_the_core_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    assert clock_hz() is None
    cpu_file(tmp_path, "cpu0/cpufreq/scaling_cur_freq", "800000\n")
    cpu_file(tmp_path, "cpu1/cpufreq/scaling_cur_freq", "3400000\n")
    assert clock_hz() == pytest.approx(3.4e9)


def test_throttling_meanwhile_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    assert throttle_count() is None
    assert read_step(lambda: None, limit_s=1e-3).throttled is None
    cpu_file(tmp_path, "cpu0/thermal_throttle/core_throttle_count", "2\n")
    cpu_file(tmp_path, "cpu0/thermal_throttle/package_throttle_count", "5\n")
    machine = Simulated()

    def step() -> None:
        machine.now_s += 0.5
        if machine.now_s > 1.2:
            cpu_file(tmp_path, "cpu0/thermal_throttle/core_throttle_count", "4\n")

    assert read_step(step, limit_s=1.0, clock=machine.clock, processor=machine).throttled == 2
