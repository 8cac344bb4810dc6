"""What is known of an aten overload before it runs, what one call of it costs, and how to make outputs like those it gave."""

import sys
from collections.abc import Callable, Container
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from budjoule.energy.ops import RULES
from budjoule.energy.ops.dataless import ASSUMED, ON_CPU
from budjoule.energy.ops.rule import Counted, size_bytes, stored, tensors
from budjoule.energy.ops.shapes import KNOWN, shaped
from budjoule.energy.workload import OpCost

UNITS = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int8: "int8",
    torch.complex64: "fp32",
    torch.complex128: "fp64",
}
PRODUCTS = ("matmul", "batched_matmul", "attention", "recurrent", "recurrent_grad", "conv")
RELU = {"relu", "relu6", "threshold", "clamp_min"}
# No kernel runs: storage is shared or only allocated.
FREE = {
    "detach", "alias", "lift_fresh", "_unsafe_view", "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted", "_reshape_alias",
    "set", "record_stream", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "squeeze", "unsqueeze", "transpose", "t", "as_strided", "swapaxes", "swapdims", "detach_copy",
    "resize", "resize_as", "_linalg_check_errors", "is_same_size", "_has_same_storage_numel",
    "_sparse_coo_tensor_with_dims_and_tensors", "_sparse_coo_tensor_unsafe", "_coalesced",
}  # fmt: skip
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_unsafe_index_put", "aten::_index_put_impl_"}  # fmt: skip


class Func:
    """An aten overload: how its outputs relate to its inputs, its rule, and how it runs without data."""

    __slots__ = ("factory", "indexed", "mutates", "name", "note", "real", "returns_arguments", "rule", "run", "view")

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
        self.indexed = schema.name in INDEXED
        overload = f"{base}.{func._overloadname}" if func.namespace == "aten" else ""
        assumed = ASSUMED.get(overload)
        self.real = ON_CPU.get(overload, func)
        known = KNOWN.get(overload)
        self.run = assumed.run if assumed else shaped(func, known) if known else func
        self.note = assumed.note if assumed else None
        name = self.name
        self.rule = RULES.get(name) or RULES.get(name.removesuffix("_copy")) or RULES.get(name + "_")


def elementwise(args: Any, out: Any) -> Counted:
    """The fallback of an op without a rule: one pass over its tensors."""
    return Counted(
        kind="elementwise", elements=max((stored(t) for t in [*tensors(out), *tensors(list(args))]), default=0)
    )


def op_cost(
    info: Func,
    counted: Counted,
    args: Any,
    kwargs: Any,
    out: Any,
    *,
    weights: Container[int],
    zeros: Container[int],
    fp32_products: str,
) -> OpCost:
    """What one call costs: the rule's numbers, and the bytes of its tensors where the rule gave none.

    Args:
        info: The overload.
        counted: What its rule says of this call.
        weights: Storages whose bytes are weights.
        zeros: Storages that a ReLU wrote.
        fp32_products: Unit that products of fp32 tensors run on.
    """
    if counted.product is not None and 0 in counted.product:  # nothing to multiply, and no kernel for it
        counted = Counted(kind="view", launches=0)
    ins = tensors(list(chain(args, kwargs.values())))
    weight_bytes = activation_bytes = 0
    if counted.kind != "view":
        mine = [storage_of(t) in weights for t in ins]
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
        to_weight = bool(outs) and all(storage_of(t) in weights for t in outs)
        weight_bytes = weight_in + (written if to_weight else 0)
        activation_bytes = activation_in + (0 if to_weight else written) + counted.copied_bytes
    return OpCost(
        name=f"aten.{info.name}" + ("_" if info.mutates and counted.kind != "view" else ""),
        kind=counted.kind,
        precision=counted.precision or _unit(ins, counted.kind, fp32_products),
        flop=counted.flop,
        elements=counted.elements,
        heavy_elements=counted.heavy,
        loop_elements=counted.loop,
        serial=counted.serial,
        activation_bytes=activation_bytes,
        weight_bytes=weight_bytes,
        launches=counted.launches,
        cpu_launches=counted.cpu_launches,
        product=counted.product,
        zeros=counted.product is not None and any(storage_of(t) in zeros for t in ins),
        ruled=info.rule is not None or counted.kind == "view",
    )


def storage_of(t: torch.Tensor) -> int:
    """A name of the storage that a tensor looks into; sparse tensors have none."""
    return t.untyped_storage()._cdata if t.layout == torch.strided else 0


def _unit(ins: list[torch.Tensor], kind: str, fp32_products: str) -> str:
    for t in ins:
        if t.dtype in UNITS:
            name = UNITS[t.dtype]
            return fp32_products if name == "fp32" and kind in PRODUCTS else name
    return "fp32"


def maker(out: Any, ins: list[torch.Tensor]) -> Callable[[], Any] | None:
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
        parts = [maker(item, ins) for item in out]
        if any(p is None for p in parts):
            return None
        return lambda: kind(p() for p in parts if p is not None)
    return None


def user_line() -> str:
    """Where the model's own code is now: ` at file.py:12`, the innermost frame outside PyTorch and this package."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(("torch.", "budjoule.energy.")) and name != "torch":
            return f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
