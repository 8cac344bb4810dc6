"""Secure aggregation: the sum is exact whoever drops out, single updates stay hidden, and too few reveal nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import PayloadError, UsageError
from budjoule.training.compression.update import Update, layout_of
from budjoule.training.config.config import load_config
from budjoule.training.server.privacy import clip_norm
from budjoule.training.server.secure_client import Participant, Ring, agree, expand, public_key, threshold
from budjoule.training.server.secure_sum import RingCode, pack_masked, setup_bytes, unmask, unpack_masked

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


def test_a_masked_update_shows_nothing_of_itself() -> None:
    """The masks of a zero update are even over the ring, and no one seed that the server ever learns takes them off."""
    people, publics = cohort(3)
    zero = np.zeros(40_000, np.uint32)
    masked = people[0].mask(zero, publics)
    counts = np.bincount(masked >> 28, minlength=16)
    assert ((counts - 2500) ** 2 / 2500).sum() < 50  # chi-square of 15 degrees; 50 is one in 80,000
    own_off = masked - expand(people[0].own_seed, zero.size)
    pairs_off = people[0].mask(zero, publics) - own_off
    assert own_off.any()
    assert pairs_off.any()


def test_nobody_learns_both_seeds_of_a_client() -> None:
    people, publics = cohort(5)
    survivors = set(people) - {6}
    for shares in reveals_of(people, publics, survivors).values():
        assert set(shares) == set(people)
        assert all(len(share) == 16 for share in shares.values())
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
        ('update.compress=["topk:0.1"]', "share no mask"),
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
