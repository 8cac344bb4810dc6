"""Keeps torch's compiler out of a trace, which never compiles: loading it takes longer than tracing most models."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"
_MARK = "__dynamo_disable"  # where `torch._disable_dynamo` keeps a function's version that the compiler leaves alone


@contextmanager
def no_compiler() -> Iterator[None]:
    """While it is open, a function that torch hides from its compiler runs without loading the compiler for that.

    Whoever asks for anything else of the compiler gets it; one that is loaded already is left alone.
    """
    if _NAME in sys.modules:
        yield
        return
    stand_in = _Compiler()
    sys.modules[_NAME] = stand_in
    try:
        yield
    finally:
        stand_in.close()


class _Compiler(ModuleType):
    """What `torch._dynamo` is until something other than `disable` is asked of it."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self._plain: list[Callable[..., Any]] = []

    def disable(self, fn: Any = None, recursive: bool = True, *, wrapping: bool = True, **more: Any) -> Any:
        """The function itself, where torch hides one of its own (without wrapping): there is nothing to hide it from."""
        if wrapping or sys.modules.get(_NAME) is not self:
            self.close()
            return import_module(_NAME).disable(fn, recursive, wrapping=wrapping, **more)
        self._plain.append(fn)
        return fn

    def close(self) -> None:
        """Make room for the compiler, and let it hide torch's functions itself."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            if torch.__dict__.get("_dynamo") is self:
                del torch.__dict__["_dynamo"]
        for fn in self._plain:
            fn.__dict__.pop(_MARK, None)
        self._plain.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        self.close()
        return getattr(import_module(_NAME), name)
