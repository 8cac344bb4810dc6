"""`norm-threshold`: sends when what would be sent is large, above a threshold that is steered to the affordable rate."""

import math
from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush, pace


class NormThreshold:
    """The baseline that looks at the update alone.

    ``log threshold <- log threshold + gain (sent - 1 / period)``

    Args:
        gain: How fast the threshold follows.
    """

    def __init__(self, gain: float = 0.3) -> None:
        self.gain = gain
        self._prices = Prices()
        self._threshold = 0.0

    def decide(self, offer: Offer) -> int | None:
        """The most valuable affordable level where the norm reaches the threshold."""
        self._prices.note(offer.price_j)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        period = pace(offer).period(self._prices.mean_j)
        # To begin with: norms grow about like the square root of the blocks they collect.
        self._threshold = self._threshold or offer.norm * math.sqrt(min(period, offer.slots))
        choice = best(offer, can) if offer.norm >= self._threshold else None
        self._threshold *= math.exp(self.gain * ((choice is not None) - 1 / period))
        return choice

    def settle(self, spent_j: float) -> None:
        """The threshold followed when the decision was made."""

    def state(self) -> dict[str, Any]:
        """The prices seen and the threshold."""
        return {"prices": asdict(self._prices), "threshold": self._threshold}

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen and the threshold."""
        self._prices = Prices(**state["prices"])
        self._threshold = state["threshold"]
