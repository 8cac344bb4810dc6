"""What a server and its world say to each other: the `Engine` that it asks, the versions it hands out, its reply to an update."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol

from budjoule.training.compression.update import Vector

# What becomes of an update that arrives: it waits in the buffer, or it is refused; dropped is what would be refused again.
Reply = Literal["taken", "refused", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """A version as clients receive it.

    Args:
        version: Its number.
        frame: The bytes that travel.
        values: What the frame decodes to, which is what clients train from. Shape (n,).
    """

    version: int
    frame: bytes
    values: Vector


class Engine(Protocol):
    """What a server needs of the world: a clock, who is free, and ways to reach them."""

    @property
    def now_s(self) -> float:
        """Time since the run began. [s]"""
        ...

    def free_clients(self) -> Sequence[int]:
        """Clients that can be invited now."""
        ...

    def invite(self, client: int, model: "Broadcast") -> bool:
        """Hand a client the model to train from; False when it cannot take part."""
        ...

    def alarm(self, time_s: float, mark: int) -> None:
        """Call `Server.alarmed(mark)` at a time. [s]"""
        ...

    def retire(self, client: int) -> None:
        """Offer a client no more."""
        ...

    def agree(self, clients: Sequence[int]) -> Mapping[int, bytes]:
        """Ask the clients of a round for the public keys of its secure aggregation."""
        ...

    def reveal(self, publics: Mapping[int, bytes], survivors: Set[int]) -> Mapping[int, Mapping[int, bytes]]:
        """Tell a round's clients whose updates arrived; what each of those reveals of every other."""
        ...

    def published(self, updates: int, mean_staleness: float) -> None:
        """A new version stands."""
        ...

    def rejected(self, client: int, reason: str, *, after_all: bool = False) -> None:
        """Something that arrived was refused, perhaps after it had been taken into the buffer."""
        ...
