"""Watches every aten op under a dispatch mode, counts it by its rule, and gives back tensors without data.

A signature (op, shapes, strides, dtypes, scalars) is worked out once: a later call with the same one costs a look-up, and its
outputs are made empty. Small integer, boolean and constant tensors stay real, so that models which look at values still run.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from budjoule.energy.errors import UsageError
from budjoule.energy.ops import RULES
from budjoule.energy.ops.rule import Counted, size_bytes, stored, tensors
from budjoule.energy.workload import OpCost, Phase

REAL_NUMEL = 1 << 18  # larger tensors are never kept real
NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int8: "int8",
    torch.complex64: "fp32",
    torch.complex128: "fp64",
}
RELU = {"relu", "relu6", "threshold", "clamp_min"}
FREE = {"detach", "alias", "lift_fresh", "_unsafe_view", "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "_reshape_alias", "set", "record_stream"}  # fmt: skip


class _Func:
    """What is known of an aten overload: how its outputs relate to its inputs, and its rule."""

    __slots__ = ("factory", "mutates", "name", "returns_arguments", "rule", "view")

    def __init__(self, func: Any) -> None:
        schema = func._schema
        base = schema.name.split("::")[1]
        self.mutates = base.endswith("_") and not base.endswith("__")
        self.name = base[:-1] if self.mutates else base
        aliases = [r.alias_info for r in schema.returns]
        self.view = any(a is not None and not a.is_write for a in aliases) or self.name in FREE
        self.returns_arguments = bool(aliases) and all(a is not None and a.is_write for a in aliases)
        self.mutates = self.mutates or self.returns_arguments
        self.factory = not any("Tensor" in str(a.type) for a in schema.arguments)
        name = self.name
        self.rule = RULES.get(name) or RULES.get(name.removesuffix("_copy")) or RULES.get(name + "_")


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
        self.weights: set[int] = set()
        self.zeros: set[int] = set()
        self.stack: list[str] = [""]
        self.sequence: list[int] = [0]  # autograd's sequence number at each change of module ...
        self.module_at: list[str] = [""]  # ... and the module that ran from there on
        self.funcs: dict[Any, _Func] = {}
        self.module_calls = 0
        self.fp32_products = "tf32" if precision == "tf32" else "fp32"

    def add_weights(self, weights: Iterable[torch.Tensor]) -> None:
        """Name the tensors whose bytes are weights."""
        self.weights.update(w.untyped_storage()._cdata for w in weights)

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

    def _mark(self, name: str) -> None:
        self.sequence.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self.module_at.append(name)

    def _where(self) -> tuple[str, Phase]:
        if not self.in_backward:
            return self.stack[-1], "forward"
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
            info = self.funcs[func] = _Func(func)
        key: list[Any] = [func]
        meta, real = self._describe(key, args, kwargs)
        if not meta and (real or info.factory) and all(t.numel() <= REAL_NUMEL for t in real):
            return self._run_real(func, info, args, kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._assumed_scalar(args[0])
        if real:
            args, kwargs = self._without_data(func, args, kwargs, bool(meta))
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
        weights, zeros = self.weights, self.zeros

        def add(value: Any) -> None:
            if isinstance(value, torch.Tensor):
                (meta if value.is_meta else real).append(value)
                storage = value.untyped_storage()._cdata if value.layout == torch.strided else 0
                key.append(
                    (value.shape, value.stride() if storage else (), value.dtype, storage in weights, storage in zeros)
                )
            elif isinstance(value, (list, tuple)):
                key.append(len(value))
                for item in value:
                    add(item)
            else:
                key.append(value.__class__)
                key.append(value if value.__hash__ is not None and not isinstance(value, torch.Generator) else None)

        for value in args:
            add(value)
        for name, value in kwargs.items():
            key.append(name)
            add(value)
        return meta, real

    def _run_real(self, func: Any, info: _Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op on small real tensors for its values; a floating result with a place on the device becomes data-less."""
        device = kwargs.get("device")
        if device is not None:
            kwargs = {**kwargs, "device": "cpu"}
        out = func(*args, **kwargs)
        made = tensors(out)
        self._record(info, args, kwargs, out)
        wanted_meta = device is not None and torch.device(device).type == "meta"
        if made and any(t.numel() > REAL_NUMEL or (wanted_meta and t.is_floating_point()) for t in made):
            return _map(out, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))
        return out

    def _assumed_scalar(self, tensor: torch.Tensor) -> Any:
        if not tensor.is_meta:
            return torch.ops.aten._local_scalar_dense.default(tensor)
        self.notes[
            "a value that depends on the data was taken as 1 (the model calls .item() or bool() on a tensor)"
        ] = None
        return torch.ones((), dtype=tensor.dtype).item()

    def _without_data(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mixed: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace real tensors by data-less ones; a boolean index becomes the positions it selects, while they are known."""
        name = func._schema.name
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index") and len(args) > 1:
            indices: list[Any] = []
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8) and not index.is_meta:
                    indices.extend(index.nonzero().unbind(1))
                else:
                    indices.append(index)
            args = (args[0], indices, *args[2:])

        def bare(t: torch.Tensor) -> torch.Tensor:
            return t if t.is_meta else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

        if "device" in kwargs and kwargs["device"] is not None:
            kwargs = {**kwargs, "device": torch.device("meta")}
        return tuple(_map(a, bare) for a in args), {k: _map(v, bare) for k, v in kwargs.items()}

    def _call(self, key: tuple[Any, ...], func: Any, info: _Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = self.known.get(key)
        if known is None:
            try:
                out = func(*args, **kwargs)
            except NotImplementedError as error:
                raise UsageError(
                    f"{func} cannot be traced without data ({str(error).splitlines()[0]}); pass the inputs it depends on as real integer or boolean tensors"
                ) from None
            counted = info.rule(args, kwargs, out) if info.rule else _elementwise(args, out)
            known = self._learn(key, info, counted, args, kwargs, out)
        elif info.returns_arguments:
            out = kwargs["out"] if "out" in kwargs else args[0]
        else:
            out = known.make() if known.make is not None else func(*args, **kwargs)
        self._count(known)
        if not info.mutates or known.zeros:
            self._tag(out, known.zeros)
        return out

    def _tag(self, out: Any, zeros: bool) -> None:
        for t in (out,) if isinstance(out, torch.Tensor) else tensors(out):
            storage = t.untyped_storage()._cdata
            if zeros:
                self.zeros.add(storage)
            else:
                self.zeros.discard(storage)

    def _record(self, info: _Func, args: Any, kwargs: Any, out: Any) -> None:
        """Count an op that ran for its values or is a view."""
        if info.view:
            counted = Counted(kind="view", launches=0)
            key: tuple[Any, ...] = (info.name, "view")
        elif not tensors(out):
            return
        else:
            counted = info.rule(args, kwargs, out) if info.rule else _elementwise(args, out)
            key = (info.name, tuple(t.shape for t in tensors(out)), tuple(t.shape for t in tensors(list(args))))
        known = self.known.get(key) or self._learn(key, info, counted, args, kwargs, out)
        self._count(known)

    def _learn(self, key: tuple[Any, ...], info: _Func, counted: Counted, args: Any, kwargs: Any, out: Any) -> _Known:
        ins = tensors(list(chain(args, kwargs.values())))
        weight_bytes = activation_bytes = 0
        if counted.kind != "view":
            mine = [t.untyped_storage()._cdata in self.weights for t in ins]
            weight_in = sum(size_bytes(t) for t, w in zip(ins, mine, strict=True) if w)
            activation_in = sum(size_bytes(t) for t, w in zip(ins, mine, strict=True) if not w)
            if counted.read_bytes is not None:  # the rule knows better; a table it picks from counts as weights
                total = weight_in + activation_in
                part = weight_in / total if total else 0.0
                weight_in = int(min(counted.read_bytes * part, weight_in))
                activation_in = counted.read_bytes - weight_in
            outs = tensors(out)
            written = counted.written_bytes if counted.written_bytes is not None else size_bytes(outs)
            if info.mutates and not outs:
                written = size_bytes(args[0]) if args else 0
            to_weight = bool(outs) and all(t.untyped_storage()._cdata in self.weights for t in outs)
            weight_bytes = weight_in + (written if to_weight else 0)
            activation_bytes = activation_in + (0 if to_weight else written) + counted.copied_bytes
        cost = OpCost(
            name=f"aten.{info.name}" + ("_" if info.mutates and counted.kind != "view" else ""),
            kind=counted.kind,
            precision=counted.precision or self._unit(ins, counted.kind),
            flop=counted.flop,
            elements=counted.elements,
            heavy_elements=counted.heavy,
            activation_bytes=activation_bytes,
            weight_bytes=weight_bytes,
            launches=counted.launches,
            product=counted.product,
            zeros=counted.product is not None and any(t.untyped_storage()._cdata in self.zeros for t in ins),
            ruled=info.rule is not None or counted.kind == "view",
        )
        zeros = info.name in RELU and (info.name != "clamp_min" or (len(args) > 1 and args[1] == 0))
        known = _Known(cost=cost, make=None if info.view else _maker(out, ins), zeros=zeros)
        self.index[id(known)] = len(self.costs)
        self.costs.append(cost)
        self.known[key] = known
        return known

    def _unit(self, ins: list[torch.Tensor], kind: str) -> str:
        for t in ins:
            if t.dtype in NAMES:
                name = NAMES[t.dtype]
                return (
                    self.fp32_products
                    if name == "fp32" and kind in ("matmul", "batched_matmul", "attention", "conv")
                    else name
                )
        return "fp32"

    def _count(self, known: _Known) -> None:
        module, phase = self._where()
        row = (self.index[id(known)], module, phase)
        self.rows[row] = self.rows.get(row, 0) + 1


def _elementwise(args: Any, out: Any) -> Counted:
    """The fallback of an op without a rule: one pass over its tensors."""
    elements = max((stored(t) for t in [*tensors(out), *tensors(list(args))]), default=0)
    return Counted(kind="elementwise", elements=elements)


def _map(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item, function) for item in value)
    return value


def _maker(out: Any, ins: list[torch.Tensor]) -> Callable[[], Any] | None:
    """A function that makes empty outputs like these, or None where an output is no plain data-less tensor or is an input."""
    made = tensors(out)
    if any(not t.is_meta or t.layout != torch.strided for t in made) or any(t is i for t in made for i in ins):
        return None
    if isinstance(out, torch.Tensor):
        size, stride, dtype = tuple(out.shape), out.stride(), out.dtype
        return lambda: torch.empty_strided(size, stride, dtype=dtype, device="meta")
    if out is None or isinstance(out, (int, float, bool)):
        return lambda: out
    if isinstance(out, (list, tuple)):
        kind = type(out)
        parts = [_maker(item, ins) for item in out]
        if any(p is None for p in parts):
            return None
        return lambda: kind(p() for p in parts if p is not None)
    return None
