"""`token-bucket`: joules drip into a bucket at the affordable rate; sends when it holds a send and the link is good."""

from bisect import insort
from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.ahead import Outlay
from budjoule.training.schedulers.offer import Offer, affordable, best, flush, pace


class TokenBucket:
    """The baseline that waits for a good link: a price at or below the median of those seen."""

    def __init__(self) -> None:
        self._prices: list[float] = []
        self._outlay = Outlay()
        self._tokens_j = 0.0  # a first send after one block would carry next to nothing

    def decide(self, offer: Offer) -> int | None:
        """The most valuable affordable level if the bucket pays for it and the price is no worse than usual."""
        price_j = offer.price_j
        insort(self._prices, price_j)
        self._tokens_j += pace(offer).rate_j - self._outlay.at(offer)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        good = price_j <= self._prices[(len(self._prices) - 1) // 2]
        can = [index for index in can if good and offer.levels[index].energy_upper_j <= self._tokens_j]
        return self._outlay.chose(offer, best(offer, can))

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left, answers included."""

    def state(self) -> dict[str, Any]:
        """The prices seen and what the bucket holds."""
        return {"prices": list(self._prices), "outlay": asdict(self._outlay), "tokens_j": self._tokens_j}

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen and what the bucket holds."""
        self._prices, self._outlay = list(state["prices"]), Outlay(**state["outlay"])
        self._tokens_j = state["tokens_j"]
