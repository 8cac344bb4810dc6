"""What is out of all proportion: an update longer, or a claim of more examples, than so many times the usual.

A plain check against accidents and blunt poison, far outside of what honest clients differ by. What hides inside its margin is for
the robust rows of `combine.py`.
"""

import math
from dataclasses import dataclass, field
from statistics import median_high
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import PayloadError
from budjoule.training.server.methods import METHODS, Arrival, by_examples

if TYPE_CHECKING:
    from budjoule.training.config.config import Config

ENOUGH = 3  # values; of fewer none can be told apart
RECENT = 50  # values that make a median; so few that it follows updates which grow


class OutOfProportion(PayloadError):  # noqa: N818 - what an update is, not a fault of the payload's form
    """An update far longer than the others', or with a claim far above theirs."""


@dataclass(slots=True, kw_only=True)
class Usual:
    """How large values are: the highest that the median of the last `RECENT` has stood at when a version was made.

    The highest, since updates shrink as a model settles, and one from an old base is as long as all were then.

    Args:
        factor: How many times the usual a value may be; infinite where nothing is compared.
        recent: The last values that were accepted, the oldest first.
        highest: The highest median so far.
    """

    factor: float
    recent: list[float] = field(default_factory=list)
    highest: float = 0.0

    @property
    def now(self) -> float:
        """The usual value; infinite before there are `ENOUGH`."""
        median = median_high(self.recent) if len(self.recent) >= ENOUGH else 0.0
        return max(self.highest, median) or math.inf

    def exceeded(self, value: float) -> bool:
        """Whether a value is out of all proportion."""
        return value > self.factor * self.now

    def add(self, value: float) -> None:
        """Count an accepted value; zero, of a client with nothing to say, does not count."""
        if value and self.factor < math.inf:
            self.recent = [*self.recent, value][-RECENT:]

    def forget(self, value: float) -> None:
        """Take back what was counted and is refused after all."""
        if value in self.recent:
            self.recent.remove(value)

    def settle(self) -> None:
        """A version was made of what was accepted."""
        if self.now < math.inf:
            self.highest = self.now

    def numbers(self) -> list[float]:
        """The highest median and the values, as plain data for a checkpoint."""
        return [self.highest, *self.recent]

    def restore(self, numbers: list[float]) -> None:
        """Take up where `numbers` was saved."""
        self.highest, *self.recent = numbers


class Outliers:
    """Remembers what is usual, and refuses what is far beyond it.

    Args:
        norm_factor: How many times the usual length an update may have; infinite where lengths say nothing.
        claim_factor: How many times the usual number of examples it may claim; infinite where claims weigh nothing.
    """

    def __init__(self, *, norm_factor: float, claim_factor: float) -> None:
        self._norms, self._claims = Usual(factor=norm_factor), Usual(factor=claim_factor)

    def check(self, arrival: Arrival) -> None:
        """Refuse what is out of all proportion.

        Raises:
            OutOfProportion: Its length, or its number of examples, is over the usual by the factor.
        """
        if self._norms.exceeded(norm := self._norm(arrival)):
            raise OutOfProportion(
                f"norm: an update of length {norm:.3g} is over {self._norms.factor:g} times the usual {self._norms.now:.3g}; "
                "raise server.outlier_factor if it is honest"
            )
        if self._claims.exceeded(arrival.examples):
            raise OutOfProportion(
                f"examples: {arrival.examples} claimed, over {self._claims.factor:g} times the usual {self._claims.now:g}; "
                "raise server.outlier_factor, whose square this is, if that is honest"
            )

    def keep(self, arrival: Arrival) -> None:
        """Count an accepted update."""
        self._norms.add(self._norm(arrival))
        self._claims.add(arrival.examples)

    def forget(self, arrival: Arrival) -> None:
        """Take back what was kept and is refused after all."""
        self._norms.forget(self._norm(arrival))
        self._claims.forget(arrival.examples)

    def settle(self) -> None:
        """A version was made of what was kept."""
        self._norms.settle()
        self._claims.settle()

    def numbers(self) -> dict[str, Any]:
        """What it remembers, as plain data for a checkpoint."""
        return {"norms": self._norms.numbers(), "claims": self._claims.numbers()}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Take up where `numbers` was saved."""
        self._norms.restore(numbers["norms"])
        self._claims.restore(numbers["claims"])

    def _norm(self, arrival: Arrival) -> float:
        return arrival.norm if self._norms.factor < math.inf else 0.0


def plan_outliers(config: "Config", *, holdings_known: bool) -> Outliers:
    """What a configuration compares.

    Not lengths where a clip bounds them, or where a mask hides them: under differential privacy what one client sends may not decide
    over another. And not claims where they weigh nothing, or where the engine knows what each client holds; elsewhere by the square
    of the factor, for honest holdings differ by more than lengths do.
    """
    factor = config.server.outlier_factor
    hidden = math.isfinite(config.privacy.epsilon) or config.privacy.secure_aggregation
    claims_weigh = METHODS[config.server.method].weigh is by_examples and not hidden
    return Outliers(
        norm_factor=math.inf if math.isfinite(config.privacy.clip) else factor,
        claim_factor=factor**2 if claims_weigh and not holdings_known else math.inf,
    )
