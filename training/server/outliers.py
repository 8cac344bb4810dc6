"""What is out of all proportion: an update longer, or a claim of more examples, than so many times the usual.

A plain check against accidents and blunt poison, far outside of what honest clients differ by. What hides inside its margin is for
the robust rows of `combine.py`.
"""

import math
from collections.abc import Sequence
from statistics import median_high
from typing import TYPE_CHECKING

import numpy as np

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.update import Vector
from budjoule.training.server.methods import METHODS, Arrival, by_examples

if TYPE_CHECKING:
    from budjoule.training.config.config import Config

ENOUGH = 3  # values; of fewer none can be told apart
RECENT = 50  # values that make the usual, so that it follows updates that shrink as a model settles


class Outliers:
    """Remembers what was accepted lately, and refuses what is far beyond its median.

    Args:
        norm_factor: How many times the usual length an update may have; infinite where lengths say nothing.
        claim_factor: How many times the usual number of examples it may claim; infinite where claims weigh nothing.
    """

    def __init__(self, *, norm_factor: float, claim_factor: float) -> None:
        self._norm_factor, self._claim_factor = norm_factor, claim_factor
        self._norms: list[float] = []
        self._claims: list[float] = []

    def check(self, arrival: Arrival) -> None:
        """Refuse what is out of all proportion; nothing is before there are `ENOUGH` to compare with.

        Raises:
            PayloadError: Its length, or its number of examples, is over the usual by the factor.
        """
        if self._norm_factor < math.inf:
            norm, usual = norm_of(arrival.values), _usual(self._norms)
            if norm > self._norm_factor * usual:
                raise PayloadError(
                    f"norm: an update of length {norm:.3g} is over {self._norm_factor:g} times the usual {usual:.3g}; "
                    "raise server.outlier_factor if it is honest"
                )
        if arrival.examples > self._claim_factor * (usual := _usual(self._claims)):
            raise PayloadError(
                f"examples: {arrival.examples} claimed, over {self._claim_factor:g} times the usual {usual:g}; "
                "raise server.outlier_factor if that is honest"
            )

    def keep(self, arrival: Arrival) -> None:
        """Count an accepted update; a length of zero, of a client with nothing to say, does not count."""
        if self._norm_factor < math.inf and (norm := norm_of(arrival.values)):
            self._norms = [*self._norms, norm][-RECENT:]
        if self._claim_factor < math.inf:
            self._claims = [*self._claims, float(arrival.examples)][-RECENT:]

    def forget(self, arrival: Arrival) -> None:
        """Take back what was kept and is refused after all."""
        if self._norms and (norm := norm_of(arrival.values)) in self._norms:
            self._norms.remove(norm)
        if arrival.examples in self._claims:
            self._claims.remove(arrival.examples)

    def numbers(self) -> dict[str, list[float]]:
        """What it remembers, as plain data for a checkpoint."""
        return {"norms": list(self._norms), "claims": list(self._claims)}

    def restore(self, numbers: dict[str, Sequence[float]]) -> None:
        """Take up where `numbers` was saved."""
        self._norms, self._claims = list(numbers["norms"]), list(numbers["claims"])


def plan_outliers(config: "Config", *, holdings_known: bool) -> Outliers:
    """What a configuration compares.

    Not lengths where a clip bounds them, or where a mask hides them: under differential privacy what one client sends may not decide
    over another. And not claims where they weigh nothing, or where the engine knows what each client holds.
    """
    factor = config.server.outlier_factor
    hidden = math.isfinite(config.privacy.epsilon) or config.privacy.secure_aggregation
    claims_weigh = METHODS[config.server.method].weigh is by_examples and not hidden
    return Outliers(
        norm_factor=math.inf if math.isfinite(config.privacy.clip) else factor,
        claim_factor=factor if claims_weigh and not holdings_known else math.inf,
    )


def norm_of(values: Vector) -> float:
    """Length of a vector, in double precision, which no float32 overflows."""
    wide = values.astype(np.float64)
    return float(np.sqrt(wide @ wide))


def _usual(values: Sequence[float]) -> float:
    return median_high(values) if len(values) >= ENOUGH else math.inf
