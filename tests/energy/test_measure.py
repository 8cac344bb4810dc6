"""`bj.measure` on a replayed trace: as a context, a decorator and by hand; what it refuses; what it costs when things go wrong."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError, UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.replay import ReplayMeter
from budjoule.energy.windows.window import Window


class CounterMeter:
    """One counter that a test moves."""

    name, source, method, notes = "test", "measured", "a counter of a test", ()

    def __init__(self) -> None:
        self.domains = (Domain(name="package-0"),)
        self.energy_j = 0.0

    def read(self) -> list[float | None]:
        return [self.energy_j]

    def close(self) -> None: ...


def replay(*readings_j: float | None) -> ReplayMeter:
    return ReplayMeter([Domain(name="package-0", range_j=1000.0)], [[reading] for reading in readings_j])


def test_measure_fills_the_window_at_exit() -> None:
    with bj.measure("epoch", meter=replay(10.0, 25.0)) as m:
        pass
    assert m.energy_j == pytest.approx(15.0)
    assert m.domains == {"package-0": 15.0}
    assert m.power_w == pytest.approx(m.energy_j / m.duration_s)
    assert (m.source, m.label, m.summed) == ("measured", "epoch", ("package-0",))
    assert m.energy_low_j <= m.energy_j <= m.energy_high_j


def test_measure_fills_the_window_and_lets_the_exception_through() -> None:
    window = bj.measure(meter=replay(10.0, 12.0))
    with pytest.raises(ZeroDivisionError), window:
        raise ZeroDivisionError
    assert window.energy_j == pytest.approx(2.0)


def test_measure_before_its_end_has_no_number_but_can_be_read() -> None:
    with bj.measure("epoch", meter=replay(10.0, 12.0, 17.0)) as m:
        with pytest.raises(MeterError, match="has not ended"):
            _ = m.energy_j
        assert m.read().energy_j == pytest.approx(2.0)
    assert m.energy_j == pytest.approx(7.0)


def test_measure_decorates_functions_and_keeps_their_result() -> None:
    window = bj.measure(meter=replay(0.0, 3.0))
    seen: list[Measurement] = []

    @bj.measure(meter=replay(0.0, 3.0), on_end=seen.append)
    def double(x: int) -> int:
        """Twice x."""
        return 2 * x

    assert double(21) == 42
    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    assert (seen[0].label, seen[0].energy_j) == ("double", 3.0)
    assert window(lambda: 1)() == 1
    assert window.energy_j == 3.0


def test_measure_decorates_coroutines_over_their_whole_run() -> None:
    seen: list[Measurement] = []

    @bj.measure("wait", meter=replay(0.0, 4.0), on_end=seen.append)
    async def work() -> str:
        assert not seen
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(work()) == "done"
    assert [each.energy_j for each in seen] == [4.0]


def test_measure_windows_of_concurrent_tasks_each_see_their_own_energy() -> None:
    meter = CounterMeter()

    async def work(number: int, started: asyncio.Event, go_on: asyncio.Event) -> bj.Measurement:
        with bj.measure(f"task {number}", meter=meter) as m:
            started.set()
            await go_on.wait()
        return m.measurement

    async def both() -> list[bj.Measurement]:
        events = [asyncio.Event() for _ in range(4)]
        first = asyncio.create_task(work(1, events[0], events[1]))
        await events[0].wait()
        meter.energy_j = 3.0
        second = asyncio.create_task(work(2, events[2], events[3]))
        await events[2].wait()
        meter.energy_j = 10.0
        events[1].set()  # the first ends inside the second
        one = await first
        meter.energy_j = 14.0
        events[3].set()
        return [one, await second]

    one, two = asyncio.run(both())
    assert (one.label, one.energy_j) == ("task 1", 10.0)
    assert (two.label, two.energy_j) == ("task 2", 11.0)


def test_measure_decorator_without_parentheses_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"label is a function.*@bj.measure\(\)"):

        @bj.measure  # type: ignore[arg-type]
        def work() -> None: ...


def test_measure_decorator_refuses_generators_whose_body_runs_later() -> None:
    with pytest.raises(UsageError, match="numbers is a generator"):

        @bj.measure()
        def numbers() -> Iterator[int]:
            yield 1

    with pytest.raises(UsageError, match="stream is a generator"):

        @bj.measure()
        async def stream() -> AsyncIterator[int]:
            yield 1


def test_measure_decorated_function_that_recurses_opens_a_window_a_call() -> None:
    seen: list[Measurement] = []

    @bj.measure(on_end=seen.append)
    def down(n: int) -> None:
        if n:
            down(n - 1)

    down(3)
    assert len(seen) == 4
    assert [each.duration_s for each in seen] == sorted(each.duration_s for each in seen)


def test_measure_by_hand_begins_and_ends_once() -> None:
    window = bj.measure("x", meter=replay(0.0, 1.0))
    with pytest.raises(MeterError, match="not open"):
        window.end()
    assert window.begin() is window
    with pytest.raises(MeterError, match="open already"):
        window.begin()
    assert window.end().energy_j == 1.0
    with pytest.raises(MeterError, match="not open"):
        window.read()


def test_measure_synchronizes_before_both_ends() -> None:
    order: list[str] = []

    class Reading(ReplayMeter):
        def read(self) -> list[float | None]:
            order.append("read")
            return super().read()

    meter = Reading([Domain(name="gpu-0")], [[0.0], [1.0]])
    with bj.measure(meter=meter, synchronize=lambda: order.append("sync")):
        order.append("body")
    assert order == ["sync", "read", "body", "sync", "read"]


def test_measure_refuses_an_estimate_where_a_counter_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="no counter measures energy here"), bj.measure(require_measured=True):
        raise AssertionError("the body must not run")
    with pytest.raises(MeterError, match="estimate"):
        bj.measure(meter="load", require_measured=True).begin()


def test_measure_names_the_meters_there_are() -> None:
    with pytest.raises(UsageError, match=r"no meter .rapple.*rapl"):
        bj.measure(meter="rapple").begin()


def test_measure_sees_a_tree_that_appears_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budjoule.energy.windows.choose._FALLBACK_AGE_S", 0.0)
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with bj.measure() as before:
        pass
    folder = tmp_path / "class" / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "9000000")):
        (folder / name).write_text(text)
    with bj.measure() as after:
        (folder / "energy_uj").write_text("3000000")
    assert (before.source, after.source) == ("estimated", "measured")
    assert after.energy_j == pytest.approx(2.0)


def test_measure_opens_the_tree_anew_after_its_counters_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    folder = tmp_path / "class" / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "9000000")):
        (folder / name).write_text(text)
    with bj.measure() as first:
        (folder / "energy_uj").write_text("2000000")
    for file in folder.iterdir():
        file.unlink()
    with bj.measure() as second:
        pass
    assert (first.source, second.source) == ("measured", "estimated")
    assert second.energy_j > 0
    assert "processor load" in second.method


def test_measure_abandoned_window_lets_go_of_its_meter() -> None:
    meter = replay(0.0)
    window: Window | None = bj.measure(meter=meter).begin()
    assert window is not None
    watch = window._opened()[0].watch
    assert watch.open_windows == 1
    del window
    gc.collect()
    assert watch.open_windows == 0


def test_measure_windows_in_threads_do_not_mix() -> None:
    """One decorated function and one counter: each call sees what passed while it ran, whichever thread ends first."""
    meter, inside, seen = CounterMeter(), threading.Barrier(2), dict[str, float]()
    ends = [threading.Event() for _ in range(4)]

    @bj.measure(meter=meter, on_end=lambda m: seen.update({threading.current_thread().name: m.energy_j}))
    def work(end: threading.Event) -> None:
        inside.wait(30)
        assert end.wait(30)

    threads = [threading.Thread(target=work, args=(end,), name=f"{number}") for number, end in enumerate(ends)]
    for number, thread in enumerate(threads):
        thread.start()
        inside.wait(30)
        meter.energy_j += 10.0**number
    for number in (1, 3, 0, 2):
        ends[number].set()
        threads[number].join()
        meter.energy_j += 10.0 ** (4 + number)
    assert seen == {"1": 1110.0, "3": 101_000.0, "0": 10_101_111.0, "2": 10_111_100.0}


def test_measure_in_an_async_with_is_whole() -> None:
    async def work() -> Measurement:
        async with bj.measure("async", meter=replay(1.0, 5.0)) as m:
            await asyncio.sleep(0)
        return m.measurement

    assert asyncio.run(work()).energy_j == 4.0


@pytest.mark.parametrize("given", [True, False, "cuda"])
def test_measure_that_cannot_call_synchronize_names_what_can_be_given(given: object) -> None:
    with pytest.raises(UsageError, match=r"synchronize is a (bool|str); give the function .*torch.cuda.synchronize"):
        bj.measure(synchronize=given)  # type: ignore[arg-type]


def test_measure_process_that_exits_inside_a_window_ends_quietly() -> None:
    code = "import sys, budjoule as bj; bj.measure().begin(); sys.exit(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")


def test_measure_imports_nothing_heavy() -> None:
    code = "import sys, budjoule as bj; bj.measure; print(*sorted({'torch', 'numpy', 'scipy', 'sklearn', 'pyJoules'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
