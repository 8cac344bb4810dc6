"""`joule-queue`: drift plus penalty with a virtual queue of joules; README.md states and proves what holds."""

import math
from dataclasses import asdict
from typing import Any

from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush, pace


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
        self._queue_j = 0.0
        self._rate_j = -1.0
        self._chances = 1.0
        self._forced = False

    @property
    def queue_j(self) -> float:
        """The virtual queue, Q. [J]"""
        return self._queue_j

    @property
    def weight_j2(self) -> float:
        """V, the weight of value against queued joules. [J^2 for a unit of value]"""
        return self._prices.mean_j * max(self._rate_j, 0.0) * math.sqrt(self._chances)

    def decide(self, offer: Offer) -> int | None:
        """The level of largest V value - Q energy if that is above 0; forced at the cap; whatever there is at the end."""
        self._prices.note(offer.price_j)
        plan = pace(offer)
        if self._rate_j < 0:
            self._rate_j, self._chances = plan.rate_j, plan.blocks
        can = affordable(offer)
        self._forced = True
        if offer.last:
            return flush(offer, can)
        if offer.blocks_since_send >= self.cap_periods * max(
            1.0, self._prices.mean_j / self._rate_j if self._rate_j else math.inf
        ):
            return best(offer, can)
        self._forced = False
        weight = self.weight_j2

        def gain(index: int) -> float:
            return weight * offer.levels[index].value - self._queue_j * offer.levels[index].energy_upper_j

        choice = max(can, key=gain, default=None)
        return choice if choice is not None and gain(choice) > 0 else None

    def settle(self, spent_j: float) -> None:
        """Move the queue by what was spent; forced sends are not queued."""
        self._queue_j = max(self._queue_j + (0.0 if self._forced else spent_j) - max(self._rate_j, 0.0), 0.0)

    def state(self) -> dict[str, Any]:
        """The prices seen, the queue and its drain."""
        return {
            "prices": asdict(self._prices),
            "queue_j": self._queue_j,
            "rate_j": self._rate_j,
            "chances": self._chances,
            "forced": self._forced,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices seen, the queue and its drain."""
        self._prices = Prices(**state["prices"])
        self._queue_j, self._rate_j, self._chances = state["queue_j"], state["rate_j"], state["chances"]
        self._forced = state["forced"]
