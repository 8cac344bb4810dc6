"""Runs other people's code beside a result: whatever it prints goes to stderr, so that stdout holds the result alone."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

_STDOUT, _STDERR = 1, 2


@contextmanager
def stdout_aside() -> Iterator[None]:
    """Send stdout to stderr meanwhile: what Python prints, and what C code or a child writes to the descriptor."""
    sys.stdout.flush()
    with redirect_stdout(sys.stderr):
        try:
            kept = os.dup(_STDOUT)
        except OSError:  # stdout is closed, so there is nothing to keep clean
            yield
            return
        try:
            with suppress(OSError):  # stderr is closed: the descriptor stays as it is
                os.dup2(_STDERR, _STDOUT)
            yield
        finally:
            os.dup2(kept, _STDOUT)
            os.close(kept)
