"""What every verb prints through: results on stdout, notes on stderr, files whole or not at all."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from budjoule.energy.errors import BudjouleError, RunError

if TYPE_CHECKING:
    from rich.console import Console


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, and nothing else.

    Raises:
        BudjouleError: The document holds a NaN or an infinity, which JSON cannot say.
    """
    print(to_json(document))


def to_json(document: Any) -> str:
    """A document as indented JSON.

    Raises:
        BudjouleError: The document holds a NaN or an infinity, which JSON cannot say.
    """
    try:
        return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise BudjouleError(
            f"cannot print the result as JSON: {error}; please report the command that gave it"
        ) from None


def print_text(text: str) -> None:
    """Print a finished document on stdout as it is; a character that the terminal lacks becomes `?`."""
    result_console().file.write(text)


def result_console() -> "Console":
    """A console on stdout, for results."""
    return _console(sys.stdout)


def note_console() -> "Console":
    """A console on stderr, for notes, progress and what to run next."""
    return _console(sys.stderr)


def note(text: str) -> None:
    """Print one line on stderr."""
    print(text, file=sys.stderr)


def save(path: str | Path, content: str | bytes, *, force: bool) -> None:
    """Write a result to a file of the user's choosing, and say so on stderr.

    Raises:
        RunError: The file exists and `force` is off, or it cannot be written.
    """
    from budjoule.energy.files import write_atomic

    write_atomic(path, content, force=force)
    note(f"wrote {path}")


def check_output(path: Path, *, force: bool) -> None:
    """Before the command is run: an hour's measurement must not end in a file that cannot be written.

    Raises:
        RunError: The file exists and `force` is off, or it cannot be written.
    """
    if path.exists() and not force:
        raise RunError(f"{path} exists; give another name or --force to overwrite it")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RunError(
            f"cannot write {path}: its folder {path.parent} does not exist or is not writable; give another path"
        )


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    # A terminal that cannot show a character (a `µ` under LANG=C) gets a `?`, not a traceback.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Console(file=stream, markup=False, highlight=False)
