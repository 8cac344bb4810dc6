"""`fixed-period`: sends every so many blocks, the period that the budget affords at the mean price seen."""

from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush, pace


class FixedPeriod:
    """The baseline that ignores the link.

    Args:
        period: Blocks between sends; 0 takes what the budget affords, solved again at every block.
    """

    def __init__(self, period: float = 0.0) -> None:
        self.period = period
        self._prices = Prices()

    def decide(self, offer: Offer) -> int | None:
        """The most valuable affordable level once the period has passed."""
        self._prices.note(offer.price_j)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        period = self.period or pace(offer).period(self._prices.mean_j)
        # Counting this block: a period of 2.5 means sends 2 and 3 blocks apart, as the budget is solved again.
        return best(offer, can) if offer.blocks_since_send >= period - 0.5 else None

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left."""

    def state(self) -> dict[str, Any]:
        """The prices seen."""
        return {"prices": asdict(self._prices)}

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen."""
        self._prices = Prices(**state["prices"])
