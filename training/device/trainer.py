"""Local training on a real device: block by block, each paid for before it begins, planned for its joules, and durable.

A block's joules and the state it leads to are written in one transaction. Whatever ends the process, training goes on from
the last block that ended and comes to the same bits as if nothing had happened; only the joules of the broken block are
spent twice, and the ledger says so.

What talks to a server stands on top: it gives weights to `take`, sends what `delta` returns, and tells `settle` what
arrived, in one `Ledger.transaction` with its own records.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from budjoule.energy.device_state import DeviceState, device_state
from budjoule.energy.errors import UsageError
from budjoule.training.clients.cost import BlockCosts
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.clients.plan import Plan, choose_plan, rate_frac
from budjoule.training.compression.update import Vector
from budjoule.training.device.state import Numbers, State, load, save
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.paid_steps import PaidSteps

if TYPE_CHECKING:
    from torch import Tensor

    from budjoule.energy.device import DeviceProfile
    from budjoule.energy.meters import Meter

COOL_C = 5.0  # a device that was too hot works again when it is this far below its limit
_LOOK_S = 1.0  # between two looks at battery and temperature inside a block
_NOISIEST = 1e6
_KEEP = 0.5  # of the noise scale seen before, at each block


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What became of a block.

    Args:
        plan: What it was to be.
        steps: Steps that ran.
        ended: `whole`; or cut short by the `budget`, the device being `hot`, or since it was `asked`; or `diverged`, and
            then its weights were dropped.
    """

    plan: Plan
    steps: int
    ended: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a device may choose from, and what the choice rests on.

    Args:
        costs: Cost of one step.
        device: The device's profile.
        exchange_j: What a download and a send cost. [J]
        most_batch: The largest batch that fits its memory.
        precisions: Those it may train in.
    """

    costs: BlockCosts
    device: "str | DeviceProfile"
    exchange_j: float
    most_batch: int
    precisions: tuple[str, ...] = ("fp32",)


class DeviceTrainer:
    """Trains one device's blocks. Its state is in the ledger's file, and is taken up where it was left.

    Args:
        ledger: Pays, and keeps the state; a device's own file.
        bench: The model and its trained layers.
        inputs: The device's examples. Shape (n, ...).
        labels: Their classes. Shape (n,).
        choices: What blocks may be.
        seed: Decides everything random, with the number of the block.
        plan: Every block's, instead of the one of the least joules for its progress.
        prior: As in `Workbench.block`. Shape (classes,).
        meter: As in `bj.within`.
        idle_w: As in `bj.within`. [W]
        look: Reads the device's state.
    """

    def __init__(
        self,
        ledger: Ledger,
        bench: Workbench,
        inputs: "Tensor",
        labels: "Tensor",
        choices: Choices,
        *,
        seed: int,
        plan: Plan | None = None,
        prior: "Tensor | None" = None,
        meter: "str | Meter | None" = "auto",
        idle_w: float = 0.0,
        look: Callable[[], DeviceState] = device_state,
    ) -> None:
        self._ledger = ledger
        self._bench = bench
        self._inputs = inputs
        self._labels = labels
        self._choices = choices
        self._seed = seed
        self._plan = plan
        self._prior = prior
        self._meter = meter
        self._idle_w = idle_w
        self._look = look
        self._hot = False
        with ledger.transaction() as cursor:
            self._state = load(cursor, bench.layout)
        ledger.settle_abandoned()

    @property
    def numbers(self) -> Numbers:
        """Counts and figures; not to be changed."""
        return self._state.numbers

    @property
    def waits(self) -> bool:
        """It has no weights to train from."""
        return self._state.base is None

    def take(self, version: int, weights: Vector) -> None:
        """Begin anew from a version of the model. What was learnt and not sent stays owed."""
        state, owed = self._state, self._state.residual if self.waits else self.delta()
        numbers = replace(state.numbers, version=version, unsent_blocks=0)
        self._write(replace(state, residual=owed, numbers=numbers, base=weights, local=weights))

    def delta(self) -> Vector:
        """What would be sent: learnt since the base, and what earlier sends left. Shape (n,).

        Raises:
            UsageError: It waits for weights.
        """
        base, local = self._weights()
        return self._state.residual + (local - base)

    def settle(self, sent: Vector | None) -> None:
        """Note what of `delta` arrived, or that the frame was lost; and wait for the next version."""
        owed, numbers = self.delta(), self._state.numbers
        residual = owed if sent is None else owed - sent
        numbers = replace(numbers, sends=numbers.sends + 1, unsent_blocks=0)
        self._write(replace(self._state, residual=residual, numbers=numbers, base=None, local=None))

    def plan(self) -> Plan:
        """The next block: as given, or of the least joules for its progress."""
        if self._plan is not None:
            return self._plan
        choices, noise_scale = self._choices, self._state.numbers.noise_scale
        return choose_plan(
            lambda batch, precision: choices.costs.cost(choices.device, batch, precision),
            examples=len(self._labels),
            noise_scale=self._bench.training.batch_size if noise_scale is None else noise_scale,
            exchange_j=choices.exchange_j,
            most_batch=choices.most_batch,
            precisions=choices.precisions,
        )

    def block(self, stop: Callable[[], bool] = lambda: False) -> Block:
        """Train a block, or as much of it as can be paid for before the device gets too hot or `stop` says so.

        Args:
            stop: Asked between two steps: the owner wants the device, or a condition no longer holds.

        Raises:
            UsageError: It waits for weights.
        """
        plan, moves, optimizer = self.plan(), _Moves(self._weights()[1], self._bench.trained_size), self._by_place()
        cost = self._choices.costs.cost(self._choices.device, plan.batch_size, plan.precision)
        paid = PaidSteps(
            self._ledger, step_cost=cost, block_steps=plan.local_steps, meter=self._meter, idle_w=self._idle_w
        )
        try:
            with one_thread():
                ended = self._train(plan, paid, moves, optimizer, stop)
            sound = bool(np.isfinite(moves.last).all())
            state = self._after(plan, moves, optimizer) if sound else self._without(moves)
            with self._ledger.transaction() as cursor:
                paid.settle()
                save(cursor, self._bench.layout, state)
        finally:
            paid.settle()
        self._state = state
        return Block(plan=plan, steps=moves.steps, ended=ended if sound else "diverged")

    def _train(
        self,
        plan: Plan,
        paid: PaidSteps,
        moves: "_Moves",
        optimizer: "dict[tuple[int, str], Tensor]",
        stop: Callable[[], bool],
    ) -> str:
        """Run the block's steps; how they ended."""
        steps = self._bench.steps(
            moves.start,
            self._inputs,
            self._labels,
            plan,
            optimizer,
            seed=(self._seed, self._state.numbers.blocks),
            prior=self._prior,
            rate_frac=self._rate_frac(plan),
        )
        looked_s = -math.inf
        with closing(steps):
            while moves.steps < plan.local_steps:
                if time.monotonic() - looked_s >= _LOOK_S:
                    looked_s = time.monotonic()
                    if self._too_hot():
                        return "hot"
                if stop():
                    return "asked"
                if not paid.pay():
                    return "budget"
                paid.step()
                moves.note(next(steps).numpy())
        return "whole"

    def _after(self, plan: Plan, moves: "_Moves", optimizer: "dict[tuple[int, str], Tensor]") -> State:
        state, names = self._state, self._bench.trained_names
        if not moves.steps:
            return state
        numbers = state.numbers
        numbers = replace(
            numbers,
            blocks=numbers.blocks + 1,
            unsent_blocks=numbers.unsent_blocks + 1,
            noise_scale=moves.noise_scale(plan.batch_size, numbers.noise_scale),
        )
        tensors = {(names[place], name): tensor for (place, name), tensor in optimizer.items()}
        return replace(state, numbers=numbers, local=moves.last, optimizer=tensors)

    def _without(self, moves: "_Moves") -> State:
        """The state without a block that came to NaN or infinity: its weights, and the optimizer that led there."""
        numbers = replace(self._state.numbers, blocks=self._state.numbers.blocks + bool(moves.steps))
        return replace(self._state, numbers=numbers, optimizer={})

    def _rate_frac(self, plan: Plan) -> float:
        """The rate that suits a chosen batch size; a given plan keeps the rate it is given with."""
        noise_scale, training = self._state.numbers.noise_scale, self._bench.training
        if self._plan is not None or noise_scale is None:
            return 1.0
        return rate_frac(
            plan.batch_size, reference=training.batch_size, noise_scale=noise_scale, optimizer=training.optimizer
        )

    def _too_hot(self) -> bool:
        headroom_c = self._look().headroom_c
        self._hot = headroom_c is not None and headroom_c <= (COOL_C if self._hot else 0.0)
        return self._hot

    def _weights(self) -> tuple[Vector, Vector]:
        if self._state.base is None or self._state.local is None:
            raise UsageError("the device has no weights to train from; give it a version of the model first")
        return self._state.base, self._state.local

    def _by_place(self) -> "dict[tuple[int, str], Tensor]":
        places = {layer: place for place, layer in enumerate(self._bench.trained_names)}
        return {(places[layer], name): tensor for (layer, name), tensor in self._state.optimizer.items()}

    def _write(self, state: State) -> None:
        with self._ledger.transaction() as cursor:
            save(cursor, self._bench.layout, state)
        self._state = state


