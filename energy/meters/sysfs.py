"""Numbers in the kernel's file tree: kept-open descriptors, and a root that `BUDJOULE_SYSFS_ROOT` moves.

Where a window's first reading passes, paths are strings: `pathlib` takes as long to import as all the rest of a start.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Opener = Callable[[str, int], int]

_TRIES = 20
_RETRY_S = 0.0005


def sysfs_path() -> str:
    """The tree that meters read: `BUDJOULE_SYSFS_ROOT`, or `/sys`."""
    return os.environ.get("BUDJOULE_SYSFS_ROOT") or "/sys"


def sysfs_root() -> "Path":
    """The same as a `Path`."""
    from pathlib import Path

    return Path(sysfs_path())


def read_text(path: "str | Path") -> str | None:
    """A small file's text without blanks at its ends; None if it cannot be read."""
    try:
        with open(path, errors="replace") as file:  # noqa: PTH123 - paths are strings here
            return file.read().strip()
    except OSError:
        return None


def read_number(path: "str | Path") -> float | None:
    """The number in a small file; None if there is none."""
    text = read_text(path)
    try:
        return float(text) if text else None
    except ValueError:
        return None


class Attribute:
    """One file that holds one integer or word, opened once and read in place, so that a window neither opens nor leaks anything.

    Args:
        path: The file.
        scale: SI units in one unit of the file, such as 1e-6 for microjoules.
        opener: Opens it; raises `PermissionError` or another `OSError`.
    """

    __slots__ = ("_fd", "_opener", "_scale", "_text", "path")

    def __init__(self, path: "str | Path", *, scale: float, opener: Opener = os.open) -> None:
        self.path = path
        self._scale = scale
        self._opener = opener
        self._text = b""
        self._fd = opener(str(path), os.O_RDONLY)

    def read(self) -> float | None:
        """The number now, in SI units; None if the file is gone or holds none."""
        text = self._read()
        try:
            return int(text) * self._scale if text else None
        except ValueError:
            return None

    def read_text(self) -> str | None:
        """The text now, without blanks at its ends; None if the file is gone."""
        text = self._read()
        return text.decode(errors="replace").strip() if text else None

    def _read(self) -> bytes | None:
        for tries in range(_TRIES):
            try:
                if self._fd < 0:
                    self._fd = self._opener(str(self.path), os.O_RDONLY)
                text = os.pread(self._fd, 64, 0)
                # A file that was removed or replaced by a rename reads as it did: only then is it worth a second look.
                if text == self._text and os.fstat(self._fd).st_nlink == 0:
                    self.close()
                    continue
            except OSError:
                return None
            if text:
                self._text = text
                return text
            if tries:  # empty: a writer is between truncating and writing
                time.sleep(_RETRY_S)
        return None

    def close(self) -> None:
        """Give the descriptor back; a later read opens the file anew."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._text = b""


def product(files: Iterable[Attribute]) -> float | None:
    """What several files say, multiplied, such as volts and amperes; None if one of them says nothing."""
    values = [file.read() for file in files]
    known = [value for value in values if value is not None]
    return math.prod(known) if len(known) == len(values) else None
