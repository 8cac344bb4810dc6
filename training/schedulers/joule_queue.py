"""`joule-queue`: drift plus penalty with a virtual queue of joules; README.md states and proves what holds."""

import math
from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.ahead import Ahead
from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush


class JouleQueue:
    """Sends what maximises ``V value - Q energy``, waiting being worth 0; Q grows by what is spent over the affordable rate.

    ``V = mean(e) (B' / T) sqrt(T)``,  ``Q <- max(Q + spent - B' / T, 0)``,  B' without reserve and local blocks.

    Args:
        cap_periods: A send is forced after this many affordable periods without one.

    Source: Neely, Stochastic network optimization with application to communication and queueing systems, 2010.
    """

    def __init__(self, cap_periods: float = 4.0) -> None:
        self.cap_periods = cap_periods
        self._prices = Prices()
        self._ahead = Ahead()

    @property
    def queue_j(self) -> float:
        """The virtual queue, Q. [J]"""
        return self._ahead.queue_j

    @property
    def weight_j2(self) -> float:
        """V, the weight of value against queued joules. [J^2 for a unit of value]"""
        return self._prices.mean_j * max(self._ahead.rate_j, 0.0) * math.sqrt(self._ahead.blocks)

    def decide(self, offer: Offer) -> int | None:
        """The level of largest V value - Q energy if that is above 0; forced at the cap; whatever there is at the end."""
        self._prices.note(offer.price_j)
        self._ahead.catch_up(offer)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        if offer.blocks_since_send >= self._cap():
            self._ahead.outlay.chose(offer, None)  # forced sends are not queued
            return best(offer, can)
        weight = self.weight_j2

        def gain(index: int) -> float:
            return weight * offer.levels[index].value - self._ahead.queue_j * offer.levels[index].energy_upper_j

        choice = max(can, key=gain, default=None)
        return self._ahead.outlay.chose(offer, choice if choice is not None and gain(choice) > 0 else None)

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left, answers included."""

    def _cap(self) -> float:
        """Blocks without a send after which one is forced."""
        rate_j = self._ahead.rate_j
        return self.cap_periods * max(1.0, self._prices.mean_j / rate_j if rate_j > 0 else math.inf)

    def state(self) -> dict[str, Any]:
        """The prices seen and the queue."""
        return {"prices": asdict(self._prices), "ahead": asdict(self._ahead)}

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen and the queue."""
        self._prices, self._ahead = Prices(**state["prices"]), Ahead.from_state(state["ahead"])
