"""`every-block`: sends after each local block for as long as the budget lasts."""

from typing import Any

from budjoule.training.schedulers.offer import Offer, affordable, best


class EveryBlock:
    """The baseline without a plan."""

    def decide(self, offer: Offer) -> int | None:
        """The most valuable affordable level."""
        return best(offer, affordable(offer))

    def settle(self, spent_j: float) -> None:
        """Nothing to remember."""

    def state(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to remember."""
