"""`random`: sends after a block with the probability that the budget affords."""

from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.coin import Coin
from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush, pace


class RandomSend:
    """The baseline that ignores link and time.

    Args:
        seed: The run's seed.
        client: Number of the client.
    """

    def __init__(self, *, seed: int, client: int) -> None:
        self._coin = Coin(seed, client)
        self._prices = Prices()

    def decide(self, offer: Offer) -> int | None:
        """The most valuable affordable level, with probability 1 / period."""
        self._prices.note(offer.price_j)
        can, toss = affordable(offer), self._coin.uniform()
        if offer.last:
            return flush(offer, can)
        return best(offer, can) if toss < 1 / pace(offer).period(self._prices.mean_j) else None

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left."""

    def state(self) -> dict[str, Any]:
        """The prices seen and the tosses made."""
        return {"prices": asdict(self._prices), "tosses": self._coin.tosses}

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen and the tosses made."""
        self._prices = Prices(**state["prices"])
        self._coin.tosses = state["tosses"]
