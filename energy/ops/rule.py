"""The table of op rules and what a rule returns; a rule reads shapes only and is called once for each new signature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from budjoule.energy.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one call of an op does.

    Args:
        kind: One of `workload.KINDS`.
        flop: Floating-point operations on a matrix unit (depthwise: on the lanes).
        elements: Elements through the vector unit.
        heavy: Those of them that need a transcendental function.
        loop: Elements that a processor's kernel takes one at a time, as a share of a max pooling's comparison each.
        serial: One core takes those, whatever the number.
        launches: Kernels launched.
        cpu_launches: Kernels launched on a processor, where a GPU needs another number.
        product: `(batch, m, n, k)` of the product.
        read_bytes: Bytes read, where they are not simply all tensor arguments. [B]
        written_bytes: Bytes written, where they are not simply all outputs. [B]
        copied_bytes: Bytes that layout copies inside the op read and write beside the above. [B]
        precision: Precision of the unit, where it is not that of the first floating argument.
    """

    kind: str
    flop: int = 0
    elements: int = 0
    heavy: int = 0
    loop: int = 0
    serial: bool = False
    launches: int = 1
    cpu_launches: int | None = None
    product: tuple[int, int, int, int] | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    copied_bytes: int = 0
    precision: str | None = None


Rule = Callable[[Sequence[Any], dict[str, Any], Any], Counted]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for aten ops, by their names without namespace and overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise UsageError(f"two rules for aten.{name}; remove one")
            RULES[name] = function
        return function

    return register


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a nest of lists and tuples, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors(item)]
    return []


def first(value: Any) -> torch.Tensor:
    """The first tensor of an output."""
    return tensors(value)[0]


def numel(value: Any) -> int:
    """Elements of all tensors in a nest."""
    return sum(t.numel() for t in tensors(value))


def size_bytes(value: Any) -> int:
    """Bytes that the tensors in a nest occupy; a dimension of stride 0 is stored once. [B]"""
    return sum(stored(t) * t.element_size() for t in tensors(value))


def stored(t: torch.Tensor) -> int:
    """Elements of a tensor that are stored: expanded dimensions count once, a sparse tensor's values only."""
    if t.layout == torch.sparse_coo:
        return t._values().numel()
    count = 1
    for size, stride in zip(t.shape, t.stride(), strict=True):
        if stride != 0 or size == 0:
            count *= size
    return count


def argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any = None) -> Any:
    """An op's argument, given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)
