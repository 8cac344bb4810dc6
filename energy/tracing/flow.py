"""A recorder that also keeps which call reads what another wrote, as fusion needs it."""

import weakref
from dataclasses import replace
from typing import Any

import torch

from budjoule.energy.ops.rule import size_bytes, tensors
from budjoule.energy.tracing.fusion import Call
from budjoule.energy.tracing.recorder import Recorder
from budjoule.energy.workload import OpCost, Phase


class FlowRecorder(Recorder):
    """Records every call in order, with the activations it reads and writes."""

    def __init__(self, precision: str) -> None:
        super().__init__(precision)
        self.calls: list[Call] = []
        self._counted: tuple[OpCost, str, Phase] | None = None
        # storage -> itself while it lives (its place is used again), and the name of its present content
        self._buffers: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._names = 0

    def _count(self, known: Any) -> None:
        super()._count(known)
        self._counted = (known.cost, *self._where())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._counted = None
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self._counted is not None and self._counted[0].kind != "view":
            self._keep(*self._counted, tensors([*args, *(kwargs or {}).values()]), tensors(out))
        return out

    def _keep(self, cost: OpCost, module: str, phase: Phase, ins: list[torch.Tensor], outs: list[torch.Tensor]) -> None:
        reads: dict[int, int] = {}
        for t in ins:
            if t.layout == torch.strided and t.untyped_storage()._cdata not in self.weights:
                buffer = self._buffer(t, new=False)
                reads[buffer] = max(reads.get(buffer, 0), size_bytes(t))
        writes = {
            self._buffer(t, new=True): size_bytes(t)
            for t in outs
            if t.layout == torch.strided and t.untyped_storage()._cdata not in self.weights
        }
        op = replace(cost, module=module, phase=phase)
        numel = max((t.numel() for t in (*ins, *outs)), default=0)
        self.calls.append(Call(op=op, reads=tuple(reads.items()), writes=tuple(writes.items()), numel=numel))

    def _buffer(self, t: torch.Tensor, *, new: bool) -> int:
        storage = t.untyped_storage()
        found = self._buffers.get(storage._cdata)
        if found is None or found[0]() is not storage or new:
            self._names += 1
            found = self._buffers[storage._cdata] = (weakref.ref(storage), self._names)
        return found[1]
