"""Laws of reading a step: when repeats stop, whose time and joules they are, and what is told of disturbances."""

from pathlib import Path

import pytest

from budjoule.calibration.conditions import clock_hz, throttle_count
from budjoule.calibration.reading import idle_w, read_step
from budjoule.energy.meters.load import Processor
from budjoule.energy.meters.meter import Domain


class Simulated(Processor):
    """A machine with a clock of its own, where other processes keep some cores busy."""

    def __init__(self, others_cores: float = 0.0) -> None:
        self.now_s, self.others_cores, self.steps = 0.0, others_cores, 0

    def clock(self) -> float:
        return self.now_s

    def busy_s(self) -> tuple[float, float]:
        return (1.0 + self.others_cores) * self.now_s, 4 * self.now_s

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


def test_energy_and_time_of_a_step_are_those_of_all_repeats() -> None:
    machine, counter = Simulated(1.0), Counter()

    def step() -> None:
        machine.steps += 1
        machine.now_s += 0.03 if machine.steps % 2 else 0.01
        counter.energy_j += 0.25

    reading = read_step(step, limit_s=4.0, clock=machine.clock, processor=machine, meters=[counter])
    assert reading.energy_j == pytest.approx(0.25)
    assert reading.duration_s == pytest.approx(0.02, rel=0.01)
    assert reading.meter == "simulated counter"


def test_a_counter_that_stands_still_is_no_energy() -> None:
    machine = Simulated()

    def step() -> None:
        machine.now_s += 0.01

    reading = read_step(step, limit_s=1.0, clock=machine.clock, processor=machine, meters=[Counter()])
    assert reading.energy_j is None
    assert reading.meter == ""


def test_idle_power_is_the_counters_and_nothing_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()

    def rest(duration_s: float) -> None:
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
    cpu_file(tmp_path, "cpu0/thermal_throttle/core_throttle_count", "2\n")
    cpu_file(tmp_path, "cpu0/thermal_throttle/package_throttle_count", "5\n")
    machine = Simulated()

    def step() -> None:
        machine.now_s += 0.5
        if machine.now_s > 0.7:
            cpu_file(tmp_path, "cpu0/thermal_throttle/core_throttle_count", "4\n")

    assert read_step(step, limit_s=1.0, clock=machine.clock, processor=machine).throttled == 2
