"""Joules set aside for one spend: made by a `Ledger`, settled exactly once."""

from collections.abc import Callable
from types import TracebackType

from budjoule.training.ledger.ledger_file import nanojoules

# Books a reservation: its number, what it cost, whether a meter said so, and what had been expected. [nJ]
Settle = Callable[[int, int, bool, int | None], None]


class Reservation:
    """Joules set aside for one spend, to be settled exactly once: `commit` what it cost, or `release` it unspent.

    As a context manager it is settled at the end of the block: left unsettled, the block's end commits the full
    upper bound, since nobody measured less. An exception leaves it reserved, as a crash does: what ran is unknown,
    so it counts as spent until `Ledger.open_reservations` is settled.
    """

    __slots__ = ("_id", "_settle", "_settled", "cause", "upper_j")

    def __init__(self, settle: Settle, identity: int, upper_j: float, cause: str) -> None:
        self._settle = settle
        self._id = identity
        self._settled = False
        self.upper_j = upper_j
        self.cause = cause

    @property
    def id(self) -> int:
        """Number of the reservation in its ledger, never used twice; `Ledger.reservation` finds it again."""
        return self._id

    def commit(self, actual_j: float, *, measured: bool = False, expected_j: float | None = None) -> None:
        """Book what the spend cost and give the rest back. [J]

        Args:
            actual_j: What it cost; booked in full, also above `upper_j`. [J]
            measured: A meter gave the number, not an estimate.
            expected_j: What a measured spend had been expected to cost, where it differs from what the reservation
                says: a block cut short. [J]

        Raises:
            LedgerError: The amount is negative or not finite, or the reservation was settled before.
        """
        expected_nj = None if expected_j is None else nanojoules(expected_j, "the expected energy")
        self._settle(self._id, nanojoules(actual_j, "the committed energy"), measured, expected_nj)
        self._settled = True

    def release(self) -> None:
        """Give the whole reservation back: nothing was spent.

        Raises:
            LedgerError: The reservation was settled before.
        """
        self._settle(self._id, 0, False, None)
        self._settled = True

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._settled:
            self.commit(self.upper_j)

    def __repr__(self) -> str:
        return f"Reservation(id={self._id}, upper_j={self.upper_j}, cause={self.cause!r})"
