"""What a plan's search needs to know of a model, from one run on fake tensors: the order of its layers and what they keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budjoule.training.memory.lean_model import apply
from budjoule.training.memory.memory_plan import LayerPlan
from budjoule.training.memory.predict import Loss, mean_loss, stand_in
from budjoule.training.memory.step import parts
from budjoule.training.memory.structure import owners

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One owner of parameters, at its place in the order of execution.

    Args:
        name: Its dotted name.
        inputs: Input channels to choose from; 1 where it is all or nothing.
        choosable: Whether there is a choice.
        weight_numel: Entries of the weights, or of all parameters where there is no choice.
        bias_numel: Entries of the bias, where there is a choice.
        input_bytes: One input channel of one micro-batch, kept for the weights' gradient. [B]
        chain_bytes: What the backward pass keeps from here to the loss beside that. [B]
    """

    name: str
    inputs: int
    choosable: bool
    weight_numel: int
    bias_numel: int
    input_bytes: int
    chain_bytes: int


def survey(model: "nn.Module", inputs: Any, labels: Any, *, loss: Loss | None, micro_batch: int) -> list[Stage]:
    """Every owner of parameters in the order of execution, with what reaching back to it keeps.

    The model runs with all biases trained and no weights of choosable layers, so that whatever autograd saves is what the
    chain costs: masks of activations, statistics of norms, the operands of attention.

    Args:
        model: The model; left as it is.
        inputs: As of `footprint`.
        labels: As of `footprint`.
        loss: As of `footprint`.
        micro_batch: Examples that go through the model at once.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    owned = owners(model)
    biases: Mapping[str, LayerPlan] = {
        name: LayerPlan(channels=() if owner.choosable else (0,), inputs=owner.inputs, bias=True)
        for name, owner in owned.items()
    }
    bare, batch, inside = stand_in(model, (inputs, labels))
    batch = next(parts(batch, micro_batch))
    with inside():
        apply(bare, biases, block_bytes=0)
        for leaf in tree_leaves(batch[0]):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                leaf.requires_grad_()  # so that the chain reaches all the way back
    notes = _Notes([*bare.parameters(), *bare.buffers(), *tree_leaves(batch)])
    for name in owned:
        bare.get_submodule(name).register_forward_pre_hook(lambda _m, args, name=name: notes.enter(name, args))
    with inside(), torch.autograd.graph.saved_tensors_hooks(notes.saved, lambda tensor: tensor):
        mean_loss(bare, *batch, loss=loss)
    after = 0
    stages: list[Stage] = []
    for place in range(len(notes.order) - 1, -1, -1):
        name = notes.order[place]
        owner, after = owned[name], after + notes.kept[place]
        sizes = {kind: p.numel() for kind, p in owner.module.named_parameters(recurse=False)}
        bias = sizes.pop("bias", 0) if owner.choosable else 0
        stages.append(
            Stage(
                name=name,
                inputs=owner.inputs,
                choosable=owner.choosable,
                weight_numel=sum(sizes.values()),
                bias_numel=bias,
                input_bytes=notes.inputs[name] // owner.inputs if owner.choosable else 0,
                chain_bytes=after,
            )
        )
    return stages[::-1]


class _Notes:
    """Takes down which owner runs first, what it is given, and what is saved until the next one runs."""

    def __init__(self, known: list[Any]) -> None:
        import torch

        self.order: list[str] = []
        self.kept: list[int] = []
        self.inputs: dict[str, int] = {}
        self._place = 0
        self._known = {t.untyped_storage()._cdata for t in known if isinstance(t, torch.Tensor)}
        self._held: list[Any] = []

    def enter(self, name: str, args: tuple[Any, ...]) -> None:
        import torch

        if name not in self.inputs:
            self.order.append(name)
            self.kept.append(0)
            self.inputs[name] = 0
        self._place = self.order.index(name)
        if args and isinstance(args[0], torch.Tensor):
            self.inputs[name] += args[0].numel() * args[0].element_size()

    def saved(self, tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known and self.order:
            self._known.add(storage._cdata)
            self._held.append(storage)  # an address is only a name while its storage lives
            self.kept[self._place] += storage.nbytes()
        return tensor
