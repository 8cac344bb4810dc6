"""Runs a command to its end, its signals passed on and its exit code as a shell would give it; or waits for a signal."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from budjoule.energy.errors import BudjouleError, UsageError

# All that end a process which does not know them. Stops and resizes come to a terminal's whole group, the command included.
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM")
_FROM_KEYS = ("SIGINT", "SIGQUIT")  # Ctrl-C and Ctrl-\
_LOOK_S = 1.0


Child = subprocess.Popen[bytes]


def wait_for_end(child: Child) -> int:
    """Wait for a command; its exit code as `Popen` gives it.

    A signal that the kernel hands to another thread than this one does not wake a plain wait: it would be passed on too late.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return child.wait()
    waking, woken = socket.socketpair()
    waking.setblocking(False)
    with waking, woken:
        wakes = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        ends = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        try:
            while child.poll() is None:
                woken.recv(1)
        finally:
            signal.signal(signal.SIGCHLD, ends)
            signal.set_wakeup_fd(wakes)
    return child.wait()


def run_child(
    command: list[str],
    *,
    stdout: int | None = None,
    in_child: Callable[[], None] | None = None,
    wait: Callable[[Child], int] = wait_for_end,
) -> int:
    """Run a command and wait for it.

    Args:
        command: The program and its arguments.
        stdout: Descriptor that takes its stdout; None to share ours.
        in_child: Called in the child before it becomes the command.
        wait: Waits for it, and returns its exit code as `Popen` gives it.

    Returns:
        Its exit code; 128 + N if signal N ended it, as a shell says.

    Raises:
        UsageError: There is no such command (exit code 127), or it cannot be run (126).
    """
    with _forwarding() as adopt:
        try:
            child = subprocess.Popen(command, stdout=stdout, preexec_fn=in_child)
        except OSError as error:
            raise _cannot_run(command[0], error) from None
        adopt(child)
        code = wait(child)
    return code if code >= 0 else 128 - code


def wait_for_signal() -> int:
    """Wait until someone asks the process to end (Ctrl-C, SIGTERM); returns 0, since that is how it is meant to end."""
    asked = threading.Event()
    with _handling(lambda number, frame: asked.set(), ("SIGINT", "SIGTERM")):
        while not asked.wait(_LOOK_S):  # without a timeout a signal would not be handled before the wait is over
            pass
    return 0


def _cannot_run(name: str, error: OSError) -> BudjouleError:
    if isinstance(error, FileNotFoundError):
        refusal = UsageError(f"command {name!r} not found; check the spelling and PATH")
        refusal.exit_code = 127
    else:
        refusal = UsageError(f"cannot run {name!r}: {error.strerror}; check that it is an executable file")
        refusal.exit_code = 126
    return refusal


@contextmanager
def _forwarding() -> Iterator[Callable[[Child], None]]:
    """Pass signals on to the child that is adopted; those that come before it exists wait for it."""
    children: list[Child] = []
    early: list[int] = []

    def adopt(child: Child) -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    def forward(number: int, frame: FrameType | None) -> None:
        if signal.Signals(number).name in _FROM_KEYS and _terminal_is_ours():
            return  # the key reached the command as well: the terminal sends it to the whole foreground group
        if not children:
            early.append(number)
        for child in children:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    with _handling(forward, _FORWARDED):
        yield adopt


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], object], names: Sequence[str]) -> Iterator[None]:
    """Handle signals meanwhile, but those that we were told to ignore (`nohup`), as the command then is too.

    Elsewhere than in the main thread, which alone may, do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _terminal_is_ours() -> bool:
    if not hasattr(os, "tcgetpgrp"):  # Windows sends Ctrl-C to the whole console too
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
