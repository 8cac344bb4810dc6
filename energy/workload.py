"""The `Workload` noun: every op of one step as an `OpCost`, attributed to its module and phase."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

Phase = Literal["forward", "backward", "optimizer"]

# What the time and energy model tells apart. A `view` runs no kernel and costs the host only.
KINDS = (
    "matmul",
    "batched_matmul",
    "conv",
    "depthwise",
    "depthwise_grad",
    "attention",
    "recurrent",
    "recurrent_grad",
    "elementwise",
    "reduction",
    "copy",
    "gather",
    "view",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCost:
    """One op, or `calls` equal ones: what it computes and moves each time.

    Args:
        name: The op, such as `aten.addmm`.
        module: Dotted path of the module it belongs to; empty for the model itself.
        phase: forward, backward or optimizer.
        kind: One of `KINDS`.
        precision: Precision of the unit that does the maths.
        flop: Floating-point operations on the matrix unit, or on the vector unit for depthwise convolutions.
        elements: Elements that pass through the vector unit, reductions counted twice.
        heavy_elements: Those of `elements` that need a transcendental function.
        loop_elements: Elements that a processor's kernel takes one at a time, and a GPU's does not.
        serial: One core takes those, whatever the number.
        activation_bytes: Activation bytes read and written. [B]
        weight_bytes: Parameter, gradient and optimizer-state bytes read and written. [B]
        launches: Kernels launched.
        cpu_launches: Kernels launched on a processor, where a GPU needs another number.
        calls: How many times this op runs in the step.
        product: `(batch, m, n, k)` of the matrix product it is, or is lowered to; of a recurrent layer, `batch` steps.
        zeros: An input was written by a ReLU, so about half of it is zero.
        ruled: A rule of its own gave the numbers, not the element-wise fallback.
    """

    name: str
    module: str = ""
    phase: Phase = "forward"
    kind: str
    precision: str
    flop: int = 0
    elements: int = 0
    heavy_elements: int = 0
    loop_elements: int = 0
    serial: bool = False
    activation_bytes: int = 0
    weight_bytes: int = 0
    launches: int = 1
    cpu_launches: int | None = None
    calls: int = 1
    product: tuple[int, int, int, int] | None = None
    zeros: bool = False
    ruled: bool = True

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written. [B]"""
        return self.activation_bytes + self.weight_bytes

    @property
    def intensity_flop_per_byte(self) -> float:
        """Arithmetic intensity: FLOP for each byte moved. [FLOP/B]"""
        return self.flop / self.moved_bytes if self.moved_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One step of a model: its ops, and what the host does around them.

    Args:
        model: Name of the model, for people.
        mode: `inference` or `training`.
        precision: Precision the model was typed to.
        optimizer: Optimizer of the training step, else None.
        ops: Unique op costs, with their number of calls.
        module_calls: Calls of module forwards, each of which costs the host time.
        parameters: Number of parameters.
        parameter_bytes: Their size. [B]
        peak_memory_bytes: The most that its tensors occupy at once, the optimizer's state included; 0 where it is not known. [B]
        examples: Size of the inputs' first dimension.
        notes: Assumptions made while tracing.
    """

    model: str
    mode: str
    precision: str
    optimizer: str | None
    ops: tuple[OpCost, ...]
    module_calls: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    peak_memory_bytes: int = 0
    examples: int = 1
    notes: tuple[str, ...] = ()

    @cached_property
    def flop(self) -> int:
        """Floating-point operations of the step."""
        return sum(op.flop * op.calls for op in self.ops)

    @cached_property
    def moved_bytes(self) -> int:
        """Bytes read and written by the ops, before any cache. [B]"""
        return sum(op.moved_bytes * op.calls for op in self.ops)

    @cached_property
    def launches(self) -> int:
        """Kernels launched in the step."""
        return sum(op.launches * op.calls for op in self.ops)

    def quantized(self) -> "Workload":
        """The same step in int8: products on the int8 unit, a quarter of the bytes; converting between the two is not counted."""
        ops = tuple(
            replace(op, precision="int8", activation_bytes=op.activation_bytes // 4, weight_bytes=op.weight_bytes // 4)
            for op in self.ops
        )
        return replace(
            self,
            ops=ops,
            precision="int8",
            parameter_bytes=self.parameter_bytes // 4,
            peak_memory_bytes=self.peak_memory_bytes // 4,
        )

    @cached_property
    def unruled(self) -> dict[str, int]:
        """Calls of each op that had no rule of its own."""
        return dict(Counter(op.name for op in self.ops if not op.ruled))
