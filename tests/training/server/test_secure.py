"""Secure aggregation: the sum is exact whoever drops out, single updates stay hidden, and too few reveal nothing."""

import dataclasses
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import PayloadError, UsageError
from budjoule.training.compression.update import Update, layout_of
from budjoule.training.config.config import load_config
from budjoule.training.server.engine import Broadcast
from budjoule.training.server.privacy import clip_norm
from budjoule.training.server.secure_client import Participant, Ring, agree, expand, public_key, shamir, threshold
from budjoule.training.server.secure_sum import RingCode, pack_masked, setup_bytes, unmask, unpack_masked
from budjoule.training.server.server import Server

Bits = Callable[..., tuple[dict[str, Any], bytes]]
SIZE = 50


def cohort(count: int) -> tuple[dict[int, Participant], dict[int, bytes]]:
    people = {client: Participant.new(client) for client in range(0, 3 * count, 3)}
    return people, {client: person.public for client, person in people.items()}


def reveals_of(
    people: dict[int, Participant], publics: dict[int, bytes], survivors: set[int]
) -> dict[int, dict[int, bytes]]:
    sealed = {client: person.share(publics) for client, person in people.items()}
    return {
        client: people[client].reveal({other: boxes[client] for other, boxes in sealed.items()}, publics, survivors)
        for client in survivors
    }


def rings(people: dict[int, Participant]) -> dict[int, Ring]:
    rng = np.random.default_rng(len(people))
    return {client: rng.integers(0, 2**32, SIZE, dtype=np.uint32) for client in people}


@settings(max_examples=12, deadline=None)
@given(count=st.integers(3, 7), data=st.data())
def test_the_sum_of_whoever_is_left_is_exact(count: int, data: st.DataObject) -> None:
    people, publics = cohort(count)
    dropped = data.draw(st.sets(st.sampled_from(sorted(people)), max_size=count - threshold(count)))
    survivors = set(people) - dropped
    values = rings(people)
    total = sum((people[client].mask(values[client], publics) for client in survivors), np.zeros(SIZE, np.uint32))
    clear = unmask(total, publics, survivors, reveals_of(people, publics, survivors))
    np.testing.assert_array_equal(clear, sum((values[c] for c in survivors), np.zeros(SIZE, np.uint32)))


def even(ring: Ring) -> bool:
    """Whether values look drawn from all of the ring alike: chi-square of 15 degrees; 50 is one in 80,000."""
    counts, wanted = np.bincount(ring >> 28, minlength=16), ring.size / 16
    return float(((counts - wanted) ** 2 / wanted).sum()) < 50


def test_a_masked_update_shows_nothing_of_itself() -> None:
    """Of a zero update the masks are seen alone: each is even over the ring, and so is what is left when any other is taken off."""
    people, publics = cohort(3)
    zero = np.zeros(40_000, np.uint32)
    own = expand(people[3].own_seed, zero.size)
    below, above = (expand(agree(people[c].masking_seed, publics[3][32:], b"mask"), zero.size) for c in (0, 6))
    masked = people[3].mask(zero, publics)
    np.testing.assert_array_equal(masked, own - below + above)
    for seen in (masked, masked - own, masked + below, masked - above, masked - own + below, masked + below - above):
        assert even(seen)
    assert not even(zero)


def test_nobody_learns_both_seeds_of_a_client() -> None:
    """What is revealed opens the own mask of whoever sent and the key of whoever did not, and nothing else."""
    people, publics = cohort(5)
    survivors = set(people) - {6}
    reveals = reveals_of(people, publics, survivors)
    places = {client: place for place, client in enumerate(sorted(publics), 1)}
    for client, person in people.items():
        shares = [(places[helper], reveals[helper][client]) for helper in survivors]
        assert all(len(share) == 16 for _, share in shares)
        for chosen in combinations(shares, threshold(5)):
            assert shamir().combine(list(chosen)) == (person.own_seed if client in survivors else person.masking_seed)
    with pytest.raises(PayloadError, match="below 3"):
        reveals_of(people, publics, {0, 3})
    for count in range(3, 200):
        assert 2 * threshold(count) > count


def test_pairs_agree_and_others_do_not() -> None:
    people, publics = cohort(3)
    first, second, third = (people[client].masking_seed for client in (0, 3, 6))
    assert agree(first, publics[3][32:], b"mask") == agree(second, publics[0][32:], b"mask")
    assert agree(first, publics[3][32:], b"mask") != agree(first, publics[3][32:], b"seal")
    assert agree(first, publics[3][32:], b"mask") != agree(third, publics[3][32:], b"mask")
    assert public_key(first) == publics[0][32:]


