"""Keeps torch's compiler out of a trace, which never compiles: loading it takes longer than tracing most models.

Three modules make it: `torch._dynamo`, the symbolic shapes and sympy. Torch asks them small questions while a model runs
without data ("is this shape symbolic?"); a stand-in answers those and makes way for the real module at any other.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from operator import and_, or_
from types import ModuleType
from typing import Any

import torch

_DYNAMO, _SHAPES, _SYMPY = "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy"
_MARK = "__dynamo_disable"  # where `torch._disable_dynamo` keeps a function's version that the compiler leaves alone

# What the symbolic shapes answer where nothing asked about is symbolic.
_PLAIN: dict[str, Callable[..., Any]] = {
    "expect_true": lambda a, skip=0: a,
    "free_unbacked_symbols": lambda a: frozenset(),
    "guard_or_false": lambda a: a,
    "guard_or_true": lambda a: a,
    "guard_size_oblivious": lambda a: a,
    "guarding_hint_or_throw": lambda a: a,
    "has_guarding_hint": lambda a: True,
    "is_nested_int": lambda a: False,
    "statically_known_true": lambda a: a,
    "sym_and": lambda *a: reduce(and_, a),
    "sym_eq": lambda a, b: a == b,
    "sym_or": lambda *a: reduce(or_, a),
}


@contextmanager
def no_compiler() -> Iterator[None]:
    """While it is open, what torch asks of its compiler in passing is answered without loading the compiler for that.

    Whoever asks for anything else of the compiler gets it; one that is loaded already is left alone.
    """
    stand_ins: list[_StandIn] = []
    for kind in (_Dynamo, _Shapes, _Sympy):
        if kind.NAME not in sys.modules:
            kind(stand_ins)
    try:
        yield
    finally:
        for stand_in in stand_ins:
            stand_in.close()


class _StandIn(ModuleType):
    """What a module of the compiler is until something is asked of it that only the real one can answer."""

    NAME: str

    def __init__(self, together: "list[_StandIn]") -> None:
        super().__init__(self.NAME)
        self.__spec__ = find_spec(self.NAME)
        self._together = together
        together.append(self)
        sys.modules[self.NAME] = self

    def close(self) -> None:
        """Make room for the real module."""
        if sys.modules.get(self.NAME) is self:
            del sys.modules[self.NAME]

    def _real(self) -> ModuleType:
        for stand_in in self._together:  # the real modules load each other
            stand_in.close()
        return import_module(self.NAME)

    def __getattr__(self, name: str) -> Any:
        is_package = self.__spec__ is not None and self.__spec__.submodule_search_locations is not None
        if name.startswith("__") and not (name == "__path__" and is_package):
            raise AttributeError(name)
        return getattr(self._real(), name)


class _Dynamo(_StandIn):
    NAME = _DYNAMO

    def __init__(self, together: list[_StandIn]) -> None:
        super().__init__(together)
        self._plain: list[Callable[..., Any]] = []

    def disable(self, fn: Any = None, recursive: bool = True, *, wrapping: bool = True, **more: Any) -> Any:
        """The function itself, where torch hides one of its own (without wrapping): there is nothing to hide it from."""
        if wrapping or sys.modules.get(_DYNAMO) is not self:
            return self._real().disable(fn, recursive, wrapping=wrapping, **more)
        self._plain.append(fn)
        return fn

    def close(self) -> None:
        """Let the compiler hide torch's functions itself."""
        super().close()
        if torch.__dict__.get("_dynamo") is self:
            del torch.__dict__["_dynamo"]
        for fn in self._plain:
            fn.__dict__.pop(_MARK, None)
        self._plain.clear()


class _Shapes(_StandIn):
    NAME = _SHAPES

    def __init__(self, together: list[_StandIn]) -> None:
        super().__init__(together)
        for name, answer in _PLAIN.items():
            setattr(self, name, self._asked(name, answer))

    def _asked(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            if all(map(_is_plain, args)):
                return answer(*args, **kwargs)
            return getattr(self._real(), name)(*args, **kwargs)

        return ask


class _Sympy(_StandIn):
    NAME = _SYMPY

    def __getattr__(self, name: str) -> Any:
        # Type promotion asks whether a number is one of sympy's: none is, where it was never loaded.
        asker = sys._getframe(1).f_globals.get("__name__")
        if name == "Basic" and asker == "torch._prims_common" and sys.modules.get(_SYMPY) is self:
            return _NoSymbol
        return super().__getattr__(name)


class _NoSymbol:
    """The class of no number."""


def _is_plain(value: Any) -> bool:
    if type(value) in (int, bool):
        return True
    if isinstance(value, torch.Tensor):
        value = value.shape
    return isinstance(value, tuple) and all(map(_is_plain, value))
