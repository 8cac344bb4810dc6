"""Secure aggregation, a client's side: its update goes out under masks that cancel in the cohort's sum.

The protocol is Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS 2017 (honest but
curious server, dropouts at any point): a mask for each pair from an agreed key, a mask of one's own, and Shamir shares of
both seeds with the others. X25519, HKDF, AES-CTR and ChaCha20-Poly1305 are `cryptography`'s, Shamir's scheme is
PyCryptodome's; nothing here is home-made but their order.
"""

import secrets
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import PayloadError, UsageError

Ring = NDArray[np.uint32]  # sums wrap at 2^32, which is what makes masks cancel and hide

SEED_BYTES = 16  # of a secret that is shared; Shamir's field is GF(2^128)
PUBLIC_BYTES = 64  # two X25519 keys
_SHARE_BYTES = 2 * SEED_BYTES  # of the key's seed and of the own mask's
_TAG_BYTES = 16
REVEAL_BYTES = 1 + SEED_BYTES  # which of the two, and the share
SEALED_BYTES = _SHARE_BYTES + _TAG_BYTES


def threshold(cohort: int) -> int:
    """How many shares open a secret: more than half, so that no two disjoint groups learn both of a client's seeds."""
    return cohort // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """One client in one round; every round has secrets of its own.

    Args:
        client: Its number.
        sealing_seed: Of the key that seals shares for others.
        masking_seed: Of the key that pairwise masks are agreed with; shared.
        own_seed: Of its own mask; shared.
    """

    client: int
    sealing_seed: bytes
    masking_seed: bytes
    own_seed: bytes

    @classmethod
    def new(cls, client: int) -> "Participant":
        """With secrets from the system."""
        return cls(
            client=client,
            sealing_seed=secrets.token_bytes(SEED_BYTES),
            masking_seed=secrets.token_bytes(SEED_BYTES),
            own_seed=secrets.token_bytes(SEED_BYTES),
        )

    @property
    def public(self) -> bytes:
        """Both public keys, for the server to hand round."""
        return public_key(self.sealing_seed) + public_key(self.masking_seed)

    def share(self, publics: Mapping[int, bytes]) -> dict[int, bytes]:
        """Sealed shares of its seeds for each of the cohort, itself included. By client.

        Args:
            publics: Everyone's public keys.
        """
        scheme = shamir()
        order = sorted(publics)
        need = threshold(len(order))
        keys = dict(scheme.split(need, len(order), self.masking_seed))
        owns = dict(scheme.split(need, len(order), self.own_seed))
        return {
            other: _aead(self._sealing_key(publics, other)).encrypt(
                _nonce(self.client, other), keys[place] + owns[place], None
            )
            for place, other in enumerate(order, 1)
        }

    def mask(self, values: Ring, publics: Mapping[int, bytes]) -> Ring:
        """The values under its own mask and one for each pair. Shape (n,)."""
        masked = values + expand(self.own_seed, values.size)
        for other, public in publics.items():
            if other != self.client:
                pairwise = expand(agree(self.masking_seed, public[32:], b"mask"), values.size)
                masked = masked + pairwise if self.client < other else masked - pairwise
        return masked

    def reveal(
        self, sealed: Mapping[int, bytes], publics: Mapping[int, bytes], survivors: Set[int]
    ) -> dict[int, bytes]:
        """A share of one seed of each client: the own mask's of those who sent, the key's of those who did not.

        Never both of the same client, or the server could open its update.

        Args:
            sealed: The shares that the others sealed for it, by client.
            publics: Everyone's public keys.
            survivors: Whose updates arrived.

        Raises:
            PayloadError: Too few survived, or a share was tampered with.
        """
        if len(survivors) < threshold(len(publics)):
            raise PayloadError(
                f"{len(survivors)} of {len(publics)} updates arrived; below {threshold(len(publics))} nothing is revealed"
            )
        revealed = {}
        for other, box in sealed.items():
            try:
                both = _aead(self._sealing_key(publics, other)).decrypt(_nonce(other, self.client), box, None)
            except _invalid_tag():
                raise PayloadError(f"the share of client {other} for client {self.client} was tampered with") from None
            revealed[other] = both[SEED_BYTES:] if other in survivors else both[:SEED_BYTES]
        return revealed

    def _sealing_key(self, publics: Mapping[int, bytes], other: int) -> bytes:
        return agree(self.sealing_seed, publics[other][:32], b"seal", 32)


def public_key(seed: bytes) -> bytes:
    """The X25519 public key of a seed."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public: bytes = _private(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return public


def agree(seed: bytes, public: bytes, purpose: bytes, size_bytes: int = SEED_BYTES) -> bytes:
    """What both ends of a pair derive: X25519, then HKDF for the purpose.

    Raises:
        PayloadError: The other end's public key is none.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        common = _private(seed).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # of another length, or a point that makes every secret the same
        raise PayloadError("a public key of the cohort is none; the round is void") from None
    return _derive(common, purpose, size_bytes)


def expand(seed: bytes, size: int) -> Ring:
    """A seed's stream of ring elements: AES-128 in counter mode; every seed is used once. Shape (size,)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, "<u4").astype(np.uint32, copy=False)


def _private(seed: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    except ImportError:
        raise _absent() from None
    return X25519PrivateKey.from_private_bytes(_derive(seed, b"key", 32))


def _derive(secret: bytes, purpose: bytes, size_bytes: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived: bytes = HKDF(SHA256(), size_bytes, salt=None, info=b"budjoule.secure/1 " + purpose).derive(secret)
    return derived


def _aead(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _nonce(sender: int, receiver: int) -> bytes:
    """One for each direction of a pair: its key is the same both ways, and new every round."""
    return sender.to_bytes(6, "little") + receiver.to_bytes(6, "little")


def shamir() -> Any:
    """The library's secret sharing over GF(2^128)."""
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ImportError:
        raise _absent() from None
    return Shamir


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _absent() -> UsageError:
    return UsageError("privacy.secure_aggregation needs its cryptography: pip install 'budjoule[privacy]'")
