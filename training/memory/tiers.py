"""What each kind of device trains where their memories differ: more where there is more, over one vector that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from budjoule.training.compression.update import Layout
from budjoule.training.config.config import Training
from budjoule.training.memory.cohort import cohort_plan
from budjoule.training.memory.limit import MemoryLimit
from budjoule.training.memory.memory_plan import LayerPlan, MemoryPlan
from budjoule.training.memory.peak import Footprint
from budjoule.training.memory.predict import footprint
from budjoule.training.memory.structure import owners
from budjoule.training.task.data import Data
from budjoule.training.task.partition import Indices

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Plans by device, and the plan whose trained entries are those of all together: what travels and what the server keeps.

    A layer that stays random in the smallest memory does so, but for the same channels, in all of them: its weights are
    nowhere stored there, so no one else may change them.

    Args:
        together: What some device trains.
        by_device: What each trains.
    """

    together: MemoryPlan
    by_device: Mapping[str, MemoryPlan]

    @property
    def peak_bytes(self) -> int:
        """The most that a step holds on any device. [B]"""
        return max(plan.peak_bytes for plan in self.by_device.values())

    def frozen(self, layout: Layout, parameters: int, device: str) -> Indices | None:
        """Entries of the shared vector that a device does not train; None where it trains them all.

        Args:
            layout: Of a model that trains `together`.
            parameters: How many of its tensors are parameters; buffers, which no one trains, follow.
            device: The device's name.
        """
        moved = np.ones(layout.size, bool)
        for place in range(parameters):
            name, shape = layout.names[place].partition("[")[0], layout.shapes[place]
            moved[layout.bounds[place] : layout.bounds[place + 1]] = self._moved(self.by_device[device], name, shape)
        still = np.flatnonzero(~moved)
        return still if len(still) else None

    def _moved(self, plan: MemoryPlan, name: str, shape: tuple[int, ...]) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        layer, _, kind = name.rpartition(".")
        mine, every = plan.layers[layer], self.together.layers[layer]
        moved = np.zeros(shape, bool)
        if kind == "bias" or every.inputs == 1:
            moved[:] = mine.bias if kind == "bias" else mine.whole
        else:
            moved[:, np.isin(every.channels, mine.channels)] = True
        return moved.ravel()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        plans = {device: plan.to_dict() for device, plan in self.by_device.items()}
        return {"together": self.together.to_dict(), "by_device": plans}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Tiers":
        """What `to_dict` gave."""
        plans = {device: MemoryPlan.from_dict(plan) for device, plan in data["by_device"].items()}
        return cls(together=MemoryPlan.from_dict(data["together"]), by_device=plans)


def plan_tiers(
    model: "nn.Module",
    data: Data,
    training: Training,
    limits: Mapping[str, MemoryLimit],
    *,
    full: Footprint,
    batch: int,
    seed: int,
) -> Tiers | None:
    """Plan for every device's memory; `None` where full training fits all of them.

    Args:
        model: The initial model, the same for all.
        data: What is learnt.
        training: The local block.
        limits: Memory of each device.
        full: What full training takes.
        batch: Examples of one step.
        seed: Seed of the run.

    Raises:
        UsageError: Nothing of the model can be trained within the smallest memory.
    """
    sizes = {device: limit.bytes_of(full.peak_bytes) for device, limit in limits.items()}
    order = sorted(sizes, key=lambda device: sizes[device])
    least = cohort_plan(model, data, training, limits[order[0]], full=full, batch=batch, seed=seed)
    if least is None:
        return None
    shared = {name: layer for name, layer in least.layers.items() if layer.storage == "signs"}
    plans = {sizes[order[0]]: least}
    for device in order[1:]:
        if sizes[device] not in plans:
            found = cohort_plan(
                model, data, training, limits[device], full=full, batch=batch, seed=seed, random=bool(shared)
            )
            more = found or _everything(model, least, full)
            layers = {name: shared.get(name, layer) for name, layer in more.layers.items()}
            size = footprint(
                model,
                data.inputs[:batch],
                data.labels[:batch],
                optimizer=training.optimizer,
                micro_batch=more.micro_batch if more.micro_batch < batch else None,
                in_backward=more.in_backward,
                layers=layers,
                block_bytes=more.block_bytes,
            )
            plans[sizes[device]] = replace(more, layers=layers, footprint=size)
    layers = {name: _union([plan.layers[name] for plan in plans.values()]) for name in least.layers}
    together = replace(least, layers=layers)
    return Tiers(together=together, by_device={device: plans[sizes[device]] for device in limits})


def _everything(model: "nn.Module", least: MemoryPlan, full: Footprint) -> MemoryPlan:
    layers = {
        name: LayerPlan(channels=tuple(range(owner.inputs)), inputs=owner.inputs, bias=True)
        for name, owner in owners(model).items()
    }
    return replace(least, layers=layers, micro_batch=least.batch_size, in_backward=False, footprint=full)


def _union(layers: list[LayerPlan]) -> LayerPlan:
    """What some tier trains of a layer; what none does is kept as in the smallest memory, the first."""
    channels = sorted({channel for layer in layers for channel in layer.channels})
    return replace(layers[0], channels=tuple(channels), bias=any(layer.bias for layer in layers))
