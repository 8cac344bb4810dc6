"""Windows that share a watch: nested, overlapping, in threads, after a fork; and the thread that polls for them."""

import gc
import os
import queue
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.watch import Attendant, Watch

PACKAGE = Domain(name="package-0", range_j=262_143.0)


def passed_j(begin: Any, end: Any) -> float:
    return float(end.marks[0].total_j - begin.marks[0].total_j)


def test_windows_nested_and_overlapping_each_see_their_own_energy(hand_meter: Callable[..., Any], clock: Any) -> None:
    meter = hand_meter([PACKAGE], [100.0])
    watch = Watch(meter, clock=clock, attended=False)
    outer = watch.begin()
    meter.readings, clock.now_s = [110.0], clock.now_s + 1
    inner = watch.begin()
    meter.readings, clock.now_s = [115.0], clock.now_s + 1
    first_end = watch.end()
    meter.readings, clock.now_s = [135.0], clock.now_s + 1
    second_end = watch.end()
    assert passed_j(inner, first_end) == pytest.approx(5.0)
    assert passed_j(outer, second_end) == pytest.approx(35.0)
    assert passed_j(inner, second_end) == pytest.approx(25.0)
    assert watch.open_windows == 0


def test_windows_one_after_the_other_add_up_to_the_window_around_them(
    hand_meter: Callable[..., Any], clock: Any
) -> None:
    meter = hand_meter([PACKAGE], [0.0])
    watch = Watch(meter, clock=clock, attended=False)
    around, parts_j = watch.begin(), 0.0
    for number in range(1, 6):
        begin = watch.begin()
        meter.readings, clock.now_s = [float(number**2)], clock.now_s + 1
        parts_j += passed_j(begin, watch.end())
    assert parts_j == pytest.approx(passed_j(around, watch.end()))


def test_energy_between_windows_belongs_to_none_and_needs_no_poll(hand_meter: Callable[..., Any], clock: Any) -> None:
    meter = hand_meter([PACKAGE], [0.0])
    watch = Watch(meter, clock=clock, attended=False)
    watch.begin()
    watch.end()
    meter.readings, clock.now_s = [500.0], clock.now_s + 1e6  # wraps went by unseen while no window was open
    begin = watch.begin()
    meter.readings, clock.now_s = [501.0], clock.now_s + 1
    end = watch.end()
    assert passed_j(begin, end) == pytest.approx(1.0)
    assert end.marks[0].unsure_j == begin.marks[0].unsure_j


def test_windows_in_threads_count_every_joule_once(hand_meter: Callable[..., Any]) -> None:
    lock, meter = threading.Lock(), hand_meter([PACKAGE], [0.0])
    watch, sums, errors = Watch(meter, attended=False), [], []

    def work() -> None:
        try:
            for _ in range(200):
                begin = watch.begin()
                with lock:
                    meter.readings = [meter.readings[0] + 1.0]
                sums.append(passed_j(begin, watch.end()))
        except Exception as error:
            errors.append(error)

    around = watch.begin()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert passed_j(around, watch.end()) == pytest.approx(800.0)
    assert min(sums) >= 1.0
    assert watch.open_windows == 0


def test_meter_that_raises_mid_window_is_a_gap_and_no_crash(hand_meter: Callable[..., Any], clock: Any) -> None:
    meter = hand_meter([PACKAGE], [5.0])
    watch = Watch(meter, clock=clock, attended=False)
    watch.begin()

    def fail() -> list[float | None]:
        raise OSError(19, "No such device")

    meter.read = fail
    clock.now_s += 1
    assert watch.end().marks[0].gaps == 1


def test_watch_retired_inside_a_window_closes_its_meter_after_it(hand_meter: Callable[..., Any]) -> None:
    meter = hand_meter([PACKAGE], [5.0])
    watch = Watch(meter, attended=False)
    watch.begin()
    watch.retire()
    assert meter.closed == 0
    watch.end()
    assert meter.closed == 1


def test_attendant_polls_while_a_window_is_open_and_parks_after(hand_meter: Callable[..., Any]) -> None:
    polled, parked = threading.Event(), threading.Event()
    meter = hand_meter([Domain(name="package-0", range_j=1.0)], [0.0])  # polled every 5 ms
    watch, attendant = Watch(meter, attended=False), Attendant()
    read = meter.read

    def reading() -> list[float | None]:
        if threading.current_thread().name == "budjoule-meter":
            polled.set()
        return read()

    meter.read = reading
    watch.begin()
    attendant.call(watch)
    assert polled.wait(10)
    original = attendant._condition.wait

    def waiting(timeout: float | None = None) -> bool:
        if timeout is None:
            parked.set()
        return original(timeout)

    attendant._condition.wait = waiting  # type: ignore[method-assign]
    watch.end()
    assert parked.wait(10)
    watch.begin()
    polled.clear()
    attendant.call(watch)  # and wakes again
    assert polled.wait(10)
    watch.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_window_in_a_forked_child_works_though_the_lock_was_held(hand_meter: Callable[..., Any]) -> None:
    meter = hand_meter([PACKAGE], [5.0])
    watch = Watch(meter)
    watch.begin()
    with watch._lock:  # as if another thread were reading at the moment of the fork
        child = os.fork()
        if child == 0:
            code = 1
            signal.alarm(20)  # ends a child that deadlocks
            try:
                begin = watch.begin()
                meter.readings = [8.0]
                code = 0 if passed_j(begin, watch.end()) == 3.0 else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    watch.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_window_that_a_child_inherits_is_polled_there_over_every_wrap(hand_meter: Callable[..., Any]) -> None:
    meter = hand_meter([Domain(name="package-0", range_j=10.0)], [1.0])  # polled every 5 ms
    watch = Watch(meter)
    begin = watch.begin()
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(20)  # ends a child that nobody polls
        try:
            polled: queue.SimpleQueue[float] = queue.SimpleQueue()
            read = meter.read

            def reading() -> list[float | None]:
                readings: list[float | None] = read()
                polled.put(readings[0] or 0.0)
                return readings

            meter.read = reading
            for reading_j in (9.5, 0.5, 9.5, 0.5):
                meter.readings = [reading_j]
                while polled.get() != reading_j:
                    pass
            code = 0 if passed_j(begin, watch.end()) == 8.5 + 1.0 + 9.0 + 1.0 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    watch.end()


def test_attendant_holds_no_watch_that_nobody_else_holds(hand_meter: Callable[..., Any]) -> None:
    attendant, references = Attendant(), []
    for _ in range(20):
        watch = Watch(hand_meter([PACKAGE], [0.0]), attended=False)
        watch.begin()
        attendant.call(watch)
        watch.end()
        references.append(weakref.ref(watch))
    del watch
    gc.collect()
    assert not any(reference() for reference in references)
