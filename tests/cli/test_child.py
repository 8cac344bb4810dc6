"""A command is waited for with an ear for signals, whichever thread they reach."""

import os
import signal
import sys
import threading

import pytest

from budjoule.cli.child import run_child


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX threads")
def test_a_signal_that_reaches_another_thread_is_passed_on_while_the_command_runs() -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(42))
print("ready", flush=True)
time.sleep(30)
"""
    reader, writer = os.pipe()

    def take_one() -> None:
        os.read(reader, 1)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGCHLD)
    thread = threading.Thread(target=take_one)
    thread.start()
    try:
        assert run_child([sys.executable, "-c", code], stdout=writer) == 42
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    assert signal.getsignal(signal.SIGCHLD) is before


def test_a_command_that_ends_at_once_is_noticed() -> None:
    assert [run_child(["sh", "-c", f"exit {code}"]) for code in range(5)] == list(range(5))
