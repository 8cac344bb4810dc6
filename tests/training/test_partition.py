"""Partitions: each example belongs to one client at most, no client is empty, and the seed decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.task.partition import _fill_empty, partition

LABELS = np.repeat(np.arange(10), 40)


@settings(max_examples=60, deadline=None)
@given(
    spec=st.sampled_from(["iid", "dirichlet:0.05", "dirichlet:1", "shard:1", "shard:3", "quantity:0.1", "quantity:5"]),
    clients=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_partitions_deal_out_every_example_once(spec: str, clients: int, seed: int) -> None:
    parts = partition(spec, LABELS, clients, seed)
    assert len(parts) == clients
    assert all(part.size for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    again = partition(spec, LABELS, clients, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(lambda sizes: sum(sizes) >= len(sizes)))
def test_whoever_is_left_empty_gets_one_from_the_first_of_the_richest(sizes: list[int]) -> None:
    parts = list(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))
    wanted = [list(part) for part in parts]
    for client, part in enumerate(wanted):
        if not part:
            wanted[client] = [max(wanted, key=len).pop()]
    assert [list(part) for part in _fill_empty(parts)] == wanted


def test_smaller_alpha_is_more_skewed() -> None:
    def purity(spec: str) -> float:
        parts = [partition(spec, LABELS, 20, seed) for seed in range(5)]
        return float(np.mean([np.bincount(LABELS[p]).max() / p.size for split in parts for p in split]))

    assert purity("dirichlet:0.05") > purity("dirichlet:0.5") + 0.1 > purity("dirichlet:50") + 0.2


def test_a_shard_holds_few_classes() -> None:
    assert all(len(np.unique(LABELS[part])) <= 2 for part in partition("shard:1", LABELS, 20, 0))


def test_natural_keeps_owners_whole() -> None:
    owners = np.arange(len(LABELS)) % 7
    parts = partition("natural", LABELS, 5, 0, owners=owners)
    held = [set(owners[part]) for part in parts]
    assert all(len(owner) == 1 for owner in held)
    assert len(set.union(*held)) == 5
    assert all(part.size == np.sum(owners == owners[part[0]]) for part in parts)


@pytest.mark.parametrize(
    "spec", ["iid:3", "dirichlet:0", "dirichlet:x", "shard:1.5", "quantity:-1", "dirichlet:nan", "other"]
)
def test_bad_specs_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=spec.partition(":")[0]):
        partition(spec, LABELS, 4, 0)


def test_more_clients_than_examples_or_owners_are_refused() -> None:
    with pytest.raises(UsageError, match=r"lower fleet\.clients"):
        partition("iid", LABELS[:3], 4, 0)
    with pytest.raises(UsageError, match=r"lower fleet\.clients"):
        partition("shard:9", LABELS, 100, 0)
    with pytest.raises(UsageError, match=r"set fleet\.clients = 2"):
        partition("natural", LABELS, 4, 0, owners=np.arange(len(LABELS)) % 2)
    with pytest.raises(UsageError, match="needs data that know their owners"):
        partition("natural", LABELS, 4, 0)


def test_each_class_is_dealt_by_a_draw_of_its_own() -> None:
    """One draw for all classes would give clients of different sizes that hold all classes alike."""
    labels = np.repeat(np.arange(10), 600)
    parts = partition("dirichlet:0.3", labels, 20, 0)
    held = np.stack([np.bincount(labels[part], minlength=10) / 600 for part in parts], axis=1)
    assert np.abs(np.corrcoef(held)[np.triu_indices(10, 1)]).mean() < 0.35
    large = [np.bincount(labels[part]).max() / part.size for part in parts if part.size > 100]
    assert np.mean(large) > 0.35


def test_natural_owners_are_a_choice_of_the_seed() -> None:
    owners = np.arange(len(LABELS)) % 40
    chosen = {
        tuple(int(owners[part[0]]) for part in partition("natural", LABELS, 5, seed, owners=owners))
        for seed in range(8)
    }
    assert len(chosen) == 8
