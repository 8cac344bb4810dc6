"""From a model and a plan to a model that trains within the plan's memory, and back to an ordinary state dict."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import UsageError
from budjoule.training.memory.memory_plan import LayerPlan, MemoryPlan
from budjoule.training.memory.structure import owners

if TYPE_CHECKING:
    from torch import Tensor, nn


def lean(model: "nn.Module", plan: MemoryPlan, *, keep: bool = False) -> "nn.Module":
    """A copy of a model in which exactly what the plan says is trained, and little is kept for it.

    Its parameters have the model's names; one of which some channels are trained holds those channels only.

    Args:
        model: The model that the plan was made for; left as it is.
        plan: What is trained.
        keep: Hold all weights as floats and all activations as PyTorch does: the same numbers in less time, for a
            simulator that has the memory.

    Raises:
        UsageError: The plan was made for another model.
    """
    model = copy.deepcopy(model)
    apply(model, plan.layers, seed=plan.seed, block_bytes=plan.block_bytes, keep=keep)
    return model


def apply(
    model: "nn.Module", layers: Mapping[str, LayerPlan], *, seed: int = 0, block_bytes: int, keep: bool = False
) -> None:
    """Make a model lean in place; see `lean`."""
    from budjoule.training.memory.layers import PartLayer

    owned = owners(model)
    if {name: owner.inputs for name, owner in owned.items()} != {n: layer.inputs for n, layer in layers.items()}:
        odd = sorted({*owned} ^ {*layers}) or ["a layer's width"]
        raise UsageError(f"the plan is for another model: {odd[0]} differs; make a plan for this model")
    for salt, (name, layer) in enumerate(layers.items()):
        module: Any = owned[name].module
        if owned[name].choosable and not layer.whole:
            parent, _, last = name.rpartition(".")
            part = PartLayer(module, layer, seed=seed, salt=salt, block_bytes=block_bytes, keep=keep)
            setattr(model.get_submodule(parent), last, part)
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            trained = layer.bias if kind == "bias" and owned[name].choosable else layer.whole
            parameter.requires_grad_(parameter.requires_grad and trained)
    if not keep and not all(layer.whole and layer.bias for layer in layers.values()):
        _bit_relus(model)  # where all is trained, the next layer keeps a ReLU's output anyway


def whole_state(model: "nn.Module", trained: "nn.Module") -> "dict[str, Tensor]":
    """The state dict of an ordinary model with the weights of a lean one; their names and shapes are the model's.

    Args:
        model: The model that `lean` was given.
        trained: What it gave.
    """
    from budjoule.training.memory.layers import PartLayer

    state = {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()}
    for name, module in trained.named_modules():
        if isinstance(module, PartLayer):
            state[f"{name}.weight" if name else "weight"] = module.whole_weight()
    return {name: state[name] for name in model.state_dict()}


def _bit_relus(model: "nn.Module") -> None:
    """Let every ReLU keep bits; one right behind a layer that needs its output no more works in place."""
    import torch

    from budjoule.training.memory.layers import BitRelu, PartLayer

    for parent in [*model.modules()]:
        before: torch.nn.Module | None = None
        for name, child in [*parent.named_children()]:
            if type(child) is torch.nn.ReLU:
                alone = isinstance(parent, torch.nn.Sequential) and isinstance(
                    before, (PartLayer, torch.nn.Linear, torch.nn.Conv2d)
                )
                setattr(parent, name, BitRelu(in_place=child.inplace or alone))
            before = child
