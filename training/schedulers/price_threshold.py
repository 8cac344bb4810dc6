"""`price-threshold`: sends at prices below the threshold that would spend the budget exactly, solved again every block.

The threshold comes from the prices seen so far, taken as those to come, so there is nothing to tune; a participation
floor keeps a client with a bad link from falling silent, which costs more accuracy than the joules it saves.
"""

from bisect import bisect_left, insort
from collections import deque
from typing import Any

from budjoule.training.schedulers.coin import Coin
from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush, pace

HISTORY = 2048  # offers remembered: more than a day of one-minute slots

_LEAST_J = 1e-12  # a free step is a very good bargain, not a division by zero


class PriceThreshold:
    """The re-solved threshold rule, over one level or several.

    Several levels are taken apart into steps of their concave hull; a step (extra value dv for extra joules de) is
    taken if ``dv - lambda de > 0``, lambda being where the steps seen would spend the affordable rate.

    Args:
        seed: The run's seed; the marginal price is sent at with a probability.
        client: Number of the client.
        floor_periods: A send is due after this many affordable mean periods without one.

    Source: Arlotto and Gurvich, Uniformly bounded regret in the multisecretary problem, Stochastic Systems 9(3), 2019.
    """

    def __init__(self, floor_periods: float = 1.5, *, seed: int, client: int) -> None:
        self.floor_periods = floor_periods
        self._coin = Coin(seed, client)
        self._prices = Prices()
        self._steps: list[tuple[float, float]] = []  # (-dv/de, de), the best bargain first
        self._offers: deque[list[tuple[float, float]]] = deque()  # the same by offer, so that the oldest is forgotten

    def decide(self, offer: Offer) -> int | None:
        """The highest step of the hull whose bargain is good enough; more when the floor or the end asks for it."""
        self._prices.note(offer.price_j)
        hull = _hull(offer)
        self._note(hull)
        can, toss = affordable(offer), self._coin.uniform()
        if offer.last:
            return flush(offer, can)
        plan = pace(offer)
        if offer.blocks_since_send > self.floor_periods * plan.period(self._prices.mean_j):
            return min(can, key=lambda index: offer.levels[index].energy_upper_j, default=None)
        threshold, chance = self._threshold(plan.rate_j)
        choice = None
        for step, index in hull:
            if step[0] > threshold or (step[0] == threshold and toss >= chance):
                break
            choice = index
        return (
            choice
            if choice in can
            else best(offer, [i for i in can if choice is not None and _cheaper(offer, i, choice)])
        )

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left."""

    def state(self) -> dict[str, Any]:
        """The prices and steps seen, and the tosses made."""
        return {
            "prices": [self._prices.count, self._prices.total_j, self._prices.lowest_j, self._prices.highest_j],
            "offers": [[list(step) for step in steps] for steps in self._offers],
            "tosses": self._coin.tosses,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices and steps seen, and the tosses made."""
        self._prices = Prices(*state["prices"])
        self._offers = deque([(float(rank), float(cost_j)) for rank, cost_j in steps] for steps in state["offers"])
        self._steps = sorted(step for steps in self._offers for step in steps)
        self._coin.tosses = state["tosses"]

    def _note(self, hull: list[tuple[tuple[float, float], int]]) -> None:
        steps = [step for step, _ in hull]
        self._offers.append(steps)
        for step in steps:
            insort(self._steps, step)
        if len(self._offers) > HISTORY:
            for step in self._offers.popleft():
                del self._steps[bisect_left(self._steps, step)]

    def _threshold(self, rate_j: float) -> tuple[float, float]:
        """The rank -dv/de up to which steps are taken, and the probability at that rank itself."""
        left_j, place = rate_j * len(self._offers), 0
        while place < len(self._steps):
            rank, same_j = self._steps[place][0], 0.0
            while place < len(self._steps) and self._steps[place][0] == rank:
                same_j += self._steps[place][1]
                place += 1
            if same_j > left_j:
                return rank, left_j / same_j
            left_j -= same_j
        return float("inf"), 1.0


def _hull(offer: Offer) -> list[tuple[tuple[float, float], int]]:
    """Steps (-dv/de, de) with the level each leads to, along the concave hull from waiting (0, 0): bargains get worse."""
    order = sorted(
        range(len(offer.levels)), key=lambda index: (offer.levels[index].energy_upper_j, -offer.levels[index].value)
    )
    hull: list[tuple[tuple[float, float], int]] = []
    corners: list[tuple[float, float]] = [(0.0, 0.0)]
    for index in order:
        energy_j, value = offer.levels[index].energy_upper_j, offer.levels[index].value
        if value <= corners[-1][1]:
            continue
        while hull and _rank(corners[-1], energy_j, value) <= hull[-1][0][0]:
            hull.pop()
            corners.pop()
        hull.append(((_rank(corners[-1], energy_j, value), energy_j - corners[-1][0]), index))
        corners.append((energy_j, value))
    return hull


def _rank(corner: tuple[float, float], energy_j: float, value: float) -> float:
    return -(value - corner[1]) / max(energy_j - corner[0], _LEAST_J)


def _cheaper(offer: Offer, index: int, than: int) -> bool:
    return offer.levels[index].energy_upper_j <= offer.levels[than].energy_upper_j
