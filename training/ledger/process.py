"""Names a process so that it is told apart from a later one with the same number, also after a reboot."""

import os
from functools import cache
from pathlib import Path


def process_mark() -> str:
    """This process, as `number:start`."""
    return _mark(os.getpid())


def still_runs(mark: str) -> bool:
    """Whether the process that made the mark is running on this machine."""
    pid = int(mark.partition(":")[0])
    return f"{pid}:{_started(pid)}" == mark


@cache  # by the number, so that a forked child gets a mark of its own
def _mark(pid: int) -> str:
    return f"{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """When the process started; empty if there is none.

    On Linux the boot's identity and ticks since then: unlike a date it does not change when the clock is set.
    """
    proc = Path("/proc")
    if (proc / "self/stat").exists():
        try:
            ticks = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
        return f"{(proc / 'sys/kernel/random/boot_id').read_text().strip()}:{ticks}"
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return ""
