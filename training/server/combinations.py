"""Which rows of the server combine: one table of refusals, each with its reason, checked when a configuration is read.

What is not listed combines. `training/server/README.md` shows the same as a table for people.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budjoule.energy.errors import UsageError
from budjoule.training.server.methods import METHODS

if TYPE_CHECKING:
    from budjoule.training.config.config import Config


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that cannot hold what it promises: when it is met, and why it is refused."""

    met: "Callable[[Config], bool]"
    why: str


def _private(config: "Config") -> bool:
    return math.isfinite(config.privacy.epsilon)


def _secure(config: "Config") -> bool:
    return config.privacy.secure_aggregation


def _buffered(config: "Config") -> bool:
    return not METHODS[config.server.method].synchronous


REFUSALS = (
    Refusal(
        lambda c: not _private(c) and (math.isfinite(c.privacy.delta) or c.privacy.participations is not None),
        "privacy.delta and privacy.participations do nothing without privacy.epsilon: no noise is added; set privacy.epsilon, or "
        "leave them out",
    ),
    Refusal(
        lambda c: c.server.deadline_s is not None and c.server.method != "fedavg-deadline",
        "server.deadline is for server.method = 'fedavg-deadline' alone; leave it out, or set that method",
    ),
    Refusal(
        lambda c: _private(c) and not math.isfinite(c.privacy.clip),
        "privacy.epsilon needs privacy.clip: noise is measured against the longest update; set privacy.clip = 1.0",
    ),
    Refusal(
        lambda c: _private(c) and not 0 < c.privacy.delta < 1,
        "privacy.epsilon needs privacy.delta; set one well below 1 / fleet.clients, such as 1e-5",
    ),
    Refusal(
        lambda c: _private(c) and not math.isfinite(c.stop.rounds),
        "privacy.epsilon needs stop.rounds: without an end no noise is enough",
    ),
    Refusal(
        lambda c: _private(c) and c.server.aggregate != "mean",
        "privacy.epsilon needs server.aggregate = 'mean': the noise is measured for a sum of clipped updates",
    ),
    Refusal(
        lambda c: _private(c) and c.server.staleness == "age-variance",
        "privacy.epsilon needs public weights, and age-variance looks at the updates; set server.staleness = 'polynomial'",
    ),
    Refusal(
        lambda c: _private(c) and _buffered(c) and c.server.damping,
        "privacy.epsilon needs steps whose length is public, and damping looks at the updates; set server.damping = false, "
        "and a server.learning_rate below 1 where many clients are in flight",
    ),
    Refusal(
        lambda c: _secure(c) and _buffered(c),
        "privacy.secure_aggregation needs a cohort that is fixed before it sends, and a buffer takes whoever comes first; "
        "set server.method = 'fedavg' or 'fedavg-deadline'",
    ),
    Refusal(
        lambda c: _secure(c) and c.server.aggregate != "mean",
        "privacy.secure_aggregation needs server.aggregate = 'mean': medians, trimmed means and norm bounds look at single "
        "updates, and the server sees their sum alone",
    ),
    Refusal(
        lambda c: _secure(c) and c.server.staleness == "age-variance",
        "privacy.secure_aggregation hides what age-variance looks at; set server.staleness = 'constant'",
    ),
    Refusal(
        lambda c: _secure(c) and bool(c.update.compress),
        "privacy.secure_aggregation needs update.compress = []: every client chooses its entries, or the seed of randomk, by "
        "itself, and the ring has its own quantization; the one mask that all share is w*, which training.memory makes small",
    ),
    Refusal(
        lambda c: _secure(c) and c.update.error_feedback,
        "privacy.secure_aggregation needs update.error_feedback = false: its frames leave nothing out",
    ),
    Refusal(
        lambda c: _secure(c) and not math.isfinite(c.privacy.clip),
        "privacy.secure_aggregation needs privacy.clip: the ring must hold the sum of the longest updates",
    ),
    Refusal(
        lambda c: _secure(c) and min(c.server.cohort, c.fleet.clients) < 3,
        "privacy.secure_aggregation needs a cohort of at least 3: a sum of two shows each to the other",
    ),
)


def check_combinations(config: "Config") -> None:
    """Refuse what does not combine.

    Raises:
        UsageError: With the reason and the remedy.
    """
    for refusal in REFUSALS:
        if refusal.met(config):
            raise UsageError(refusal.why)
