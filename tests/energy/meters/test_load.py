"""The load estimate: labelled, wide where unknown, additive and never falling."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import budjoule as bj
from budjoule.energy.meters.load import LoadMeter, Processor
from budjoule.energy.meters.load_model import LoadModel, model_from_cores, model_from_tdp, this_machine
from budjoule.energy.windows.choose import Choice
from budjoule.energy.windows.result import result
from budjoule.energy.windows.watch import Watch

MODEL = LoadModel(idle_w=10.0, busy_w=40.0, factor=2.0, basis="a test")


class FakeProcessor:
    """A machine of four threads whose busy time a test sets."""

    threads = 4

    def __init__(self, clock: Any) -> None:
        self.clock, self.busy, self.own = clock, 0.0, 0.0

    def busy_s(self) -> tuple[float, float]:
        return self.busy, self.clock() * self.threads

    def own_s(self) -> float:
        return self.own


class Times(NamedTuple):
    """What psutil says on Linux. [s]"""

    user: float = 1.0
    nice: float = 2.0
    system: float = 4.0
    idle: float = 8.0
    iowait: float = 16.0
    irq: float = 32.0
    softirq: float = 64.0
    steal: float = 128.0
    guest: float = 0.5
    guest_nice: float = 0.25


def opened(clock: Any, model: LoadModel = MODEL) -> tuple[LoadMeter, FakeProcessor]:
    processor = FakeProcessor(clock)
    return LoadMeter(model, processor=processor, clock=clock), processor  # type: ignore[arg-type]


def test_processor_is_busy_when_it_neither_idles_waits_nor_serves_another_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("psutil.cpu_times", Times)
    busy_s, total_s = Processor().busy_s()
    assert busy_s == 1 + 2 + 4 + 32 + 64  # guests are inside user and nice
    assert total_s == busy_s + 8 + 16 + 128
    assert Processor().stolen_s() == 128


def test_processor_busy_time_needs_no_field_beyond_those_of_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(NamedTuple):
        user: float = 1.0
        nice: float = 2.0
        system: float = 4.0
        idle: float = 8.0

    monkeypatch.setattr("psutil.cpu_times", Bare)
    assert Processor().busy_s() == (7.0, 15.0)
    assert Processor().stolen_s() == 0.0


def test_processor_own_time_holds_the_children_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("time.process_time", lambda: 1.0)
    spent = {resource.RUSAGE_CHILDREN: SimpleNamespace(ru_utime=2.0, ru_stime=4.0)}
    monkeypatch.setattr("resource.getrusage", spent.__getitem__)
    assert Processor().own_s() == 7.0


@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_load_power_grows_with_load_between_idle_and_busy(low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert 10.0 <= MODEL.power_w(low) <= MODEL.power_w(high) + 1e-9 <= 50.0 + 2e-9


def test_load_power_at_the_ends_is_idle_and_busy() -> None:
    assert MODEL.power_w(0.0) == 10.0
    assert MODEL.power_w(1.0) == pytest.approx(50.0)


def test_load_energy_of_an_idle_machine_is_idle_power_times_time(clock: Any) -> None:
    meter, _ = opened(clock)
    clock.now_s += 30.0
    assert meter.read()[0] == pytest.approx(300.0)


def test_load_energy_of_a_busy_machine_is_busy_power_times_time(clock: Any) -> None:
    meter, processor = opened(clock)
    clock.now_s, processor.busy = clock.now_s + 30.0, 120.0
    assert meter.read()[0] == pytest.approx(1500.0)


def test_load_in_a_short_span_is_this_process_on_top_of_what_the_others_did(clock: Any) -> None:
    meter, processor = opened(clock)
    clock.now_s, processor.busy = clock.now_s + 1.0, 1.0  # others use one thread of four
    first_j = meter.read()[0]
    clock.now_s, processor.own = clock.now_s + 0.01, processor.own + 0.01  # 10 ms: one more thread, ours
    assert meter.read()[0] - first_j == pytest.approx(MODEL.power_w(0.5) * 0.01)


@given(spans=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 8), st.floats(0, 8)), max_size=30))
def test_load_energy_never_falls_and_stays_between_idle_and_busy(spans: list[tuple[float, float, float]]) -> None:
    class Now:
        now_s = 0.0

        def __call__(self) -> float:
            return self.now_s

    clock = Now()
    meter, processor = opened(clock)
    energy_j = 0.0
    for span_s, busy, own in spans:
        clock.now_s, processor.busy, processor.own = clock.now_s + span_s, processor.busy + busy, processor.own + own
        reading_j = meter.read()[0]
        assert reading_j >= energy_j
        energy_j = reading_j
    assert 10.0 * clock.now_s - 1e-6 <= energy_j <= 50.0 * clock.now_s + 1e-6


def test_load_models_are_wider_the_less_is_known() -> None:
    assert 1 < model_from_tdp(65.0).factor < model_from_cores(8).factor
    assert "65 W" in model_from_tdp(65.0).basis


def test_load_model_takes_the_thermal_design_power_where_only_the_counter_is_denied(tree: Any) -> None:
    folder = tree.zone("intel-rapl:0", "package-0", 0)
    (folder / "constraint_0_max_power_uw").write_text("65000000\n")
    assert this_machine(tree.root) == model_from_tdp(65.0)


def test_load_estimate_is_labelled_with_an_interval_of_its_factor(tree: Any) -> None:
    with bj.measure() as m:
        sum(range(10_000))
    assert m.source == "estimated"
    assert 0 < m.energy_low_j < m.energy_j < m.energy_high_j
    assert m.energy_high_j / m.energy_low_j == pytest.approx(model_from_cores(1).factor ** 2)
    assert any("doctor" in note for note in m.notes)


def test_load_read_late_may_have_been_at_full_power_meanwhile(clock: Any) -> None:
    meter, _ = opened(clock)
    watch = Watch(meter, clock=clock, attended=False)
    begin = watch.begin()
    clock.now_s += 60.0
    m = result("", Choice(watch, (), 0.0), begin, watch.end())
    assert m.energy_j == pytest.approx(10.0 * 60.0)
    full_j = MODEL.factor * 50.0 * 60.0
    assert full_j <= m.energy_high_j <= full_j + MODEL.factor * m.energy_j
    assert any("read late" in note for note in m.notes)
