"""Secure aggregation, the server's side: add up what arrives masked, and take the masks off the sum alone."""

import struct
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.frame import OVERHEAD_BYTES, Parcel, unwrap, wrap
from budjoule.training.compression.update import Layout, Update, Vector
from budjoule.training.server.privacy import clip_norm
from budjoule.training.server.secure_client import (
    PUBLIC_BYTES,
    REVEAL_BYTES,
    SEALED_BYTES,
    SEED_BYTES,
    Ring,
    agree,
    expand,
    public_key,
    shamir,
    threshold,
)

if TYPE_CHECKING:
    from budjoule.training.config.config import Config

MAGIC = b"BJMU"
SMALLEST = 3  # updates in a sum; a sum of two shows each to the other


@dataclass(frozen=True, slots=True, kw_only=True)
class RingCode:
    """Updates as ring elements: fixed-point numbers whose sum over the cohort cannot wrap.

    Args:
        clip: Longest update, so no entry is larger.
        cohort: Most updates in a sum.
    """

    clip: float
    cohort: int

    @property
    def steps_per_unit(self) -> float:
        """How fine the grid is."""
        return (2**31 - 1 - self.cohort) / (self.cohort * self.clip)

    def encode(self, values: Vector, rng: np.random.Generator) -> Ring:
        """A clipped update on the grid, rounded at random so that the mean is kept. Shape (n,)."""
        exact = clip_norm(values, self.clip).astype(np.float64) * self.steps_per_unit
        return np.floor(exact + rng.random(exact.shape)).astype(np.int64).astype(np.uint32)

    def decode(self, total: Ring) -> Vector:
        """The sum of updates behind a ring sum. Shape (n,)."""
        values: Vector = (total.view(np.int32) / self.steps_per_unit).astype(np.float32)
        return values


def pack_masked(update: Update, masked: Ring, layout: Layout) -> bytes:
    """A masked update as bytes to send; the head's facts are public."""
    body = masked.astype("<u4", copy=False).tobytes()
    return wrap(
        Parcel(client=update.client, base_version=update.base_version, examples=update.examples, body=body),
        layout,
        magic=MAGIC,
    )


def unpack_masked(data: bytes, layout: Layout) -> tuple[Parcel, Ring]:
    """A masked update from its bytes. The ring has shape (layout.size,).

    Raises:
        PayloadError: It is no masked update of this layout.
    """
    parcel = unwrap(data, layout, max_bytes=masked_bytes(layout), magic=MAGIC)
    if len(parcel.body) != 4 * layout.size:
        raise PayloadError(f"a masked update of {len(parcel.body)} bytes instead of {4 * layout.size}")
    return parcel, np.frombuffer(parcel.body, "<u4").astype(np.uint32)


def masked_bytes(layout: Layout) -> int:
    """Size of a masked frame. [B]"""
    return OVERHEAD_BYTES + 4 * layout.size


def setup_bytes(cohort: int) -> tuple[int, int]:
    """What the protocol's other messages add to a client's way down and up: keys, sealed shares, the call and the reveal. [B]"""
    down = cohort * (PUBLIC_BYTES + SEALED_BYTES) + struct.calcsize("<I") * cohort
    return down, PUBLIC_BYTES + cohort * (SEALED_BYTES + REVEAL_BYTES)


def unmask(
    total: Ring, publics: Mapping[int, bytes], survivors: Set[int], reveals: Mapping[int, Mapping[int, bytes]]
) -> Ring:
    """Take the masks off the sum of the survivors' updates. Shape (n,).

    Args:
        total: Sum of the masked updates that arrived.
        publics: Public keys of the whole cohort.
        survivors: Whose updates are in the sum.
        reveals: Each answering client's shares, one of each client of the cohort.

    Raises:
        PayloadError: Too few answered, or their shares do not fit the public keys.
    """
    need, order = threshold(len(publics)), sorted(publics)
    whole = [helper for helper in sorted(reveals) if helper in publics and _is_whole(reveals[helper], publics)]
    if len(whole) < need:
        raise PayloadError(f"{len(whole)} clients revealed shares, {need} are needed; the round is void")
    places = {client: place for place, client in enumerate(order, 1)}
    helpers = whole[:need]
    clear = total
    for client in order:
        seed = shamir().combine([(places[helper], reveals[helper][client]) for helper in helpers])
        if client in survivors:
            clear = clear - expand(seed, total.size)
            continue
        if public_key(seed) != publics[client][32:]:
            raise PayloadError(f"the shares of client {client} do not fit its public key; the round is void")
        for other in survivors:  # the pairwise masks that the missing update would have cancelled
            pairwise = expand(agree(seed, publics[other][32:], b"mask"), total.size)
            clear = clear - pairwise if other < client else clear + pairwise
    return clear


def _is_whole(shares: Mapping[int, bytes], publics: Mapping[int, bytes]) -> bool:
    return shares.keys() == publics.keys() and all(len(share) == SEED_BYTES for share in shares.values())


def ring_code(config: "Config") -> RingCode:
    """The ring of a configuration's cohorts."""
    return RingCode(clip=config.privacy.clip, cohort=min(config.server.cohort, config.fleet.clients))
