"""Counts the bytes that are alive while a step runs, real or fake tensors alike, and what they are at the peak."""

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from budjoule.training.memory.workspace import hidden_bytes, workspace_bytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KINDS = ("weights", "gradients", "state", "saved", "workspace")


class Watch:
    """Every storage from its birth to its last use, by kind: `workspace` until it turns out to be something else.

    Args:
        outside: Tensors that are not counted, such as the batch.
    """

    def __init__(self, outside: "Iterable[Tensor]" = ()) -> None:
        self.alive_bytes = dict.fromkeys(KINDS, 0)
        self.peak_bytes: dict[str, int] = dict(self.alive_bytes)
        self._total = self._peak = 0
        self._kinds: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._held: list[Any] = []
        self._known: dict[int, Any] = {}
        for tensor in outside:
            self._known[tensor.untyped_storage()._cdata] = None
            self._held.append(tensor.untyped_storage())  # an address is only a name while its storage lives

    def hold(self, tensors: "Iterable[Tensor]", kind: str) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._born(tensor.untyped_storage(), kind)

    def tag(self, tensor: "Tensor", kind: str) -> None:
        """Say what a tensor turned out to be; the first answer stands."""
        key = tensor.untyped_storage()._cdata
        if self._kinds.get(key) == "workspace":
            size_bytes = self._sizes[key]
            self._kinds[key] = kind
            self.alive_bytes["workspace"] -= size_bytes
            self.alive_bytes[kind] += size_bytes

    def mode(self) -> AbstractContextManager[Any]:
        """A dispatch mode that watches every op inside it."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        watch = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                before = watch._total
                result = func(*args, **(kwargs or {}))
                inside = workspace_bytes(func, args, result)
                if before + inside > watch._peak:
                    watch._note_peak(before + inside)
                watch._results(tree_leaves(result), hidden_bytes(func, args))
                return result

        return Mode()  # type: ignore[no-untyped-call]

    def saving(self) -> AbstractContextManager[Any]:
        """While it is open, what autograd keeps for the backward pass is tagged as saved."""
        import torch

        def pack(tensor: "Tensor") -> "Tensor":
            self.tag(tensor, "saved")
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    def _results(self, results: list[Any], hidden_bytes: int) -> None:
        import torch

        for result in results:
            if isinstance(result, torch.Tensor):
                more = hidden_bytes if result is results[-1] and not result.numel() else 0
                self._born(result.untyped_storage(), "workspace", more)
        if self._total > self._peak:
            self._note_peak(self._total)

    def _note_peak(self, total: int) -> None:
        self._peak = total
        self.peak_bytes = dict(self.alive_bytes)
        self.peak_bytes["workspace"] += total - sum(self.alive_bytes.values())

    def _born(self, storage: "torch.UntypedStorage", kind: str, more_bytes: int = 0) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size_bytes = storage.nbytes() + more_bytes

        def dead(_: object) -> None:
            self.alive_bytes[self._kinds.pop(key)] -= self._sizes.pop(key)
            self._total -= size_bytes
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, dead)
        self._kinds[key], self._sizes[key] = kind, size_bytes
        self.alive_bytes[kind] += size_bytes
        self._total += size_bytes
