"""An account of a ledger as it is read: its sums at this moment, in the period that holds now."""

import time
from collections.abc import Callable
from typing import NamedTuple

import budjoule.training.ledger.ledger_sql as sql
from budjoule.energy.device_state import DeviceState, device_state
from budjoule.energy.units import show
from budjoule.training.ledger.books import Books
from budjoule.training.ledger.entries import CAUSES, UNTOLD
from budjoule.training.ledger.ledger_file import NANO
from budjoule.training.ledger.ledger_period import Period, due, past, turn

MARGIN = 1.1  # what the next spend may cost over the worst one measured of late


def widened_j(upper_j: float, seen_j: float) -> float:
    """An upper end that holds, or that past spends have shown to be too low and a margin above them. [J]"""
    return upper_j if seen_j <= upper_j * (1 + 1e-9) else MARGIN * seen_j


class Balance(NamedTuple):
    """A ledger's sums at one moment: `spent_j + reserved_j + remaining_j - overspent_j == budget_j`. [J]"""

    budget_j: float
    spent_j: float
    reserved_j: float
    remaining_j: float
    overspent_j: float


class Account:
    """Reads one account of a ledger's file."""

    def __init__(self, books: Books, name: str) -> None:
        """Not for callers: `Ledger.open` and `Ledger.attach` make accounts."""
        self._books = books
        self._name = name
        self._key = 0
        self._terms = UNTOLD
        self._device: Callable[[], DeviceState] = device_state

    def balance(self) -> Balance:
        """All sums at one moment; single properties read one after the other may have other spends in between."""
        self._catch_up()
        budget, spent, reserved = self._sums()
        free = budget - spent - reserved
        return Balance(budget / NANO, spent / NANO, reserved / NANO, max(free, 0) / NANO, max(-free, 0) / NANO)

    @property
    def budget_j(self) -> float:
        """What may be spent in all. [J]"""
        return self.balance().budget_j

    @property
    def spent_j(self) -> float:
        """What was spent and settled. [J]"""
        return self.balance().spent_j

    @property
    def reserved_j(self) -> float:
        """What open reservations hold. [J]"""
        return self.balance().reserved_j

    @property
    def remaining_j(self) -> float:
        """What can still be reserved; 0 when the budget is overspent. [J]"""
        return self.balance().remaining_j

    @property
    def overspent_j(self) -> float:
        """By how much spent and reserved joules pass the budget, after a commit above its reservation; else 0. [J]"""
        return self.balance().overspent_j

    @property
    def exhausted(self) -> bool:
        """Nothing remains."""
        return self.remaining_j == 0

    @property
    def spent_by_cause_j(self) -> dict[str, float]:
        """The spent joules by cause, every cause listed; they add up to `spent_j`. [J]"""
        self._catch_up()
        spent: dict[str, int] = dict(
            self._books.read("SELECT cause, spent_nj FROM spend WHERE account = ?", (self._key,))
        )
        return {cause: spent.get(cause, 0) / NANO for cause in CAUSES}

    @property
    def measured_j(self) -> float:
        """The part of `spent_j` that a meter gave. [J]"""
        self._catch_up()
        return (
            int(
                self._books.read("SELECT coalesce(sum(measured_nj), 0) FROM spend WHERE account = ?", (self._key,))[0][
                    0
                ]
            )
            / NANO
        )

    def measured_ratio(self, cause: str) -> float:
        """How measured spends of late compare with what was expected: the worst, forgotten slowly. 1 before the first.

        It rises at once and falls by a twentieth of the way with every better one, so that a reservation widened by it
        holds for the next spend also where the device has warmed up or the model was optimistic.
        """
        rows = self._books.read("SELECT ratio FROM spend WHERE account = ? AND cause = ?", (self._key, cause))
        return 1.0 if not rows or rows[0][0] is None else float(rows[0][0])

    def widened_j(self, upper_j: float, expected_j: float, cause: str) -> float:
        """What to reserve for a spend: its upper end, or more where spends measured of late contradict it. [J]

        Args:
            upper_j: The estimate's upper end. [J]
            expected_j: Its expected value. [J]
            cause: What for.
        """
        return widened_j(upper_j, self.measured_ratio(cause) * expected_j)

    def periods(self) -> list[Period]:
        """The periods that are over, oldest first."""
        return past(self._books.read(sql.PAST, (self._key,)))

    def __repr__(self) -> str:
        budget, spent, reserved = (show(nano / NANO, "J") for nano in self._sums())
        return f"<Ledger {self._books.name}: {spent} spent and {reserved} reserved of {budget}>"

    def _sums(self) -> tuple[int, int, int]:
        budget, spent, reserved = self._books.read(sql.SUMS, (self._key,))[0]
        return budget, spent, reserved

    def _look(self) -> DeviceState | None:
        """The device's state, where the account's terms depend on it."""
        return self._device() if self._terms.floor_frac or self._terms.per_charge else None

    def _catch_up(self) -> None:
        """Begin the period that holds now, so that what is read belongs to it."""
        if self._books.attached:
            return
        state = self._look()
        if due(self._books.read(sql.PERIOD, (self._key,))[0], time.time(), state):
            with self._books.transaction() as cursor:
                turn(cursor, self._key, time.time(), state)
