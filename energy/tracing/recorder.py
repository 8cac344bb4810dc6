"""Watches every aten op under a dispatch mode, counts it by its rule, and gives back tensors without data.

A signature (op, shapes, strides, dtypes, scalars) is worked out once: a later call with the same one costs a look-up, and its
outputs are made empty. Small integer, boolean and constant tensors stay real, so that models which look at values still run.
"""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from budjoule.energy.errors import UsageError
from budjoule.energy.ops.dataless import ALL_TRUE, REAL_NUMEL, selected
from budjoule.energy.ops.rule import Counted, tensors
from budjoule.energy.tracing.aten import RELU, Func, elementwise, maker, op_cost, storage_of, user_line
from budjoule.energy.tracing.memory import Memory
from budjoule.energy.workload import OpCost, Phase

__all__ = ["REAL_NUMEL", "Recorder"]


@dataclass(slots=True)
class _Known:
    """A signature's cost and the metadata of its outputs."""

    cost: OpCost
    make: Callable[[], Any] | None
    zeros: bool


class Recorder(TorchDispatchMode):
    """Records ops while it is entered; `weights` tells parameters from activations."""

    def __init__(self, precision: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.precision = precision
        self.rows: dict[tuple[int, str, Phase], int] = {}
        self.known: dict[tuple[Any, ...], _Known] = {}
        self.costs: list[OpCost] = []
        self.index: dict[int, int] = {}
        self.notes: dict[str, None] = {}
        # by the storage's name, which no other storage gets while a weak reference to it lasts
        self.weights: dict[int, StorageWeakRef] = {}
        self.zeros: dict[int, StorageWeakRef] = {}
        self.stale: dict[int, Any] = {}  # storages of real tensors that data-less ones were written into, kept alive
        self.stack: list[str] = [""]
        self.sequence: list[int] = [0]  # autograd's sequence number at each change of module ...
        self.module_at: list[str] = [""]  # ... and the module that ran from there on
        self.funcs: dict[Any, Func] = {}
        self.module_calls = 0
        self.in_step = False
        self.memory = Memory()
        self.fp32_products = "tf32" if precision == "tf32" else "fp32"

    def add_weights(self, weights: Iterable[torch.Tensor]) -> None:
        """Name the tensors whose bytes are weights."""
        for weight in weights:
            self.weights[weight.untyped_storage()._cdata] = StorageWeakRef(weight.untyped_storage())
            self.memory.hold(weight)

    def enter_module(self, name: str) -> None:
        """A module's forward begins."""
        self.module_calls += 1
        self.stack.append(name)
        self._mark(name)

    def leave_module(self) -> None:
        """The innermost module's forward has ended."""
        if len(self.stack) > 1:
            self.stack.pop()
        self._mark(self.stack[-1])

    @property
    def outermost(self) -> bool:
        """No module is running."""
        return len(self.stack) == 1

    @property
    def in_backward(self) -> bool:
        """Autograd is running a backward pass."""
        return torch._C._current_graph_task_id() != -1

    @contextmanager
    def stepping(self, step: bool = True) -> Iterator[None]:
        """What runs now belongs to an optimizer's step, or not."""
        before, self.in_step = self.in_step, step
        try:
            yield
        finally:
            self.in_step = before

    def apart_from_the_step(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The forward and backward pass that an optimizer runs within its step."""

        def run() -> Any:
            with self.stepping(False):
                return closure()

        return run

    def _mark(self, name: str) -> None:
        self.sequence.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self.module_at.append(name)

    def _where(self) -> tuple[str, Phase]:
        if not self.in_backward:
            return self.stack[-1], "optimizer" if self.in_step else "forward"
        if not self.outermost:  # a checkpoint runs its modules again
            return self.stack[-1], "backward"
        node = torch._C._current_autograd_node()
        number = node._sequence_nr() if node is not None else 1 << 63
        if number >= 1 << 62:  # gradient accumulation belongs to no module
            return "", "backward"
        return self.module_at[bisect_right(self.sequence, number) - 1], "backward"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ("profiler", "prim"):
            return func(*args, **kwargs)
        info = self.funcs.get(func)
        if info is None:
            info = self.funcs[func] = Func(func)
        key: list[Any] = [func]
        meta, real = self._describe(key, args, kwargs)
        if self.stale and any(storage_of(t) in self.stale for t in real):
            args, kwargs = self._without_data(args, kwargs, only=self.stale)
            key = [func]
            meta, real = self._describe(key, args, kwargs)
        if not meta and (real or info.factory) and all(t.numel() <= REAL_NUMEL for t in real):
            return self._run_real(info, args, kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._assumed_scalar(args[0])
        if info.indexed and len(args) > 1:
            args, real = self._positions(args, real)
        if real:
            if info.mutates:
                self.stale |= {
                    storage_of(t): t.untyped_storage() for t in tensors(args[0]) if storage_of(t) and not t.is_meta
                }
            args, kwargs = self._without_data(args, kwargs)
            key = [func]
            self._describe(key, args, kwargs)
        elif "device" in kwargs:
            kwargs = {**kwargs, "device": "meta"}
        if info.view:
            self._record(info, args, kwargs, None)
            return func(*args, **kwargs)
        return self._call(tuple(key), func, info, args, kwargs)

    def _describe(
        self, key: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Append the signature of the arguments to `key`; return the meta tensors and the real ones."""
        meta: list[torch.Tensor] = []
        real: list[torch.Tensor] = []
        for value in args:
            self._add(value, key, meta, real)
        for name, value in kwargs.items():
            key.append(name)
            self._add(value, key, meta, real)
        return meta, real

    # a method and no inner function that calls itself: such a circle would keep the tensors until Python looks for circles
    def _add(self, value: Any, key: list[Any], meta: list[torch.Tensor], real: list[torch.Tensor]) -> None:
        if isinstance(value, torch.Tensor):
            (meta if value.is_meta else real).append(value)
            storage = value.untyped_storage()._cdata if value.layout == torch.strided else 0
            key.append(
                (
                    value.shape,
                    value.stride() if storage else (),
                    value.dtype,
                    storage in self.weights,
                    storage in self.zeros,
                )
            )
        elif isinstance(value, (list, tuple)):
            key.append(len(value))
            for item in value:
                self._add(item, key, meta, real)
        else:
            key.append(value.__class__)
            key.append(value if value.__hash__ is not None and not isinstance(value, torch.Generator) else None)

    def _run_real(self, info: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op on small real tensors for its values; a floating result with a place on the device becomes data-less."""
        device = kwargs.get("device")
        if device is not None:
            kwargs = {**kwargs, "device": "cpu"}
        out = info.real(*args, **kwargs)
        made = tensors(out)
        self._record(info, args, kwargs, out)
        wanted_meta = device is not None and torch.device(device).type == "meta"
        if made and any(t.numel() > REAL_NUMEL or (wanted_meta and t.is_floating_point()) for t in made):
            return _map(out, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))
        return out

    def _assumed_scalar(self, tensor: torch.Tensor) -> Any:
        if not tensor.is_meta:
            return torch.ops.aten._local_scalar_dense.default(tensor)
        self.notes[f"a value that depends on the data was taken as 1{user_line()}, where the model reads it"] = None
        return torch.ones((), dtype=tensor.dtype).item()

    def _positions(self, args: tuple[Any, ...], real: list[torch.Tensor]) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
        """A boolean index becomes the positions it selects: those it holds where it is real, else all."""
        if not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            return args, real
        indices, known = selected(args[1])
        if not known:
            self.notes[ALL_TRUE] = None
        return (args[0], indices, *args[2:]), [*real, *tensors(indices)]

    def _without_data(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], only: Container[int] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace real tensors, or `only` those of some storages, by data-less ones."""

        def bare(t: torch.Tensor) -> torch.Tensor:
            if t.is_meta or (only is not None and storage_of(t) not in only):
                return t
            return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

        if "device" in kwargs and kwargs["device"] is not None:
            kwargs = {**kwargs, "device": torch.device("meta")}
        return tuple(_map(a, bare) for a in args), {k: _map(v, bare) for k, v in kwargs.items()}

    def _call(self, key: tuple[Any, ...], func: Any, info: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = self.known.get(key)
        if known is None:
            try:
                out = info.run(*args, **kwargs)
            except NotImplementedError as error:
                raise UsageError(
                    f"{func} cannot be traced without data ({str(error).splitlines()[0]}); pass the inputs it depends on as real integer or boolean tensors"
                ) from None
            counted = info.rule(args, kwargs, out) if info.rule else elementwise(args, out)
            known = self._learn(key, info, counted, args, kwargs, out)
            if info.note:
                self.notes.setdefault(info.note)
        elif info.returns_arguments:
            out = kwargs["out"] if "out" in kwargs else args[0]
        else:
            out = known.make() if known.make is not None else info.run(*args, **kwargs)
        self._count(known)
        if not info.mutates or known.zeros:
            self._made(out, known.zeros)
        return out

    def _made(self, out: Any, zeros: bool) -> None:
        for t in (out,) if isinstance(out, torch.Tensor) else tensors(out):
            self.memory.hold(t)
            storage = storage_of(t)
            if zeros and storage:
                self.zeros[storage] = StorageWeakRef(t.untyped_storage())
            else:
                self.zeros.pop(storage, None)

    def _record(self, info: Func, args: Any, kwargs: Any, out: Any) -> None:
        """Count an op that ran for its values or is a view."""
        if info.view:
            counted = Counted(kind="view", launches=0)
            key: tuple[Any, ...] = (info.name, "view")
        elif not tensors(out):
            return
        else:
            counted = info.rule(args, kwargs, out) if info.rule else elementwise(args, out)
            key = (info.name, tuple(t.shape for t in tensors(out)), tuple(t.shape for t in tensors(list(args))))
        known = self.known.get(key) or self._learn(key, info, counted, args, kwargs, out)
        self._count(known)

    def _learn(self, key: tuple[Any, ...], info: Func, counted: Counted, args: Any, kwargs: Any, out: Any) -> _Known:
        cost = op_cost(
            info, counted, args, kwargs, out, weights=self.weights, zeros=self.zeros, fp32_products=self.fp32_products
        )
        zeros = info.name in RELU and (info.name != "clamp_min" or (len(args) > 1 and args[1] == 0))
        known = _Known(
            cost=cost, make=None if info.view else maker(out, tensors([*args, *kwargs.values()])), zeros=zeros
        )
        self.index[id(known)] = len(self.costs)
        self.costs.append(cost)
        self.known[key] = known
        return known

    def _count(self, known: _Known) -> None:
        module, phase = self._where()
        row = (self.index[id(known)], module, phase)
        self.rows[row] = self.rows.get(row, 0) + 1


def _map(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item, function) for item in value)
    return value
