"""What `torch.compile` makes of a step: element-wise chains become one kernel, and what passes inside a kernel is neither written nor read.

As Inductor does by default, an element-wise op, a copy or one reduction joins the kernel that made its input; matrix products,
convolutions and attention stay kernels of their own. What a compiled backward pass computes again instead of keeping is left out.

Source: Ansel et al., PyTorch 2, ASPLOS 2024, doi:10.1145/3620665.3640366, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from budjoule.energy.workload import OpCost

JOIN = ("elementwise", "copy", "reduction")
LEAD = (*JOIN, "gather")
NEVER = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an op, and the activations that flow through it.

    Args:
        op: Its cost, module and phase.
        reads: Activation buffers it reads: identity and bytes. A buffer written again is another one.
        writes: Activation buffers it writes, likewise.
        numel: Elements it passes over.
    """

    op: OpCost
    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]
    numel: int


@dataclass(slots=True)
class _Kernel:
    """Calls that run as one kernel; places are positions in the step."""

    phase: str
    numel: int
    reduces: bool
    open: bool
    first: int
    last: int
    used: int = NEVER  # the first call outside that reads what it made


def fuse(calls: Sequence[Call]) -> tuple[OpCost, ...]:
    """The op costs of a step after fusion: the same FLOP and elements, fewer bytes and launches.

    Args:
        calls: Every call of the step, in order.
    """
    place = kernels_of(calls)
    readers: dict[int, set[int]] = {}
    for call, kernel in zip(calls, place, strict=True):
        for buffer, _ in call.reads:
            readers.setdefault(buffer, set()).add(kernel)
    inside: dict[int, set[int]] = {}  # buffers that a kernel has read or made
    total: dict[OpCost, int] = {}
    for index, (call, kernel) in enumerate(zip(calls, place, strict=True)):
        held = inside.setdefault(kernel, set())
        fusible = call.op.kind in LEAD
        read = sum(size for buffer, size in call.reads if fusible and buffer in held)
        # what no other kernel reads stays in registers
        kept = sum(size for buffer, size in call.writes if fusible and readers.get(buffer) == {kernel})
        written = sum(size for _, size in call.writes) - kept
        held.update(buffer for buffer, _ in (*call.reads, *call.writes))
        least = min(written, call.op.activation_bytes)
        op = replace(
            call.op,
            activation_bytes=max(least, call.op.activation_bytes - read - kept),
            launches=call.op.launches if kernel == index else 0,
            cpu_launches=call.op.cpu_launches if kernel == index else None,
        )
        total[op] = total.get(op, 0) + op.calls
    return tuple(replace(op, calls=count) for op, count in total.items())


def kernels_of(calls: Sequence[Call]) -> list[int]:
    """The kernel of each call, named by the position of its first call; kernels never wait for each other in a circle."""
    maker: dict[int, int] = {}  # buffer -> position of the call that wrote it
    place: list[int] = []
    kernels: dict[int, _Kernel] = {}
    for index, call in enumerate(calls):
        makers = {place[maker[buffer]] for buffer, _ in call.reads if buffer in maker}
        chosen = next((k for k in sorted(makers, reverse=True) if _joins(call, kernels, k, makers)), index)
        for k in makers - {chosen}:
            kernels[k].used = min(kernels[k].used, index)
        op = call.op
        if chosen == index:
            kernels[index] = _Kernel(
                phase=op.phase,
                numel=call.numel,
                reduces=op.kind == "reduction",
                open=op.kind in LEAD and op.launches == 1,
                first=index,
                last=index,
            )
        else:
            kernel = kernels[chosen]
            kernel.last = index
            kernel.reduces = kernel.reduces or op.kind == "reduction"
        place.append(chosen)
        for buffer, _ in call.writes:
            maker[buffer] = index
    return place


def _joins(call: Call, kernels: dict[int, _Kernel], chosen: int, makers: set[int]) -> bool:
    kernel = kernels[chosen]
    op = call.op
    if not kernel.open or op.kind not in JOIN or op.launches > 1 or op.phase != kernel.phase:
        return False
    if call.numel != kernel.numel or (kernel.reduces and op.kind == "reduction"):
        return False
    # another input could wait for what this kernel makes, unless nobody has used it yet or that input is older than it
    return kernel.used == NEVER or all(kernels[k].last < kernel.first for k in makers - {chosen})
