"""What a model is made of, as a plan sees it: the modules that own parameters, and which of them can be trained in part."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A module with parameters of its own.

    Args:
        module: The module.
        choosable: Whether single input channels of its weights can be trained, and the rest kept in another way.
        inputs: How many input channels there are to choose from; 1 where it is all or nothing.
    """

    module: "nn.Module"
    choosable: bool
    inputs: int


def owners(model: "nn.Module") -> dict[str, Owner]:
    """Modules with parameters by dotted name; one that only shares what another owns is left out."""
    import torch

    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    # The encoder layer's fast path reads its children's weights past their forward.
    inside = {
        id(child)
        for module in model.modules()
        if isinstance(module, torch.nn.TransformerEncoderLayer)
        for child in module.modules()
    }
    found: dict[str, Owner] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        if own:
            alone = all(users[id(p)] == 1 for p in own) and id(module) not in inside and bool(name)
            choosable = alone and _has_channels(module)
            inputs = int(own[0].shape[1]) if choosable else 1
            found[name] = Owner(module=module, choosable=choosable, inputs=inputs)
    return found


def _has_channels(module: "nn.Module") -> bool:
    import torch

    if type(module) is torch.nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is torch.nn.Linear
