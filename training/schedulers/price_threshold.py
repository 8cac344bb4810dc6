"""`price-threshold`: sends when what was learnt since the last send is worth the price, at a joule's worth that spends the budget.

What a send is worth grows with the blocks it carries, but less than in proportion. So a good link is used often, a bad one
seldom but not never, and a constant one at a fixed period.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budjoule.training.schedulers.ahead import Ahead
from budjoule.training.schedulers.offer import GROWTH, Offer, affordable, flush, pace

_GRADES = 96
_RATIO = 1.15  # of neighbouring grades: together they span almost six decades around the first price
_LADDER = _RATIO ** (np.arange(_GRADES) - _GRADES / 2)
_LEAST_J = 1e-12  # a first price of nothing still makes a scale


class PriceThreshold:
    """Maximises ``value_k g^growth - lambda energy_k`` over the levels and waiting (0), g being the blocks since the last send.

    With one level of value 1: send if ``price <= g^growth / lambda``. To find lambda, the rule is played in the shadows at
    every grade of lambda, on the offers as they come. The two whose shadows spent just less and just more per block than the
    budget allows from here take turns, from send to send.

    Args:
        growth: The exponent of g; at 0 the price alone counts, at 1 every block is as good as the first.
        burst: How far spending may run ahead of an even pace, in blocks' worth, over the square root of all blocks.

    Source: the rule for value 1 and a known price distribution: Arlotto and Gurvich, Uniformly bounded regret in the
        multisecretary problem, Stochastic Systems 9(3), 2019.
    """

    def __init__(self, growth: float = GROWTH, burst: float = 3.0) -> None:
        self.growth = growth
        self.burst = burst
        self._ahead = Ahead()
        self._offers = 0
        self._scale_j = 0.0  # the first price: grade i takes 1 / lambda = scale ratio^i
        self._waited = np.zeros(_GRADES)
        self._spent_j = np.zeros(_GRADES)
        self._credit = 0.0  # of the upper of the two grades
        self._upper = False  # whether it has its turn

    def decide(self, offer: Offer) -> int | None:
        """The level that is worth most above its price, if any is; what there is at the end."""
        self._ahead.catch_up(offer)
        self._play(offer)
        can = affordable(offer)
        if offer.last:
            return flush(offer, can)
        can = [index for index in can if self._ahead.allows(offer.levels[index].energy_upper_j, self.burst)]
        choice = self._choose(offer, can, pace(offer).rate_j)
        return self._ahead.outlay.chose(offer, choice)

    def _choose(self, offer: Offer, can: list[int], rate_j: float) -> int | None:
        lower, share = self._between(rate_j)
        grade = min(lower + self._upper, _GRADES - 1)
        worth_j = float(self._grades_j[grade] * offer.blocks_since_send**self.growth)

        def gain_j(index: int) -> float:
            return worth_j * offer.levels[index].value - offer.levels[index].energy_upper_j

        choice = max(can, key=gain_j, default=None)
        if choice is None or gain_j(choice) < 0:
            return None
        self._credit += share
        self._upper = self._credit >= 1.0
        self._credit -= self._upper
        return choice

    def settle(self, spent_j: float) -> None:
        """The next offer says what is left, answers included."""

    def state(self) -> dict[str, Any]:
        """How the shadows stand, and how far ahead of its pace it is."""
        return {
            "ahead": asdict(self._ahead),
            "offers": self._offers,
            "scale_j": self._scale_j,
            "waited": self._waited.tolist(),
            "spent_j": self._spent_j.tolist(),
            "credit": self._credit,
            "upper": self._upper,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """How the shadows stand, and how far ahead of its pace it is."""
        self._ahead = Ahead.from_state(state["ahead"])
        self._offers, self._scale_j = state["offers"], state["scale_j"]
        self._waited, self._spent_j = np.array(state["waited"]), np.array(state["spent_j"])
        self._credit, self._upper = state["credit"], state["upper"]

    @property
    def _grades_j(self) -> NDArray[np.floating[Any]]:
        """What a unit of value may cost, by grade. [J]"""
        return self._scale_j * _LADDER

    def _play(self, offer: Offer) -> None:
        """Let every grade decide on this offer, as if the ledger were full."""
        self._scale_j = self._scale_j or max(offer.price_j, _LEAST_J)
        self._offers += 1
        self._waited += 1
        worth_j = self._grades_j * self._waited**self.growth
        gain_j, cost_j = np.zeros(_GRADES), np.zeros(_GRADES)
        for level in offer.levels:
            gain_here_j = level.value * worth_j - level.energy_upper_j
            better = gain_here_j >= gain_j if level is offer.levels[0] else gain_here_j > gain_j
            gain_j[better], cost_j[better] = gain_here_j[better], level.energy_upper_j
            self._waited[better] = 0
        self._spent_j += cost_j

    def _between(self, rate_j: float) -> tuple[int, float]:
        """The highest grade whose shadow spent no more than the rate allows, and the share of turns of the one above."""
        allowed_j = rate_j * self._offers
        within = np.flatnonzero(self._spent_j <= allowed_j)
        if not within.size or within[-1] == _GRADES - 1:
            return int(within[-1]) if within.size else 0, 0.0
        lower = int(within[-1])
        below_j, above_j = self._spent_j[lower : lower + 2]
        return lower, float((allowed_j - below_j) / (above_j - below_j))
