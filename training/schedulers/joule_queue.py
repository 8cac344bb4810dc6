"""`joule-queue`: drift plus penalty with a virtual queue of joules; README.md states and proves what holds."""

import math
from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.offer import Offer, Outlay, Prices, affordable, best, flush, pace


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
        self._outlay = Outlay()
        self._queue_j = 0.0
        self._rate_j: float | None = None
        self._chances = 1.0

    @property
    def queue_j(self) -> float:
        """The virtual queue, Q. [J]"""
        return self._queue_j

    @property
    def weight_j2(self) -> float:
        """V, the weight of value against queued joules. [J^2 for a unit of value]"""
        return self._prices.mean_j * (self._rate_j or 0.0) * math.sqrt(self._chances)

    def decide(self, offer: Offer) -> int | None:
        """The level of largest V value - Q energy if that is above 0; forced at the cap; whatever there is at the end."""
        self._prices.note(offer.price_j)
        if self._rate_j is None:
            plan = pace(offer)
            self._rate_j, self._chances = plan.rate_j, plan.blocks
        self._queue_j = max(self._queue_j + self._outlay.at(offer) - self._rate_j, 0.0)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        if offer.blocks_since_send >= self._cap():
            self._outlay.chose(offer, None)  # forced sends are not queued
            return best(offer, can)
        weight = self.weight_j2

        def gain(index: int) -> float:
            return weight * offer.levels[index].value - self._queue_j * offer.levels[index].energy_upper_j

        choice = max(can, key=gain, default=None)
        return self._outlay.chose(offer, choice if choice is not None and gain(choice) > 0 else None)

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left, answers included."""

    def _cap(self) -> float:
        """Blocks without a send after which one is forced."""
        return self.cap_periods * max(1.0, self._prices.mean_j / self._rate_j if self._rate_j else math.inf)

    def state(self) -> dict[str, Any]:
        """The prices seen, the queue and its drain."""
        return {
            "prices": asdict(self._prices),
            "outlay": asdict(self._outlay),
            "queue_j": self._queue_j,
            "rate_j": self._rate_j,
            "chances": self._chances,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen, the queue and its drain."""
        self._prices, self._outlay = Prices(**state["prices"]), Outlay(**state["outlay"])
        self._queue_j, self._rate_j, self._chances = state["queue_j"], state["rate_j"], state["chances"]
