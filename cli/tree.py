"""A command and all that it started: told to end, and ended, also what lost its parent on the way."""

import ctypes
import signal
import subprocess
import sys
from contextlib import suppress

import psutil

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # Linux, prctl(2)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (Linux), so that no daemon escapes a budget."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Tree:
    """The processes that came from a command. Made before it starts."""

    def __init__(self) -> None:
        adopt_orphans()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._seen: dict[int, psutil.Process] = {}
        self._told: set[int] = set()

    def in_child(self) -> None:
        """In the child, before it becomes the command: it is told to end when we die (Linux), since nobody holds it then."""
        if self._libc is not None:
            self._libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)

    def alive(self) -> list[psutil.Process]:
        """Those that run, the command itself included."""
        for process in psutil.Process().children(recursive=True):
            self._seen.setdefault(process.pid, process)
        return [process for process in self._seen.values() if _runs(process)]

    def terminate(self, child: "subprocess.Popen[bytes]") -> None:
        """Ask the command to end, and once it has, what it left behind; each is asked once.

        What the command started is its own to end, in its own order: a training script that is saving its state needs
        its data loaders. A shell that dies at once leaves them to us.
        """
        wanted = (
            [process for process in self.alive() if process.pid == child.pid] if child.poll() is None else self.alive()
        )
        for process in wanted:
            if process.pid not in self._told:
                self._told.add(process.pid)
                with suppress(psutil.Error):
                    process.terminate()

    def kill(self) -> None:
        """End all of them; call again until none is alive, since one may start another meanwhile."""
        for process in self.alive():
            with suppress(psutil.Error):
                process.kill()

    def wait(self, duration_s: float) -> bool:
        """Wait for them to end; whether all have. [s]"""
        return not psutil.wait_procs(self.alive(), timeout=duration_s)[1]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