class _Moves:
    """How the trained weights move in a block, and what that says of the gradient's noise.

    A step moves by signal and noise, ``E |d|^2 = S + V``, and two steps after each other share the signal only,
    ``E d d' = S``: the noise scale is B V / S. Momentum carries noise from step to step, and makes it look smaller.
    """

    def __init__(self, start: Vector, trained: int) -> None:
        self.start = self.last = start
        self.steps = 0
        self._trained = trained
        self._before: Vector | None = None
        self._each = self._shared = 0.0

    def note(self, now: Vector) -> None:
        """The weights after a step; the array may change later."""
        move = (now - self.last)[: self._trained]
        self._each += _product(move, move)
        if self._before is not None:
            self._shared += _product(move, self._before)
        self.last, self._before = now.copy(), move
        self.steps += 1

    def noise_scale(self, batch_size: int, before: float | None) -> float | None:
        """The noise scale, between what was seen before and what this block says, in the geometric mean."""
        if self.steps < 2:
            return before
        each, signal = self._each / self.steps, self._shared / (self.steps - 1)
        seen = batch_size * (each - signal) / signal if signal > 0 else _NOISIEST
        seen = min(max(seen, 1 / _NOISIEST), _NOISIEST)
        return seen if before is None else math.exp(_KEEP * math.log(before) + (1 - _KEEP) * math.log(seen))


def _product(a: Vector, b: Vector) -> float:
    """Inner product, summed the same way on every run."""
    return float(np.multiply(a, b).sum(dtype=np.float64))
