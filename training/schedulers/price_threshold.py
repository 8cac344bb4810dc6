"""`price-threshold`: sends at prices below the threshold that would spend the budget exactly, solved again every block.

The threshold comes from the prices seen so far, taken as those to come; a participation floor keeps a client with a bad
link from falling silent, which costs more accuracy than the joules it saves; and a bound on how far it may run ahead of
its pace protects it where the past misleads, as on a link that gets better for hours.
"""

import math
from dataclasses import asdict
from typing import Any, NamedTuple

from budjoule.training.schedulers.ahead import Ahead
from budjoule.training.schedulers.offer import Offer, Prices, affordable, best, flush, pace

_LOG_GRADE = math.log(1.02)  # bargains within 2 % of each other are one grade; within it they take turns
_LEAST_J = 1e-12  # a free step is a very good bargain, not a division by zero


class Step(NamedTuple):
    """A step along the concave hull of an offer's levels, from waiting upwards.

    Args:
        level: The level it leads to.
        ratio: Extra value for each extra joule; falls from step to step. [1/J]
        extra_j: Extra joules. [J]
    """

    level: int
    ratio: float
    extra_j: float

    @property
    def grade(self) -> int:
        """How good a bargain it is, on a logarithmic scale."""
        return math.floor(math.log(self.ratio) / _LOG_GRADE)


class PriceThreshold:
    """The re-solved threshold rule, over one level or several.

    A step (extra value dv for extra joules de) is taken if ``dv - lambda de > 0``, lambda being where the steps seen so
    far would spend the affordable rate. With one level of value 1 that is: send if the price is at most 1 / lambda.

    Args:
        floor_periods: A send is due after this many affordable mean periods without one.
        burst: How far spending may run ahead of an even pace, in slots' worth, over the square root of all slots.

    Source: Arlotto and Gurvich, Uniformly bounded regret in the multisecretary problem, Stochastic Systems 9(3), 2019.
    """

    def __init__(self, floor_periods: float = 1.5, burst: float = 3.0) -> None:
        self.floor_periods = floor_periods
        self.burst = burst
        self._prices = Prices()
        self._seen_j: dict[int, float] = {}  # joules of the steps seen, by grade
        self._credit = 1.0  # the first marginal step is taken: a client is heard early
        self._ahead = Ahead()

    def decide(self, offer: Offer) -> int | None:
        """The highest step of the hull whose bargain is good enough; a send when the floor or the end asks for it."""
        self._prices.note(offer.price_j)
        hull = concave_hull(offer)
        for step in hull:
            self._seen_j[step.grade] = self._seen_j.get(step.grade, 0.0) + step.extra_j
        self._ahead.catch_up(offer)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        can = [index for index in can if self._ahead.allows(offer.levels[index].energy_upper_j, self.burst)]
        return self._ahead.outlay.chose(offer, self._choose(offer, hull, can))

    def _choose(self, offer: Offer, hull: list[Step], can: list[int]) -> int | None:
        plan = pace(offer)
        margin, share = self._margin(plan.rate_j)
        marginal = self._turn(share) if any(step.grade == margin for step in hull) else False
        taken = [step.level for step in hull if step.grade > margin or (step.grade == margin and marginal)]
        if not taken and offer.blocks_since_send > self.floor_periods * plan.period(self._prices.mean_j):
            self._credit = max(self._credit - 1.0, 0.0)  # the floor's send takes the place of the next marginal one
            return min(can, key=lambda index: offer.levels[index].energy_upper_j, default=None)
        # The highest step taken, or the best below it that can be paid.
        wanted_j = max((offer.levels[level].energy_upper_j for level in taken), default=-1.0)
        return best(offer, [level for level in can if offer.levels[level].energy_upper_j <= wanted_j])

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left, answers included."""

    def state(self) -> dict[str, Any]:
        """The prices and bargains seen, the marginal step's credit, and how far ahead of its pace it is."""
        return {
            "prices": asdict(self._prices),
            "seen_j": sorted(self._seen_j.items()),
            "credit": self._credit,
            "ahead": asdict(self._ahead),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The prices and bargains seen, the marginal step's credit, and how far ahead of its pace it is."""
        self._prices = Prices(**state["prices"])
        self._seen_j = {int(grade): float(seen_j) for grade, seen_j in state["seen_j"]}
        self._credit = state["credit"]
        self._ahead = Ahead.from_state(state["ahead"])

    def _turn(self, share: float) -> bool:
        """Whether a marginal step's turn has come: every so many, evenly, so that a constant link has a fixed period."""
        self._credit += share
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

    def _margin(self, rate_j: float) -> tuple[int, float]:
        """The grade at which the steps seen spend the rate, and the share of that grade itself that it pays for."""
        left_j = rate_j * self._prices.count
        grade = 0
        for grade in sorted(self._seen_j, reverse=True):
            if self._seen_j[grade] > left_j:
                return grade, left_j / self._seen_j[grade]
            left_j -= self._seen_j[grade]
        return grade, 1.0  # everything seen is affordable


def concave_hull(offer: Offer) -> list[Step]:
    """The levels worth taking, as steps from waiting upwards whose bargains get worse; those off the hull are left out."""
    hull: list[Step] = []
    corners: list[tuple[float, float]] = [(0.0, 0.0)]
    levels = offer.levels
    for index in sorted(range(len(levels)), key=lambda index: (levels[index].energy_upper_j, -levels[index].value)):
        energy_j, value = levels[index].energy_upper_j, levels[index].value
        while value > corners[-1][1]:
            extra_j = max(energy_j - corners[-1][0], _LEAST_J)
            ratio = (value - corners[-1][1]) / extra_j
            if not hull or ratio < hull[-1].ratio:
                hull.append(Step(index, ratio, extra_j))
                corners.append((energy_j, value))
                break
            hull.pop()
            corners.pop()
    return hull
