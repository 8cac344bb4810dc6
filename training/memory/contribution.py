"""What training each part of a model is worth: how much less the loss falls in a short probe when it stays frozen.

Leaving one out sees what first-order measures such as Fisher information miss: that others can make up for a layer.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import UsageError
from budjoule.training.memory.lean_model import apply
from budjoule.training.memory.memory_plan import LayerPlan, signs_scale
from budjoule.training.memory.predict import Loss, mean_loss
from budjoule.training.memory.structure import Owner, owners

if TYPE_CHECKING:
    from torch import nn

_GROUPS = 16  # owners that are frozen together in a model of many, so that a probe costs at most 17 short runs
_LEAST_FRAC = 1e-3  # of a mean channel's share, for one that did not move in the probe: it may yet
_FLOOR_FRAC = 0.1  # of the whole fall is shared out evenly: a layer that others can replace is still worth something


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """How much less the loss falls without one module's parameters.

    Args:
        channels: For the weights of each input channel. Shape (inputs,).
        bias: For the bias; 0 where the module is trained as a whole.
    """

    channels: NDArray[np.float64]
    bias: float


def contributions(
    model: "nn.Module",
    batches: Sequence[Any],
    *,
    learning_rate: float,
    loss: Loss | None = None,
    random: Collection[str] = (),
    seed: int = 0,
) -> dict[str, Contribution]:
    """Train copies of the model on a few batches by plain descent, each with the weights of some owners frozen.

    What a group of owners is worth is the loss over the second half of the run without it, less that with everything
    trained. It is shared out among channels and biases by how far they moved when everything was trained.

    Args:
        model: The model; left as it is.
        batches: Pairs of inputs and labels, one a step.
        learning_rate: Rate of the descent.
        loss: As of `footprint`.
        random: Owners whose weights become random signs when they are frozen.
        seed: Seed of these signs.

    Raises:
        UsageError: There are no batches, or the loss is not finite at this rate.
    """
    if not batches:
        raise UsageError("the probe has no batches; give some pairs of inputs and labels")
    owned = owners(model)
    start, moved = _run(model, {}, batches[:1], 0.0, loss=loss)
    reached, moved = _run(model, {}, batches, learning_rate, loss=loss)
    if not np.isfinite(reached):
        raise UsageError(f"the probe diverges at a learning rate of {learning_rate}; give a lower one")
    floor = _FLOOR_FRAC * max(start - reached, 0.0) / len(owned)
    found: dict[str, Contribution] = {}
    for group in np.array_split(list(owned), min(_GROUPS, len(owned))):
        frozen = {name: _frozen(owned[name], signs=name in random) for name in group.tolist()}
        without, _ = _run(model, frozen, batches, learning_rate, loss=loss, seed=seed)
        harm = max(without - reached, 0.0) if np.isfinite(without) else start
        shares = _shares(moved, {name: owned[name] for name in frozen})
        total = sum(float(c.channels.sum()) + c.bias for c in shares.values()) or 1.0
        for name, share in shares.items():
            own = float(share.channels.sum()) + share.bias or 1.0
            scale = harm / total + floor / own
            found[name] = Contribution(channels=share.channels * scale, bias=share.bias * scale)
    return found


def _frozen(owner: Owner, *, signs: bool) -> LayerPlan:
    storage, scale = ("signs", signs_scale(owner.module.weight)) if signs else ("floats", 0.0)
    return LayerPlan(channels=(), inputs=owner.inputs, bias=True, storage=storage, scale=scale)


def _run(
    model: "nn.Module",
    frozen: Mapping[str, LayerPlan],
    batches: Sequence[Any],
    learning_rate: float,
    *,
    loss: Loss | None,
    seed: int = 0,
) -> tuple[float, dict[str, Any]]:
    """Mean loss over the second half of a run, each batch before the step on it, and how far each parameter moved."""
    import torch

    model = copy.deepcopy(model).train()
    if frozen:
        whole = {
            n: LayerPlan(channels=(*range(o.inputs),), inputs=o.inputs, bias=True) for n, o in owners(model).items()
        }
        apply(model, whole | dict(frozen), seed=seed, block_bytes=2**30, keep=True)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    losses: list[float] = []
    for inputs, labels in batches:
        value = mean_loss(model, inputs, labels, loss=loss)
        losses.append(float(value.detach()))
        value.backward()
        with torch.no_grad():
            for parameter in parameters.values():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-learning_rate)
                parameter.grad = None
    moved = {name: (p.detach() - before[name]).abs().double() for name, p in parameters.items()}
    return float(np.mean(losses[len(losses) // 2 :])), moved


def _shares(moved: Mapping[str, Any], owned: Mapping[str, Owner]) -> dict[str, Contribution]:
    """How far each channel's weights and each bias moved, in sum."""
    shares = {}
    for name, owner in owned.items():
        channels, bias = np.zeros(owner.inputs), 0.0
        for kind, _ in owner.module.named_parameters(recurse=False):
            distance = moved.get(f"{name}.{kind}" if name else kind)
            if distance is None:
                continue
            if not owner.choosable:
                channels += float(distance.sum())
            elif kind == "bias":
                bias += float(distance.sum())
            else:
                channels += distance.sum([d for d in range(distance.dim()) if d != 1]).numpy()
        least = _LEAST_FRAC * (float(channels.sum()) + bias + 1e-12) / owner.inputs
        shares[name] = Contribution(channels=channels + least, bias=bias + least if owner.choosable else 0.0)
    return shares
