"""Finds a user's function by its name: `package.module:callable` or `path/to/file.py:callable`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from budjoule.energy.errors import UsageError


def is_named(spec: str) -> bool:
    """Whether a spec names a callable, as `module:callable` does.

    >>> is_named("package.module:build"), is_named("mlp")
    (True, False)
    """
    return ":" in spec


def load_callable(spec: str, what: str) -> Callable[..., Any]:
    """The callable that a spec names.

    Args:
        spec: `package.module:callable`, or `path/to/file.py:callable`.
        what: What it is for, such as "model"; for messages.

    Raises:
        UsageError: No such file, module or callable, or importing it fails.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise UsageError(f"cannot read the {what} {spec!r}; write package.module:callable or path/to/file.py:callable")
    module = _load_file(place, spec, what) if place.endswith(".py") else _load_module(place, spec, what)
    found = getattr(module, name, None)
    if not callable(found):
        offered = ", ".join(
            sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))[:8]
        )
        raise UsageError(f"{what} {spec!r}: {place} has no callable {name!r}; it has {offered or 'none'}")
    return found  # type: ignore[no-any-return]


def _load_module(place: str, spec: str, what: str) -> object:
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:  # `python -m` finds modules in the working folder and an installed script does not: do as the former
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{what} {spec!r}: no module named {error.name!r}; check the name, or give a path ending in .py"
        ) from None
    except (Exception, SystemExit) as error:  # a user's module can raise anything, and scripts exit
        raise UsageError(f"{what} {spec!r}: importing {place} failed with {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(folder)


def _load_file(place: str, spec: str, what: str) -> object:
    path = Path(place)
    if not path.is_file():
        raise UsageError(f"{what} {spec!r}: no file {place}; check the path")
    name = f"budjoule_user_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"{what} {spec!r}: {place} cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and pickling inside the file look their own module up
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file can raise anything, and scripts exit
        del sys.modules[name]
        raise UsageError(f"{what} {spec!r}: running {place} failed with {type(error).__name__}: {error}") from error
    return module
