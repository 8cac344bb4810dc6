"""Who holds which training examples: splits a data set over clients, deterministically by seed.

Every split covers each example at most once and leaves no client empty. One row a kind in `PARTITIONS`.
"""

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import UsageError

Indices = NDArray[np.int64]
Split = Callable[[NDArray[np.int64], NDArray[np.int64] | None, int, float, np.random.Generator], list[Indices]]


def partition(
    spec: str, labels: NDArray[np.int64], clients: int, seed: int, *, owners: NDArray[np.int64] | None = None
) -> list[Indices]:
    """Split examples over clients.

    Args:
        spec: `iid`, `dirichlet:A`, `shard:N`, `quantity:A` or `natural`.
        labels: Class of each example. Shape (n,).
        clients: How many clients there are.
        seed: Decides the split.
        owners: The data's own owners, for `natural`. Shape (n,).

    Returns:
        The example indices of each client, sorted, none empty.

    Raises:
        UsageError: The spec is unknown, or the data cannot be split over so many clients.
    """
    name, _, argument = spec.partition(":")
    if name not in PARTITIONS:
        raise UsageError(f"unknown partition {spec!r}; give iid, dirichlet:A, shard:N, quantity:A or natural")
    split, default = PARTITIONS[name]
    value = 0.0
    if default is None:
        if argument:
            raise UsageError(f"partition {spec!r}: {name} takes no argument; write {name!r}")
    else:
        try:
            value = float(argument) if argument else default
        except ValueError:
            value = 0.0
        if not 0 < value < 1e6 or (name == "shard" and value != int(value)):
            raise UsageError(
                f"partition {spec!r}: {argument!r} is no positive number; write it like {name}:{default:g}"
            )
    if clients > len(labels):
        raise UsageError(f"{len(labels)} examples cannot be split over {clients} clients; lower fleet.clients")
    parts = split(labels, owners, clients, value, np.random.default_rng([seed, 0x5917]))
    return [np.sort(part) for part in _fill_empty(parts)]


def _fill_empty(parts: list[Indices]) -> list[Indices]:
    """Give each empty client one example of whoever holds the most, the first of those who do."""
    rich = [(-part.size, client) for client, part in enumerate(parts)]
    heapq.heapify(rich)
    for client, part in enumerate(parts):
        if not part.size:
            size, largest = rich[0]
            parts[client], parts[largest] = parts[largest][-1:], parts[largest][:-1]
            heapq.heapreplace(rich, (size + 1, largest))
    return parts


def _iid(
    labels: NDArray[np.int64], _owners: NDArray[np.int64] | None, clients: int, _value: float, rng: np.random.Generator
) -> list[Indices]:
    return list(np.array_split(rng.permutation(len(labels)), clients))


def _dirichlet(
    labels: NDArray[np.int64], _owners: NDArray[np.int64] | None, clients: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    """Each class is dealt out by its own draw from Dir(alpha): the smaller alpha, the fewer classes a client sees.

    Source: Yurochkin et al., Bayesian nonparametric federated learning, ICML 2019, arXiv:1905.12022.
    """
    dealt, owners = [], []
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * of_class.size).astype(np.int64)
        dealt.append(of_class)
        owners.append(np.repeat(np.arange(clients), np.diff(cuts, prepend=0, append=of_class.size)))
    owner = np.concatenate(owners)
    by_owner = np.concatenate(dealt)[np.argsort(owner, kind="stable")]
    return list(np.split(by_owner, np.cumsum(np.bincount(owner, minlength=clients))[:-1]))


def _shard(
    labels: NDArray[np.int64], _owners: NDArray[np.int64] | None, clients: int, shards: float, rng: np.random.Generator
) -> list[Indices]:
    """Examples sorted by class, cut into `clients * shards` equal shards, `shards` of them to each client.

    Source: McMahan et al., Communication-efficient learning, AISTATS 2017, arXiv:1602.05629.
    """
    count = clients * int(shards)
    if count > len(labels):
        raise UsageError(
            f"{len(labels)} examples cannot be cut into {count} shards; lower fleet.clients or the shards a client"
        )
    pieces = np.array_split(np.argsort(labels, kind="stable"), count)
    order = rng.permutation(count).reshape(clients, -1)
    return [np.concatenate([pieces[index] for index in row]) for row in order]


def _quantity(
    labels: NDArray[np.int64], _owners: NDArray[np.int64] | None, clients: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    """Classes mixed alike, numbers of examples drawn from Dir(alpha)."""
    order = rng.permutation(len(labels))
    cuts = np.round(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(labels)).astype(np.int64)
    return list(np.split(order, cuts))


def _natural(
    labels: NDArray[np.int64], owners: NDArray[np.int64] | None, clients: int, _value: float, rng: np.random.Generator
) -> list[Indices]:
    """The data's own owners; where there are more owners than clients, a seeded choice of them."""
    if owners is None:
        raise UsageError(
            "partition 'natural' needs data that know their owners; give another partition, or a callable that returns owners"
        )
    known = np.unique(owners)
    if clients > known.size:
        raise UsageError(
            f"the data have {known.size} owners, fewer than {clients} clients; set fleet.clients = {known.size}"
        )
    chosen = np.sort(rng.permutation(known)[:clients])
    return [np.flatnonzero(owners == owner) for owner in chosen]


PARTITIONS: dict[str, tuple[Split, float | None]] = {
    "iid": (_iid, None),
    "dirichlet": (_dirichlet, 0.3),
    "shard": (_shard, 2.0),
    "quantity": (_quantity, 1.0),
    "natural": (_natural, None),
}
