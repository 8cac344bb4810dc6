"""What every verb prints through: results on stdout, notes on stderr, files whole or not at all."""

import json
import os
import sys
from contextlib import suppress
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
    """Print one line on stderr; where nobody can read it (a closed pipe, a full disk), nothing ends for it."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def save(path: str | Path, content: str | bytes, *, force: bool) -> None:
    """Write a result to a file of the user's choosing, and say so on stderr.

    Raises:
        RunError: The file exists and `force` is off, or it cannot be written.
    """
    from budjoule.energy.files import write_atomic

    write_atomic(path, content, force=force)
    note(f"wrote {path}")


def save_measured(path: Path | None, document: Any, *, force: bool) -> int:
    """Write the document of a command that has run; exit code 1 if that fails, since the rest of the result is still to come."""
    if path is None:
        return 0
    try:
        save(path, to_json(document) + "\n", force=force)
    except RunError as error:
        note(f"budjoule: {error}")
        return error.exit_code
    return 0


def check_output(path: Path, *, force: bool) -> None:
    """Before the command is run: an hour's measurement must not end in a file that cannot be written.

    Raises:
        RunError: The file exists and `force` is off, or it cannot be written.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; give a file's name")
    if path.exists() and not force:
        raise RunError(f"{path} exists; give another name or --force to overwrite it")
    into = path.exists() and not path.is_file()  # a device or a pipe: what is written goes into it
    place = path if into else Path(os.path.realpath(path)).parent
    if not os.access(place, os.W_OK):
        raise RunError(f"cannot write {path}: {place} does not exist or is not writable; give another path")


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    # A terminal that cannot show a character (a `µ` under LANG=C) gets a `?`, not a traceback.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Console(file=stream, markup=False, highlight=False)
