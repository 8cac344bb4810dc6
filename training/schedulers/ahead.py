"""What sends have cost by the ledger, and how far that is ahead of an even pace."""

import math
from dataclasses import dataclass, field
from typing import Any

from budjoule.training.schedulers.offer import Offer, pace


@dataclass(slots=True)
class Outlay:
    """What sends cost by the ledger, their answers included: the fall of what is left, less the block in between.

    Args:
        left_j: What the ledger had left at the last offer. [J]
        chosen_j: The upper bound of what was chosen there; 0 for nothing. [J]
    """

    left_j: float = 0.0
    chosen_j: float = 0.0

    def at(self, offer: Offer) -> float:
        """What the last choice cost, at most its upper bound. [J]"""
        fall_j = self.left_j - offer.left_j - offer.block_j
        self.left_j = offer.left_j
        return min(max(fall_j, 0.0), self.chosen_j)

    def chose(self, offer: Offer, choice: int | None) -> int | None:
        """Note a choice, and pass it on."""
        self.chosen_j = 0.0 if choice is None else offer.levels[choice].energy_upper_j
        return choice


@dataclass(slots=True)
class Ahead:
    """A virtual queue of joules: ``Q <- max(Q + spent - rho, 0)``, with the even pace rho of the first offer.

    Args:
        queue_j: Q, how far spending is ahead of its pace. [J]
        rate_j: rho, joules for sends a block; negative before the first offer. [J]
        blocks: T, the blocks that the horizon had room for at the first offer.
        outlay: What the last choice cost.
    """

    queue_j: float = 0.0
    rate_j: float = -1.0
    blocks: float = 1.0
    outlay: Outlay = field(default_factory=Outlay)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Ahead":
        """What `asdict` made."""
        return cls(**{**state, "outlay": Outlay(**state["outlay"])})

    def catch_up(self, offer: Offer) -> None:
        """Queue what the last choice cost and drain a block's worth. Called once an offer."""
        if self.rate_j < 0:
            plan = pace(offer)
            self.rate_j, self.blocks = plan.rate_j, plan.blocks
        self.queue_j = max(self.queue_j + self.outlay.at(offer) - self.rate_j, 0.0)

    def allows(self, energy_j: float, burst: float) -> bool:
        """Whether a send keeps the queue within `burst` sqrt(T) blocks' worth, or within two such sends. [J]"""
        return self.queue_j + energy_j <= max(burst * self.rate_j * math.sqrt(self.blocks), 2 * energy_j)
