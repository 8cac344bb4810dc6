"""Who the simulated clients are: each one's device, link, slowness, and the true joules that its ledger never sees.

Drawn once from the seed, one stream of random numbers a trait, so that a change of one share leaves the other traits alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.training.config.config import Config
from budjoule.training.links.links import load_link


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A client as the simulator knows it.

    Args:
        client: Its number.
        device: Name of its device profile.
        link: Name of its link.
        slowdown: How many times longer computing and transfers take; 1 unless it is a straggler.
        compute_truth: True joules of computing over the estimate's; hidden from the client.
        link_truth: True joules of transfers over the link profile's; hidden from the client.
        phase_s: When its first slot begins. [s]
    """

    client: int
    device: str
    link: str
    slowdown: float
    compute_truth: float
    link_truth: float
    phase_s: float

    @property
    def straggler(self) -> bool:
        """Whether it is slowed down."""
        return self.slowdown > 1.0


def draw_fleet(config: Config) -> list[Member]:
    """Draw every client of a configuration.

    The true joules lie evenly within `energy_error_frac` around what the profiles say.

    Raises:
        UsageError: A link is unknown or carries no transfers.
    """
    fleet = config.fleet
    for name in fleet.link_shares:
        if load_link(name).broadcast:
            raise UsageError(f"link {name!r} is a broadcast and takes no updates from clients; give another fleet.link")

    def rng(trait: int) -> np.random.Generator:
        return np.random.default_rng([config.seed, 0xF1EE7, trait])

    devices = deal(fleet.device_shares, fleet.clients, rng(0))
    links = deal(fleet.link_shares, fleet.clients, rng(1))
    stragglers = np.zeros(fleet.clients, bool)
    stragglers[rng(2).permutation(fleet.clients)[: round(fleet.straggler_frac * fleet.clients)]] = True
    error = fleet.energy_error_frac
    compute = rng(3).uniform(1 - error, 1 + error, fleet.clients)
    link = rng(4).uniform(1 - error, 1 + error, fleet.clients)
    # Slowness is a ratio, so it lies evenly on a logarithmic scale.
    least, most = fleet.straggler_slowdown
    slowdowns = least * (most / least) ** rng(6).uniform(0, 1, fleet.clients)
    slot_s = config.schedule.slot_s if config.slots else 0.0
    phases = rng(5).uniform(0, slot_s, fleet.clients)
    return [
        Member(
            client=client,
            device=devices[client],
            link=links[client],
            slowdown=float(slowdowns[client]) if stragglers[client] else 1.0,
            compute_truth=float(compute[client]),
            link_truth=float(link[client]),
            phase_s=float(phases[client]),
        )
        for client in range(fleet.clients)
    ]


def deal(shares: Mapping[str, float], clients: int, rng: np.random.Generator) -> list[str]:
    """A name for each client, in whole numbers as close to the shares as can be (largest remainders), shuffled.

    >>> sorted(deal({"a": 0.7, "b": 0.3}, 10, np.random.default_rng(0)))
    ['a', 'a', 'a', 'a', 'a', 'a', 'a', 'b', 'b', 'b']
    """
    wanted = {name: share * clients for name, share in shares.items()}
    counts = {name: int(number) for name, number in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    for name in by_remainder[: clients - sum(counts.values())]:
        counts[name] += 1
    names = [name for name, count in counts.items() for _ in range(count)]
    return [names[index] for index in rng.permutation(len(names))]
