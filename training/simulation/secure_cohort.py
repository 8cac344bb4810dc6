"""Secure aggregation between simulated clients: the real cryptography, with secrets that follow from the run's seed."""

from collections.abc import Iterable, Mapping, Set

import numpy as np

from budjoule.training.compression.update import Layout, Update
from budjoule.training.config.config import Config
from budjoule.training.server.secure_client import Participant
from budjoule.training.server.secure_sum import RingCode, pack_masked, ring_code


class SecureCohort:
    """The cohort of the round that is going on.

    Args:
        config: The run's configuration.
        layout: What is trained.
    """

    def __init__(self, config: Config, layout: Layout) -> None:
        self._seed = config.seed
        self._layout = layout
        self._code: RingCode = ring_code(config)

    def publics(self, round_number: int, clients: Iterable[int]) -> dict[int, bytes]:
        """Everyone's public keys."""
        return {client: self._participant(round_number, client).public for client in clients}

    def frame(self, update: Update, round_number: int, publics: Mapping[int, bytes], rng: np.random.Generator) -> bytes:
        """An update as its client sends it: clipped, on the ring, masked."""
        participant = self._participant(round_number, update.client)
        return pack_masked(update, participant.mask(self._code.encode(update.values, rng), publics), self._layout)

    def reveal(
        self, round_number: int, publics: Mapping[int, bytes], survivors: Set[int]
    ) -> dict[int, dict[int, bytes]]:
        """What the survivors answer when the server names who has sent."""
        everyone = {client: self._participant(round_number, client) for client in publics}
        sealed = {client: participant.share(publics) for client, participant in everyone.items()}
        return {
            client: everyone[client].reveal(
                {other: boxes[client] for other, boxes in sealed.items()}, publics, survivors
            )
            for client in sorted(survivors)
        }

    def _participant(self, round_number: int, client: int) -> Participant:
        drawn = np.random.default_rng([self._seed, 0x5EC, round_number, client]).bytes(48)
        return Participant(client=client, sealing_seed=drawn[:16], masking_seed=drawn[16:32], own_seed=drawn[32:])
