"""Chooses what to train under a memory limit: a knapsack of channels and biases for every depth to reach back to.

Peak memory is modelled as ``weights + chain(deepest) + sum of items + transient``; the first three come from one survey of
the model, and what is transient from the exact footprint of the plan that came out last, until a plan fits exactly.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.energy.units import show
from budjoule.training.memory.contribution import Contribution, contributions
from budjoule.training.memory.knapsack import best_items
from budjoule.training.memory.memory_plan import LayerPlan, MemoryPlan, signs_scale
from budjoule.training.memory.peak import Footprint
from budjoule.training.memory.predict import Loss, footprint
from budjoule.training.memory.step import examples
from budjoule.training.memory.structure import owners
from budjoule.training.memory.survey import Stage, survey

if TYPE_CHECKING:
    from torch import nn

_PROBE_STEPS = 50
_ROUNDS = 6  # of choosing anew with a better idea of what is transient
_SLACK_FRAC = 0.03  # of the limit that may stay unused
_ENOUGH_FRAC = 0.99  # of the contribution within reach: then the quicker way is taken
_HOPE_FRAC = 0.97  # of that: what a way seems to reach before it is tried exactly may be off by as much
_BLOCKS = 16  # in which the largest layer's stored weights become floats, at most: each is a few kernels more
_STATE_FLOATS = {"sgd": 0, "sgd-momentum": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a step is made: the quickest first, the leanest last."""

    micro_batch: int
    packed: bool = False
    in_backward: bool = False


def plan(
    model: "nn.Module",
    inputs: Any,
    labels: Any = None,
    *,
    memory_bytes: float,
    loss: Loss | None = None,
    optimizer: str = "sgd",
    learning_rate: float = 0.05,
    probe: Iterable[Any] | None = None,
    seed: int | None = None,
) -> MemoryPlan:
    """Choose what of a model to train so that a training step fits a memory limit and the loss falls fastest.

    Args:
        model: The model; left as it is.
        inputs: One batch of the size that is to be trained on: a tensor, a tuple or a dict of tensors.
        labels: What the loss compares the output with; split along with the inputs.
        memory_bytes: The limit, weights included. [B]
        loss: From output and labels to a scalar; by default cross-entropy where there are labels, else as `footprint`.
        optimizer: sgd, sgd-momentum, adam or adamw.
        learning_rate: Of the probe.
        probe: Pairs of inputs and labels, one a step, on which contributions are found: the more of the data they show, the
            better the choice. By default 50 steps on the batch.
        seed: Allows a layer that holds more than half of the weights to stay random: its weights become signs that this seed
            gives again, which take no memory. Only for a model that is to be trained from scratch.

    Raises:
        UsageError: Nothing of the model can be trained within the limit; the message says what could.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> batch = torch.rand(16, 64), torch.arange(16) % 10
    >>> chosen = plan(model, *batch, memory_bytes=30_000)
    >>> chosen.peak_bytes <= 30_000 < chosen.full.peak_bytes
    True
    """
    if optimizer not in _STATE_FLOATS:
        raise UsageError(f"unknown optimizer {optimizer!r}; give {', '.join(_STATE_FLOATS)}")
    random = _random_layers(model) if seed is not None else set()
    worth = contributions(
        model,
        list(probe) if probe is not None else [(inputs, labels)] * _PROBE_STEPS,
        learning_rate=learning_rate,
        loss=loss,
        random=random,
        seed=seed or 0,
    )
    search = _Search(model, inputs, labels, loss=loss, optimizer=optimizer, random=random, worth=worth)
    everything = sum(float(c.channels.sum()) + c.bias for c in worth.values())
    full = footprint(model, inputs, labels, loss=loss, optimizer=optimizer)
    found = search.best(memory_bytes)
    if found is None:
        raise UsageError(search.refusal(memory_bytes))
    way, layers, size, value = found
    block_bytes, size = search.largest_block(way, layers, size, memory_bytes)
    return MemoryPlan(
        layers=layers,
        batch_size=search.batch,
        micro_batch=way.micro_batch,
        in_backward=way.in_backward,
        optimizer=optimizer,
        seed=seed or 0,
        block_bytes=block_bytes,
        memory_bytes=memory_bytes,
        footprint=size,
        full=full,
        contribution_frac=value / everything if everything else 0.0,
    )


def _random_layers(model: "nn.Module") -> set[str]:
    """The layer that holds more than half of the weights, if there is one."""
    numel = sum(p.numel() for p in model.parameters())
    found = {name: owner.module.weight for name, owner in owners(model).items() if owner.choosable}
    return {name for name, weight in found.items() if 2 * weight.numel() > numel}  # type: ignore[operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """Something that can be trained: one input channel of a stage, or (channel -1) its bias."""

    stage: int
    channel: int
    value: float
    size_bytes: float


