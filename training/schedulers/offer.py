"""What a scheduler is asked, and what all of them share: which sends are affordable, and what the budget still allows.

Contract: after each local block the caller makes an `Offer` and calls `decide`, reserves the chosen level's
`energy_upper_j` in the ledger, sends, and calls `settle` with the joules the ledger booked (0 after a wait).
"""

from dataclasses import dataclass
from typing import Any, Protocol

# Of a budget that cannot pay for all its local blocks, this share is kept for sends: blocks that are never sent are lost,
# and half means that the blocks between two sends cost about what a send does.
SENDS_FRAC = 0.5

# What a send is worth grows as this power of the blocks it carries: less than in proportion, since blocks from an old base
# stray, and more than the root that an update's weight on the server grows by, since it is longer too. Chosen by trial.
GROWTH = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One way to send the update now.

    Args:
        size_bytes: Size of the frame. [B]
        energy_upper_j: The most that sending it now costs, the answer that follows included. [J]
        value: What sending it is worth; any unit, the same for all levels of a run.
    """

    size_bytes: int
    energy_upper_j: float
    value: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A client's situation at the end of a local block.

    Args:
        slot: The slot now, from 0.
        slots: Slots in the horizon, T.
        budget_j: The whole budget, B. [J]
        left_j: What the ledger has left. [J]
        reserve_j: Kept back for one last send in the worst state of the link. [J]
        block_j: What a local block costs at most. [J]
        levels: The ways to send, at the link's price now.
        blocks_since_send: Local blocks that no send has carried yet, this one included.
        block_slots: How many slots a local block takes, on average; a slow client decides less often.
        norm: Norm of what would be sent, for policies that look at it.
    """

    slot: int
    slots: int
    budget_j: float
    left_j: float
    reserve_j: float
    block_j: float
    levels: tuple[Level, ...]
    blocks_since_send: int
    block_slots: float = 1.0
    norm: float = 0.0

    @property
    def last(self) -> bool:
        """No other block ends before the horizon: what is not sent now is lost."""
        return self.slot + max(self.block_slots, 1.0) > self.slots - 1

    @property
    def blocks_possible(self) -> float:
        """Local blocks that fit the rest of the horizon."""
        return max(self.slots - 1 - self.slot, 0) / max(self.block_slots, 1.0)

    @property
    def price_j(self) -> float:
        """The cheapest level's upper bound: what speaking costs now. [J]"""
        return min(level.energy_upper_j for level in self.levels)


class Scheduler(Protocol):
    """A policy: when and how much to send."""

    def decide(self, offer: Offer) -> int | None:
        """The index of the level to send, or None to wait. Called once for each offer."""
        ...

    def settle(self, spent_j: float) -> None:
        """Note what the last decision's send cost by itself; 0 after a wait. Its answer may be booked later. [J]"""
        ...

    def state(self) -> dict[str, Any]:
        """What the policy remembers, as plain data for a checkpoint."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up where `state` was made."""
        ...


@dataclass(slots=True)
class Prices:
    """The prices seen so far, as their number and sum."""

    count: int = 0
    total_j: float = 0.0

    def note(self, price_j: float) -> None:
        """Count one more price. [J]"""
        self.count += 1
        self.total_j += price_j

    @property
    def mean_j(self) -> float:
        """Their mean. [J]"""
        return self.total_j / self.count if self.count else 0.0


def affordable(offer: Offer) -> list[int]:
    """Levels that fit into what is left, the last send's reserve kept back until it is the last."""
    free_j = offer.left_j - (0.0 if offer.last else offer.reserve_j)
    return [index for index, level in enumerate(offer.levels) if level.energy_upper_j <= free_j]


def best(offer: Offer, among: list[int]) -> int | None:
    """The most valuable of some levels, the cheaper of two that are worth the same; None of none."""
    return max(among, key=lambda index: (offer.levels[index].value, -offer.levels[index].energy_upper_j), default=None)


def flush(offer: Offer, among: list[int]) -> int | None:
    """What every policy does at the last offer: send what there is, if it can be paid."""
    return best(offer, among) if offer.blocks_since_send else None


def may_train(offer: Offer) -> bool:
    """Whether another local block may run: it and a send after it must both be paid for."""
    return offer.left_j >= offer.block_j + max(offer.price_j, offer.reserve_j)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the budget allows from here on.

    Args:
        blocks: Local blocks still to come, this offer's included, that budget and horizon allow.
        sends_j: Joules for sending, the last flush's reserve and the blocks taken off. [J]
    """

    blocks: float
    sends_j: float

    @property
    def rate_j(self) -> float:
        """Joules for sending, a block. [J]"""
        return self.sends_j / self.blocks

    def period(self, price_j: float) -> float:
        """How many blocks a send at this price should be apart. At least 1; infinite when nothing is left."""
        if self.sends_j <= 0:
            return float("inf")
        return max(1.0, price_j / self.rate_j)


def pace(offer: Offer) -> Pace:
    """Split what is left between blocks and sends.

    ``n = min(blocks possible, (1 - SENDS_FRAC) (left - reserve) / e_block)``

    Args:
        offer: The situation; its own block is paid already.
    """
    free_j = max(offer.left_j - offer.reserve_j, 0.0)
    blocks = offer.blocks_possible
    if blocks * offer.block_j > (1 - SENDS_FRAC) * free_j:
        blocks = (1 - SENDS_FRAC) * free_j / offer.block_j
    return Pace(blocks=blocks + 1, sends_j=free_j - blocks * offer.block_j)