def test_a_share_that_was_tampered_with_is_refused() -> None:
    people, publics = cohort(3)
    sealed = {client: person.share(publics)[0] for client, person in people.items()}
    sealed[3] = sealed[3][:-1] + bytes([sealed[3][-1] ^ 1])
    with pytest.raises(PayloadError, match="tampered"):
        people[0].reveal(sealed, publics, set(people))


def test_shares_of_another_key_are_refused_and_too_few_void_the_round() -> None:
    people, publics = cohort(5)
    survivors = set(people) - {6}
    reveals = reveals_of(people, publics, survivors)
    with pytest.raises(PayloadError, match="3 are needed"):
        unmask(np.zeros(4, np.uint32), publics, survivors, dict(list(reveals.items())[:2]))
    reveals[0] = {**reveals[0], 6: bytes(16)}
    with pytest.raises(PayloadError, match="public key"):
        unmask(np.zeros(4, np.uint32), publics, survivors, reveals)


@pytest.mark.parametrize(
    "spoilt", [{}, {0: bytes(16)}, dict.fromkeys((0, 3, 6, 9, 12), b"short"), {c: bytes(16) for c in range(9)}]
)
def test_reveals_that_are_not_whole_do_not_count(spoilt: dict[int, bytes]) -> None:
    people, publics = cohort(5)
    survivors = set(people) - {6}
    reveals = reveals_of(people, publics, survivors)
    values = rings(people)
    total = sum((people[client].mask(values[client], publics) for client in survivors), np.zeros(SIZE, np.uint32))
    clear = unmask(total, publics, survivors, reveals | {0: spoilt, 99: reveals[0]})
    np.testing.assert_array_equal(clear, sum((values[c] for c in survivors), np.zeros(SIZE, np.uint32)))
    with pytest.raises(PayloadError, match="2 clients revealed shares, 3 are needed"):
        unmask(total, publics, survivors, reveals | {0: spoilt, 3: spoilt})


@pytest.mark.parametrize("public", [b"", bytes(64), bytes(63)])
def test_a_public_key_that_is_none_voids_the_round(public: bytes) -> None:
    people, publics = cohort(3)
    with pytest.raises(PayloadError, match="the round is void"):
        people[0].mask(np.zeros(4, np.uint32), {**publics, 3: public})