Found = tuple[Way, Mapping[str, LayerPlan], Footprint, float]


class _Search:
    """The search for one model and batch."""

    def __init__(
        self,
        model: "nn.Module",
        inputs: Any,
        labels: Any,
        *,
        loss: Loss | None,
        optimizer: str,
        random: Collection[str],
        worth: Mapping[str, Contribution],
    ) -> None:
        self.batch = examples((inputs, labels))
        self._model, self._inputs, self._labels, self._loss = model, inputs, labels, loss
        self._optimizer, self._worth = optimizer, worth
        self._owned = owners(model)
        stored = [4 * owner.module.weight.numel() for owner in self._owned.values() if owner.choosable]  # type: ignore[operator]
        self._most_block_bytes = max(stored, default=0)
        self._stages: dict[int, list[Stage]] = {}
        self._leasts: dict[Way, Footprint] = {}
        self._random = random

    def ways(self) -> list[list[Way]]:
        """What to try, by the size of the micro-batch, the largest and quickest first; within one, the leanest first.

        Batch norm takes its statistics over the batch, so there it stays whole; and an optimizer with a state must see
        the whole gradient.
        """
        import torch

        normed = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in self._model.modules())
        sizes = [self.batch]
        while sizes[-1] > 1 and not normed:
            sizes.append(sizes[-1] // 2)
        ways = []
        for size in sizes:
            inside = size == self.batch or self._optimizer == "sgd"
            leanest = [Way(micro_batch=size, packed=True, in_backward=True)] * inside
            ways.append([*leanest, Way(micro_batch=size, packed=True), Way(micro_batch=size)])
        return ways

    def best(self, limit: float) -> Found | None:
        """The plan of the quickest way whose contribution comes close to the best, which the smallest micro-batch gives."""
        *larger, smallest = self.ways()
        leanest = self._fit(smallest[0], limit)
        if leanest is None:
            return None
        enough = _ENOUGH_FRAC * leanest[3]
        for group in (*larger, smallest):
            for way in reversed(group):
                if self._hope(way, group[0], limit) >= _HOPE_FRAC * enough:
                    found = self._fit(way, limit)
                    if found is not None and found[3] >= enough:
                        return found
        return leanest

    def _hope(self, way: Way, leanest: Way, limit: float) -> float:
        """What could be trained if no more were transient than in training as little as can be in the leanest way."""
        chosen = self._choose(way, limit - self._transient(leanest))
        return 0.0 if chosen is None else sum(item.value for item in chosen[0])

    def largest_block(
        self, way: Way, layers: Mapping[str, LayerPlan], size: Footprint, limit: float
    ) -> tuple[int, Footprint]:
        """The fewest blocks in which stored weights can become floats within the limit, and the footprint then."""
        blocks = 1
        while blocks < _BLOCKS:
            block_bytes = -(-self._most_block_bytes // blocks)
            found = self._footprint(way, layers, block_bytes=block_bytes)
            if found.peak_bytes <= limit:
                return block_bytes, found
            blocks *= 2
        return self._most_block_bytes // _BLOCKS, size

    def refusal(self, limit: float) -> str:
        """Why nothing fits, and what would: the cheapest thing to train in the leanest way."""
        way = self.ways()[-1][0]
        return (
            f"no part of this model can be trained within {show(limit, 'B')}: its last layer's bias alone takes "
            f"{show(self._least(way).peak_bytes, 'B')} with micro-batches of {way.micro_batch}; "
            "allow that, or take a smaller model"
        )

    def _least(self, way: Way) -> Footprint:
        """The footprint of training as little as can be: the last bias."""
        if way not in self._leasts:
            stages = self._survey(way)
            last = max(range(len(stages)), key=lambda i: (stages[i].bias_numel > 0, i))
            item = _Item(stage=last, channel=-1 if stages[last].bias_numel else 0, value=1.0, size_bytes=0.0)
            self._leasts[way] = self._footprint(way, self._layers(way, [item]))
        return self._leasts[way]

    def _transient(self, way: Way) -> float:
        """What the least holds beside its weights. [B]"""
        return self._least(way).peak_bytes - self._resident_bytes(way)

    def _fit(self, way: Way, limit: float) -> Found | None:
        """The best plan in one way that fits exactly: what is left to items is narrowed down until it does."""
        low, high, room = 0.0, limit, limit - self._transient(Way(micro_batch=way.micro_batch, packed=True))
        best: Found | None = None
        for _ in range(_ROUNDS):
            taken = self._choose(way, room)
            if taken is None:
                low = room
            else:
                items, modelled = taken
                layers, value = self._layers(way, items), sum(item.value for item in items)
                size = self._footprint(way, layers)
                fits = size.peak_bytes <= limit
                if fits and (best is None or value > best[3]):
                    best = (way, layers, size, value)
                if fits and (len(items) == len(self._items(way)) or size.peak_bytes >= (1 - _SLACK_FRAC) * limit):
                    break
                low, high = (room, high) if fits else (low, min(high, modelled))
                guess = limit - (size.peak_bytes - modelled)  # as if as much were transient in the next plan
            room = guess if taken is not None and low < guess < high else (low + high) / 2
        return best

    def _choose(self, way: Way, room: float) -> tuple[list[_Item], float] | None:
        """The most valuable items over all depths to reach back to, and their modelled memory."""
        stages, items = self._survey(way), self._items(way)
        resident = self._resident_bytes(way)
        best: tuple[float, list[_Item], float] | None = None
        for deepest in range(len(stages) - 1, -1, -1):
            left = room - resident - stages[deepest].chain_bytes
            within = [item for item in items if item.stage >= deepest]
            if left <= 0:
                break
            taken = best_items([item.value for item in within], [item.size_bytes for item in within], left)
            chosen = [item for item, take in zip(within, taken, strict=True) if take]
            value = sum(item.value for item in chosen)
            if chosen and (best is None or value > best[0]):
                modelled = resident + stages[deepest].chain_bytes + sum(item.size_bytes for item in chosen)
                best = (value, chosen, modelled)
        return None if best is None else best[1:]

    def _items(self, way: Way) -> list[_Item]:
        """Everything that can be trained, with what training it adds to the memory."""
        waiting = 4 * (0 if way.in_backward else 1) + 4 * _STATE_FLOATS[self._optimizer]
        items = []
        for place, stage in enumerate(self._survey(way)):
            worth = self._worth[stage.name]
            more = waiting + 4 - self._entry_bytes(way, stage)  # trained weights are floats
            each = stage.weight_numel / stage.inputs * more + stage.input_bytes
            items += [
                _Item(stage=place, channel=channel, value=float(value), size_bytes=each)
                for channel, value in enumerate(worth.channels)
            ]
            if stage.bias_numel:
                items.append(_Item(stage=place, channel=-1, value=worth.bias, size_bytes=stage.bias_numel * waiting))
        return [item for item in items if item.value > 0]

    def _layers(self, way: Way, items: Sequence[_Item]) -> dict[str, LayerPlan]:
        stages = self._survey(way)
        channels: list[list[int]] = [[] for _ in stages]
        for item in items:
            channels[item.stage].append(item.channel)
        chosen = {stage.name: picked for stage, picked in zip(stages, channels, strict=True)}
        layers = {}
        for name, owner in self._owned.items():
            picked = sorted(chosen.get(name, []))
            storage = self._storage(way, name) if owner.choosable else "floats"
            scale = signs_scale(owner.module.weight) if storage == "signs" else 0.0
            trained = tuple(channel for channel in picked if channel >= 0)
            bias = -1 in picked if owner.choosable else bool(trained)
            layers[name] = LayerPlan(channels=trained, inputs=owner.inputs, bias=bias, storage=storage, scale=scale)
        return layers

    def _storage(self, way: Way, name: str) -> str:
        if not way.packed:
            return "floats"
        return "signs" if name in self._random else "bytes"

    def _entry_bytes(self, way: Way, stage: Stage) -> float:
        """What a weight takes while it is not trained. [B]"""
        storage = self._storage(way, stage.name) if stage.choosable else "floats"
        return {"floats": 4.0, "bytes": 1.0, "signs": 1 / 8}[storage]  # a dense layer's signs take less

    def _resident_bytes(self, way: Way) -> float:
        """Weights and buffers while nothing is trained. [B]"""
        known = {id(t): t.numel() * t.element_size() for t in (*self._model.parameters(), *self._model.buffers())}
        packed = sum(stage.weight_numel * (4 - self._entry_bytes(way, stage)) for stage in self._survey(way))
        return float(np.sum(list(known.values())) - packed)

    def _survey(self, way: Way) -> list[Stage]:
        if way.micro_batch not in self._stages:
            self._stages[way.micro_batch] = survey(
                self._model, self._inputs, self._labels, loss=self._loss, micro_batch=way.micro_batch
            )
        return self._stages[way.micro_batch]

    def _footprint(self, way: Way, layers: Mapping[str, LayerPlan], *, block_bytes: int | None = None) -> Footprint:
        return footprint(
            self._model,
            self._inputs,
            self._labels,
            loss=self._loss,
            optimizer=self._optimizer,
            micro_batch=way.micro_batch if way.micro_batch < self.batch else None,
            in_backward=way.in_backward,
            layers=layers,
            block_bytes=self._most_block_bytes // _BLOCKS if block_bytes is None else block_bytes,
        )
