"""Modules that take the place of a model's own where a plan trains less than all of them."""

from typing import Any

import torch
from torch import Tensor, nn

from budjoule.training.memory.functions import Convolution, Dense, MaskedRelu, PartlyTrained
from budjoule.training.memory.memory_plan import LayerPlan
from budjoule.training.memory.signs import DenseSigns, Signs, seeded_signs
from budjoule.training.memory.storage import Bytes, Floats


class PartLayer(nn.Module):
    """A dense or convolution layer of which some input channels' weights are trained, or none, but not all.

    Args:
        layer: The layer it stands for.
        plan: What of it is trained, and how the rest is kept.
        seed: Seed of weights that are signs.
        salt: The layer's number, so that no two share their signs.
        block_bytes: How many bytes of stored weights may be floats at once. [B]
        keep: Hold all weights as floats, with the values that storage gives them: the same numbers in less time.
    """

    chosen: Tensor | None
    rest: Tensor | None
    whole: Tensor | None

    def __init__(
        self, layer: "nn.Linear | nn.Conv2d", plan: LayerPlan, *, seed: int, salt: int, block_bytes: int, keep: bool
    ) -> None:
        super().__init__()
        self._dense = isinstance(layer, nn.Linear)
        self._product = Dense() if isinstance(layer, nn.Linear) else _convolution(layer)
        weight = layer.weight.detach()
        if plan.storage == "signs":
            weight = seeded_signs(tuple(weight.shape), seed=seed, salt=salt, scale=plan.scale)
        some = bool(plan.channels)
        chosen = torch.tensor(plan.channels, dtype=torch.int32)
        rest = torch.tensor(sorted({*range(weight.shape[1])} - {*plan.channels}), dtype=torch.int32)
        self.weight = nn.Parameter(weight.index_select(1, chosen)) if some else None
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=plan.bias)
        kept = weight.index_select(1, rest) if some else weight
        self.storage: Floats | Bytes | DenseSigns | Signs = Floats(kept)
        if plan.storage == "bytes":
            self.storage = Bytes(kept, block_bytes=block_bytes)
        elif plan.storage == "signs" and self._dense:
            shape = tuple(weight.shape)
            self.storage = DenseSigns(shape, seed=seed, salt=salt, scale=plan.scale, columns=rest if some else None)
        elif plan.storage == "signs":
            self.storage = Signs(kept, scale=plan.scale, block_bytes=block_bytes)
        self.register_buffer("chosen", chosen if some else None, persistent=False)
        self.register_buffer("rest", rest if some else None, persistent=False)
        self.register_buffer("whole", None, persistent=False)
        if keep:
            self.whole = self.whole_weight()

    def forward(self, x: Tensor) -> Tensor:
        """What the layer would give."""
        if self.whole is not None:
            weight = self.whole
            if self.weight is not None and self.chosen is not None:
                weight = weight.index_copy(1, self.chosen.long(), self.weight)
            return self._product.forward(x, weight, self.bias)
        many = self._dense and x.dim() != 2
        flat = x.reshape(-1, x.shape[-1]) if many else x
        frozen = self.storage.frozen()
        with torch.autocast("cpu", enabled=False):  # floats, as the plan counts them
            y: Tensor = PartlyTrained.apply(  # type: ignore[no-untyped-call]
                flat.float(), self.weight, self.bias, self._product, frozen, self.chosen, self.rest
            )
        return y.view(*x.shape[:-1], y.shape[-1]) if many else y

    def whole_weight(self) -> Tensor:
        """All weights, as the layer it stands for would hold them."""
        if self.weight is None or self.chosen is None or self.rest is None:
            return (self.storage.whole() if self.whole is None else self.whole).clone()
        if self.whole is not None:
            return self.whole.index_copy(1, self.chosen.long(), self.weight.detach())
        kept = self.storage.whole()
        whole = kept.new_empty((len(kept), len(self.chosen) + len(self.rest), *kept.shape[2:]))
        whole.index_copy_(1, self.chosen.long(), self.weight.detach())
        return whole.index_copy_(1, self.rest.long(), kept)


class BitRelu(nn.Module):
    """ReLU that keeps a bit an element for the backward pass, or a byte where there are few."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self._in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        y: Tensor = MaskedRelu.apply(x, self._in_place)  # type: ignore[no-untyped-call]
        return y


def _convolution(layer: nn.Conv2d) -> Convolution:
    padding: Any = layer.padding
    return Convolution(stride=layer.stride, padding=padding, dilation=layer.dilation, groups=layer.groups)
