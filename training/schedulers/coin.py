"""Random numbers of a scheduler's own: a hash of the seed, the client and a counter, so that its state is one integer."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(slots=True)
class Coin:
    """A reproducible source of uniform numbers.

    Args:
        seed: The run's seed.
        client: Number of the client.
        tosses: How many numbers were drawn.
    """

    seed: int
    client: int
    tosses: int = 0

    def uniform(self) -> float:
        """The next number from 0 up to 1."""
        self.tosses += 1
        digest = blake2b(f"{self.seed} {self.client} {self.tosses}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