@settings(max_examples=30, deadline=None)
@given(count=st.integers(3, 100), clip=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_the_ring_holds_any_sum_of_clipped_updates(count: int, clip: float, seed: int) -> None:
    code, rng = RingCode(clip=clip, cohort=count), np.random.default_rng(seed)
    updates = [clip_norm(rng.normal(0, clip, 3).astype(np.float32), clip) for _ in range(count - 1)]
    updates.append(np.array([2 * clip, 0, 0], np.float32))
    total = sum((code.encode(update, rng) for update in updates), np.zeros(3, np.uint32))
    wanted = np.sum([clip_norm(update, clip) for update in updates], axis=0, dtype=np.float64)
    np.testing.assert_allclose(code.decode(total), wanted, atol=count * (1 / code.steps_per_unit + 1e-6 * clip))


def test_frames_of_other_lengths_are_refused() -> None:
    layout, longer = layout_of([("w", (4,))]), layout_of([("w", (5,))])
    update = Update(client=1, base_version=2, examples=3, values=np.zeros(4, np.float32))
    ring = np.arange(4, dtype=np.uint32)
    parcel, found = unpack_masked(pack_masked(update, ring, layout), layout)
    assert (parcel.client, parcel.base_version, parcel.examples) == (1, 2, 3)
    np.testing.assert_array_equal(found, ring)
    with pytest.raises(PayloadError, match="another model"):
        unpack_masked(pack_masked(dataclasses.replace(update), ring, longer), layout)
    with pytest.raises(PayloadError, match="8 bytes instead of 16"):
        unpack_masked(pack_masked(update, ring[:2], layout), layout)


class Round:
    """One round of real participants, of whom the test says who answers."""

    now_s = 0.0

    def __init__(self, clients: int) -> None:
        self.free = list(range(clients))
        self.people = {client: Participant.new(client) for client in self.free}
        self.rejects: list[str] = []
        self.versions: list[int] = []

    def free_clients(self) -> list[int]:
        return [] if self.versions or self.rejects else self.free

    def invite(self, client: int, model: Broadcast) -> bool:
        self.free.remove(client)
        return True

    def alarm(self, time_s: float, mark: int) -> None: ...

    def retire(self, client: int) -> None: ...

    def agree(self, clients: Any) -> dict[int, bytes]:
        return {client: self.people[client].public for client in clients}

    def reveal(self, publics: Any, survivors: Any) -> dict[int, dict[int, bytes]]:
        return reveals_of(self.people, publics, set(survivors))

    def published(self, updates: int, mean_staleness: float) -> None:
        self.versions.append(updates)

    def rejected(self, client: int, reason: str, *, after_all: bool = False) -> None:
        self.rejects.append(reason)


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_version_is_the_mean_of_those_who_arrived(lost: int, rate: float) -> None:
    layout, count = layout_of([("w", (SIZE,))]), 5
    keys = {"server": {"cohort": count, "learning_rate": rate}}
    config = load_config(BASE, overrides=[keys, "privacy.clip=10.0"])
    server, world = Server(config, layout, np.zeros(SIZE, np.float32)), Round(count)
    server.begin(world)
    code, rng = RingCode(clip=10.0, cohort=count), np.random.default_rng(0)
    updates = {client: rng.normal(size=SIZE).astype(np.float32) for client in range(count)}
    for client in range(count - lost):
        update = Update(client=client, base_version=0, examples=7 + client, values=updates[client])
        masked = world.people[client].mask(code.encode(update.values, rng), server.state.publics)
        assert server.receive(world, client, pack_masked(update, masked, layout)) == "taken"
    for client in range(count - lost, count):
        server.give_up(world, client)
    assert world.versions == [count - lost]
    wanted = rate * np.mean([updates[client] for client in range(count - lost)], axis=0)
    np.testing.assert_allclose(server.state.weights, wanted, atol=1e-6)


def secure(small: dict[str, Any], **fleet: Any) -> dict[str, Any]:
    return {
        "preset": "fedavg",
        "task": {"partition": "iid"},
        "fleet": {"clients": 6, "straggler_frac": 0.3, **fleet},
        "training": small["training"],
        "server": {"cohort": 4},
        "privacy": {"secure_aggregation": True, "clip": 10.0},
        "stop": {"rounds": 4, "target_accuracy_frac": "none"},
    }


def test_a_secure_run_learns_what_a_plain_one_does(small: dict[str, Any], tmp_path: Any) -> None:
    import torch

    from budjoule.training.run import train

    config = secure(small)
    config["fleet"]["clients"] = 4  # equal shards, so that examples weigh nothing
    train(config, output=tmp_path / "secure")
    train(config, output=tmp_path / "plain", overrides=["privacy.secure_aggregation=false"])
    one, other = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("secure", "plain"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0.01, atol=1e-3)


def test_a_secure_run_survives_losses_repeats_and_pays_for_its_messages(small: dict[str, Any], run_bits: Bits) -> None:
    config = secure(small, dropout_frac=0.15)
    summary, events = run_bits(config)
    assert summary["rounds"] == 4
    assert summary["lost"] > 0
    assert (summary, events) == run_bits(config)
    plain, _ = run_bits(config, "privacy.secure_aggregation=false")
    down, up = setup_bytes(4)
    per_send = summary["uplink_bytes"] / summary["sends"] - plain["uplink_bytes"] / plain["sends"]
    assert per_send == pytest.approx(up, abs=16)
    assert summary["downlink_bytes"] > plain["downlink_bytes"] > 0 < down


def test_a_round_with_too_few_is_void(small: dict[str, Any], run_bits: Bits) -> None:
    config = secure(small, dropout_frac=0.9)
    config["stop"]["duration"] = "20 s"
    summary, _ = run_bits(config)
    assert summary["rejects"]["too few for a secure sum"] > 0
    assert summary["rounds"] < 4


BASE = {"preset": "fedavg", "privacy": {"secure_aggregation": True, "clip": 1.0}}


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("server.method=budjoule", "fixed before it sends"),
        ("server.method=fedbuff", "fixed before it sends"),
        ("server.aggregate=median", "sum alone"),
        ("server.aggregate=trimmed-mean:0.1", "sum alone"),
        ("server.aggregate=norm-bound:2", "sum alone"),
        ('update.compress=["topk:0.1"]', r"the one mask that all share is w\*"),
        ('update.compress=["randomk:0.1"]', r"the seed of randomk, by itself"),
        ("server.staleness=age-variance", "age-variance looks at"),
        ('update.compress=["quantize:8"]', "own quantization"),
        ("update.error_feedback=true", "leave nothing out"),
        ("privacy.clip=none", "needs privacy.clip"),
        ("server.cohort=2", "at least 3"),
    ],
)
def test_what_secure_aggregation_does_not_combine_with_is_refused_with_the_reason(override: str, why: str) -> None:
    load_config(BASE)
    with pytest.raises(UsageError, match=why):
        load_config(BASE, overrides=[override])


def test_noise_goes_on_top_of_a_secure_sum(small: dict[str, Any], run_bits: Bits) -> None:
    config = secure(small)
    config["privacy"] |= {"epsilon": 50.0, "delta": 1e-3}
    summary, _ = run_bits(config)
    assert summary["rounds"] == 4
    assert 0 < summary["privacy"]["epsilon_spent"] <= 50.0
