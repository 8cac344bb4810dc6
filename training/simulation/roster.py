"""A run's clients, each made when it is first needed, so that one that was never invited takes no memory."""

from collections.abc import Callable

from budjoule.training.clients.client import Client


class Roster:
    """Clients by number.

    Args:
        size: How many there are.
        make: Makes a client that has done nothing yet.

    Attributes:
        made: Those that were needed so far; all others are as new.
    """

    def __init__(self, size: int, make: Callable[[int], Client]) -> None:
        self.made: dict[int, Client] = {}
        self._size = size
        self._make = make

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, client: int) -> Client:
        found = self.made.get(client)
        if found is None:
            found = self.made[client] = self._make(client)
        return found

    def glance(self, client: int) -> Client:
        """A client to look at; made for this look alone where it was not needed so far."""
        return self.made.get(client) or self._make(client)

    def retired(self, client: int) -> bool:
        """Whether a client will never take part again."""
        return client in self.made and self.made[client].state.retired
