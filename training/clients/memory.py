"""Peak memory of one training step, measured on a real step: every tensor that is alive, when it is."""

import copy
import weakref
from typing import TYPE_CHECKING, Any

from budjoule.training.clients.local import make_optimizer
from budjoule.training.config.config import Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def peak_memory_bytes(model: "nn.Module", inputs: "Tensor", labels: "Tensor", training: Training) -> int:
    """The most memory alive at once in a client's training step. [B]

    Counted are the weights and buffers, the gradients, the optimizer's state, and each tensor that the step makes, from its
    birth to its last use: saved activations, the gradients of activations, temporaries. Two steps run on a copy of the
    model, so that the second finds gradients and state where a real step would.
    Not counted: the batch itself, the base weights and the residual (they rest in storage during a step), and the
    workspace inside a kernel, which a phone's kernels have another amount of.

    Args:
        model: What is trained; left as it is.
        inputs: One batch. Shape (batch, ...).
        labels: Its classes. Shape (batch,).
        training: The local block.
    """
    import torch

    model = copy.deepcopy(model).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(training.optimizer, parameters, training.learning_rate)

    def step() -> None:
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()

    step()
    resident = [*model.parameters(), *model.buffers(), *(p.grad for p in parameters if p.grad is not None)]
    resident += [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    watch = _Watch([inputs, labels, *resident])
    with watch.mode():
        step()
    return watch.peak_bytes + sum(tensor.numel() * tensor.element_size() for tensor in resident)


class _Watch:
    """Adds up the storages that ops make, and takes each off when it dies."""

    def __init__(self, known: "list[Tensor]") -> None:
        self.peak_bytes = 0
        self._alive_bytes = 0
        self._known: dict[int, Any] = {}
        for tensor in known:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage

    def mode(self) -> Any:
        """A dispatch mode that watches every op inside it."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        watch = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                watch.note(tree_leaves(result))
                return result

        return Mode()  # type: ignore[no-untyped-call]

    def note(self, results: list[Any]) -> None:
        """Count the storages among an op's results that are new."""
        import torch

        for result in results:
            if isinstance(result, torch.Tensor) and (key := result.untyped_storage()._cdata) not in self._known:
                self._add(key, result.untyped_storage())

    def _add(self, key: int, storage: "torch.UntypedStorage") -> None:
        size_bytes = storage.nbytes()

        def dead(_: object) -> None:
            self._alive_bytes -= size_bytes
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, dead)
        self._alive_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
