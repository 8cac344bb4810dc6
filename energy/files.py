"""Writes files whole or not at all: to a temporary neighbour, flushed to disk, then renamed over the target."""

import os
import tempfile
from pathlib import Path

from budjoule.energy.errors import RunError


def write_atomic(path: str | Path, content: str | bytes, *, force: bool = True) -> None:
    """Write `content` to `path` so that a crash leaves the old file or the new one, never half of one.

    A symbolic link stays, and what it leads to is renewed. A device or a pipe holds no old content: it is written into.

    Args:
        path: Where to write; its folder must exist.
        content: Text (UTF-8) or bytes.
        force: Overwrite an existing file.

    Raises:
        RunError: The file exists and `force` is off, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not force:
        raise RunError(f"{path} exists; give another name or --force to overwrite it")
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; check that the folder exists and is writable, and its free space"
        ) from None


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
