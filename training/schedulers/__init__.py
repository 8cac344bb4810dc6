"""When is an update worth its energy? One policy a file, and the table that lists them."""

from collections.abc import Callable

from budjoule.energy.errors import UsageError
from budjoule.training.schedulers.every_block import EveryBlock
from budjoule.training.schedulers.fixed_period import FixedPeriod
from budjoule.training.schedulers.joule_queue import JouleQueue
from budjoule.training.schedulers.norm_threshold import NormThreshold
from budjoule.training.schedulers.offer import Level, Offer, Scheduler, may_train
from budjoule.training.schedulers.price_threshold import PriceThreshold
from budjoule.training.schedulers.random_send import RandomSend
from budjoule.training.schedulers.token_bucket import TokenBucket

# policy -> (seed, client) -> a fresh scheduler of one client
SCHEDULERS: dict[str, Callable[[int, int], Scheduler]] = {
    "every-block": lambda seed, client: EveryBlock(),
    "fixed-period": lambda seed, client: FixedPeriod(),
    "random": lambda seed, client: RandomSend(seed=seed, client=client),
    "norm-threshold": lambda seed, client: NormThreshold(),
    "token-bucket": lambda seed, client: TokenBucket(),
    "joule-queue": lambda seed, client: JouleQueue(),
    "price-threshold": lambda seed, client: PriceThreshold(),
}


def make_scheduler(policy: str, *, seed: int, client: int) -> Scheduler:
    """A fresh scheduler for one client.

    Args:
        policy: A row of `SCHEDULERS`.
        seed: The run's seed.
        client: Number of the client.

    Raises:
        UsageError: There is no such policy.
    """
    if policy not in SCHEDULERS:
        raise UsageError(f"unknown schedule policy {policy!r}; give one of {', '.join(SCHEDULERS)}")
    return SCHEDULERS[policy](seed, client)


__all__ = ["SCHEDULERS", "Level", "Offer", "Scheduler", "make_scheduler", "may_train"]
