"""Whole windows over a tree of counters: many of them, in threads, over a fork, at a process's end, under a moved wall clock."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.windows.choose import choose

MANY = 100_000


@pytest.fixture
def package(tree: Any) -> Any:
    tree.zone("intel-rapl:0", "package-0", 0)
    return tree


def test_windows_by_the_hundred_thousand_leak_neither_descriptors_nor_memory(package: Any) -> None:
    def windows(count: int) -> None:
        for _ in range(count):
            with bj.measure():
                pass

    windows(1000)
    handles, blocks, threads = handle_count(), sys.getallocatedblocks(), threading.active_count()
    windows(MANY)
    assert handle_count() == handles
    assert sys.getallocatedblocks() - blocks < MANY / 100
    assert threading.active_count() == threads
    assert choose().watch.open_windows == 0


def handle_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_windows_nested_each_count_what_passed_inside_them(package: Any) -> None:
    with bj.measure() as outer:
        package.set("intel-rapl:0", 1_000_000)
        with bj.measure() as inner:
            package.set("intel-rapl:0", 3_000_000)
        package.set("intel-rapl:0", 7_000_000)
    assert (inner.energy_j, outer.energy_j) == (pytest.approx(2.0), pytest.approx(7.0))


def test_windows_in_threads_see_the_same_counter(package: Any) -> None:
    opened, moved = threading.Barrier(5), threading.Barrier(5)
    energies: list[float] = []

    def work() -> None:
        with bj.measure() as m:
            opened.wait(30)
            moved.wait(30)
        energies.append(m.energy_j)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    opened.wait(30)
    package.set("intel-rapl:0", 4_000_000)
    moved.wait(30)
    for thread in threads:
        thread.join()
    assert energies == [pytest.approx(4.0)] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_window_over_a_fork_is_whole_in_both_processes(package: Any) -> None:
    with bj.measure() as outer:
        package.set("intel-rapl:0", 1_000_000)
        child = os.fork()
        if child == 0:
            code = 1
            signal.alarm(20)  # ends a child that deadlocks
            try:
                with bj.measure() as own:
                    package.set("intel-rapl:0", 3_000_000)
                inherited = outer.end()
                code = 0 if (round(own.energy_j, 6), round(inherited.energy_j, 6)) == (2.0, 3.0) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert outer.energy_j == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(3)", 3), ("raise SystemExit(4)", 4), ("os._exit(5)", 5), ("os.kill(os.getpid(), 15)", -15)],
)
def test_process_that_ends_inside_a_window_ends_as_it_would_have(package: Any, ending: str, code: int) -> None:
    script = f"import os, sys, budjoule as bj\nwith bj.measure():\n    {ending}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_window_is_not_moved_by_a_stepped_wall_clock(package: Any) -> None:
    """The wall clock goes back a day at every look, also at one through a default that was bound at import."""
    script = f"""
import time
wall_s = [1e9]
def stepped():
    wall_s[0] -= 86_400.0
    return wall_s[0]
time.time, time.time_ns = stepped, lambda: int(stepped() * 1e9)
import budjoule as bj
with bj.measure() as m:
    open({str(package.root / "class" / "powercap" / "intel-rapl:0" / "energy_uj")!r}, "w").write("2000000")
print(m.duration_s, m.energy_j, m.energy_high_j)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    duration_s, energy_j, high_j = map(float, done.stdout.split())
    assert 0 <= duration_s < 60
    assert energy_j == pytest.approx(2.0)
    assert high_j > energy_j


def test_exception_inside_a_window_passes_and_leaves_its_energy(package: Any) -> None:
    window = bj.measure()

    def interrupted() -> None:
        with window:
            package.set("intel-rapl:0", 2_000_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert window.energy_j == pytest.approx(2.0)
    assert choose().watch.open_windows == 0
