"""How much device memory a step needs: the bytes of the tensors alive at once, followed from the first use of each storage to its end.

What is not seen: the framework's own (about 0.5 GB on CUDA), work spaces inside kernels, and what an allocator loses in its blocks.
"""

import weakref

import torch


class Memory:
    """Bytes held now, and the most held so far."""

    def __init__(self) -> None:
        self.live_bytes = 0
        self.most_bytes = 0
        self.kept_bytes = 0  # by what is there from the second step on, such as an optimizer's state
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @property
    def peak_bytes(self) -> int:
        """The most that a step holds at once. [B]"""
        return self.most_bytes + self.kept_bytes

    def hold(self, t: torch.Tensor) -> None:
        """A tensor is there, until the last one that shares its storage is gone."""
        if t.layout != torch.strided:
            return
        storage = t.untyped_storage()
        name, size_bytes = storage._cdata, storage.nbytes()
        if name in self._held:
            return

        def gone(_: object) -> None:
            self.live_bytes -= size_bytes
            del self._held[name]

        self._held[name] = weakref.ref(storage, gone)
        self.live_bytes += size_bytes
        self.pass_through(0)

    def pass_through(self, size_bytes: int) -> None:
        """Something of this size is there for a moment. [B]"""
        self.most_bytes = max(self.most_bytes, self.live_bytes + size_bytes)
