"""The durable record of a joule budget: every spend is reserved at an upper bound, then committed at its true value.

Contract, held on every path, by several threads and processes and over SIGKILL: `spent + reserved + remaining -
overspent == budget`, exactly (amounts are whole nanojoules inside); and if no spend exceeds its reservation, spent
never exceeds the budget. A reservation left open by a crash counts as spent until it is settled.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import budjoule.training.ledger.ledger_sql as sql
from budjoule.energy.device_state import DeviceState, device_state
from budjoule.energy.errors import BudgetExhausted, LedgerError
from budjoule.energy.units import show
from budjoule.training.ledger.account import Account
from budjoule.training.ledger.books import Books
from budjoule.training.ledger.entries import (
    UNTOLD,
    Terms,
    Wanted,
    book,
    hold,
    make_account,
    read_terms,
    terms_of,
    wanted_of,
)
from budjoule.training.ledger.ledger_file import NANO, check_books, create_tables, nanojoules
from budjoule.training.ledger.ledger_period import renew, turn
from budjoule.training.ledger.process import process_mark, still_runs
from budjoule.training.ledger.reservation import Reservation


class Ledger(Account):
    """A budget of joules, and where they went. Made by `Ledger.open` (a device's file) or `Ledger.attach` (a simulator)."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        budget_j: float | None = None,
        period_s: float | None = None,
        per_charge: bool | None = None,
        floor_frac: float | None = None,
        change_budget: bool = False,
        account: str = "device",
        device: Callable[[], DeviceState] = device_state,
    ) -> "Ledger":
        """Open a device's ledger, or make it. The file keeps its terms; what is left out here stays as it was made.

        Args:
            path: The file, on a local disk. It is safe for several processes and survives SIGKILL and power cuts.
            budget_j: The budget; needed to make a ledger, and checked against the one it was made with. [J]
            period_s: The budget comes back every so many seconds (86400: joules a day); 0 for never, the default. [s]
            per_charge: The budget comes back whenever the battery has been charged.
            floor_frac: Nothing is reserved while the battery holds less than this; without a battery there is no floor.
            change_budget: Replace the recorded terms by those given; what was spent stays spent.
            account: Which of the file's accounts.
            device: Reads the device's state.

        Raises:
            LedgerError: The file is no ledger, is corrupt, cannot be written, or was made with other terms.
        """
        terms = terms_of(budget_j, period_s, per_charge, floor_frac)
        if per_charge and device().battery_frac is None:
            raise LedgerError("this device has no battery that can be read, so no charge ends; give period_s instead")
        if budget_j is None and not Path(path).exists():
            raise LedgerError(f"there is no ledger {path}; give budget_j to make one")
        ledger = cls(Books.open(Path(path)), account)
        ledger._device = device
        try:
            with ledger._books.transaction() as cursor:
                create_tables(cursor, str(path))
                check_books(cursor, str(path))
                ledger._open_account(cursor, terms, change_budget)
            ledger._catch_up()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def attach(cls, connection: sqlite3.Connection, account: str, *, budget_j: float) -> "Ledger":
        """An account in a database of the caller's, written inside the caller's open transaction.

        It never begins, commits or rolls back, so that the spends stand or fall with the caller's own rows.

        Args:
            connection: With a transaction open whenever a reservation is made or settled.
            account: Name of the account; made when it is new.
            budget_j: Its budget. [J]

        Raises:
            LedgerError: No transaction is open, or the account exists with another budget.
        """
        ledger = cls(Books.attach(connection, f"the account {account!r}"), account)
        with ledger._books.transaction() as cursor:
            create_tables(cursor, ledger._books.name, alone=False)
            ledger._open_account(cursor, terms_of(budget_j, None, None, None), False)
        return ledger

    def reserve(
        self, upper_j: float, cause: str = "compute", *, expected_j: float | None = None, least_j: float | None = None
    ) -> Reservation:
        """Set joules aside for a spend, before it begins.

        Args:
            upper_j: The most that the spend can cost. [J]
            cause: One of `CAUSES`.
            expected_j: What it is expected to cost; a measured commit is held against it in `measured_ratio`. [J]
            least_j: Take what remains where that is less than `upper_j`, but no less than this. [J]

        Raises:
            BudgetExhausted: More than what remains, the budget is overspent, or the battery is below its floor.
            LedgerError: The amount is negative or not finite, the cause unknown, or the file cannot be written.
        """
        wanted = wanted_of(upper_j, cause, expected_j, least_j)
        state = self._look()
        with self._books.transaction() as cursor:
            return self._hold(cursor, wanted, state)

    def roll_over(
        self,
        reservation: Reservation,
        actual_j: float,
        upper_j: float,
        *,
        measured: bool = False,
        expected_j: float | None = None,
        least_j: float | None = None,
    ) -> Reservation:
        """Commit a reservation and hold the next of its kind in one transaction, so that nobody else comes in between.

        Args:
            reservation: What ends.
            actual_j: What it cost. [J]
            upper_j: The most that what follows can cost. [J]
            measured: A meter gave `actual_j`.
            expected_j: What follows is expected to cost. [J]
            least_j: As in `reserve`. [J]

        Raises:
            BudgetExhausted: As in `reserve`; the reservation is then still open.
            LedgerError: It was settled before, or an amount is none.
        """
        wanted = wanted_of(upper_j, reservation.cause, expected_j, least_j)
        actual_nj = nanojoules(actual_j, "the committed energy")
        state = self._look()
        with self._books.transaction() as cursor:
            cursor.execute("SAVEPOINT roll_over")  # of its own: the caller's transaction may go on after a refusal
            try:
                self._book(cursor, reservation.id, actual_nj, measured, None)
                return self._hold(cursor, wanted, state)
            except BaseException:
                cursor.execute("ROLLBACK TO roll_over")
                raise
            finally:
                cursor.execute("RELEASE roll_over")

    def transaction(self) -> AbstractContextManager[sqlite3.Cursor]:
        """Entries that are written together or not at all, and with them what the cursor writes into the caller's own tables.

        ``with ledger.transaction() as cursor: reservation.commit(...); cursor.execute(...)``
        """
        return self._books.transaction()

    def renew(self) -> None:
        """Begin a new period now, with nothing spent: for budgets a charge, by whoever sees the charger.

        Raises:
            LedgerError: The ledger is attached, or cannot be written.
        """
        if self._books.attached:
            raise LedgerError(f"{self._books.name} is attached and has no periods; give the client another account")
        with self._books.transaction() as cursor:
            renew(cursor, self._key, time.time())

    def open_reservations(self) -> list[Reservation]:
        """Reservations that nobody has settled, oldest first: those in use now, and those a crash left behind."""
        rows = self._books.read(
            "SELECT id, upper_nj, cause FROM reservation WHERE account = ? ORDER BY id", (self._key,)
        )
        return [Reservation(self._settle, identity, upper_nj / NANO, cause) for identity, upper_nj, cause in rows]

    def abandoned(self) -> list[Reservation]:
        """Open reservations whose process has ended: settle them by a meter, or at their `upper_j`."""
        rows = self._books.read("SELECT id, process FROM reservation WHERE account = ?", (self._key,))
        gone = {identity for identity, process in rows if process is not None and not still_runs(process)}
        return [reservation for reservation in self.open_reservations() if reservation.id in gone]

    def settle_abandoned(self) -> float:
        """Commit what crashes left at its upper bound, for whoever has no meter that would say less; the joules. [J]

        Until then it counts as spent just the same, in every period anew.
        """
        left = self.abandoned()
        for reservation in left:
            reservation.commit(reservation.upper_j)
        return sum(reservation.upper_j for reservation in left)

    def reservation(self, identity: int) -> Reservation:
        """An open reservation by its number, for a run that resumes.

        Raises:
            LedgerError: It is settled, or was never made.
        """
        rows = self._books.read(
            "SELECT upper_nj, cause FROM reservation WHERE account = ? AND id = ?", (self._key, identity)
        )
        if not rows:
            raise LedgerError(f"{self._books.name} has no open reservation {identity}; it was settled before")
        return Reservation(self._settle, identity, rows[0][0] / NANO, rows[0][1])

    def close(self) -> None:
        """Close a ledger that `open` made; an attached one leaves the caller's connection alone."""
        self._books.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_account(self, cursor: sqlite3.Cursor, terms: Terms, change_budget: bool) -> None:
        found = read_terms(cursor, self._name)
        if found is None:
            if terms.budget_nj is None:
                raise LedgerError(f"{self._books.name} is new and has no budget; give budget_j")
            self._terms = terms.over(UNTOLD)
            began_s = None if self._books.attached else time.time()
            self._key = make_account(cursor, self._name, self._terms, began_s)
            return
        self._key, self._terms = found[0], terms.over(found[1])
        if self._terms == found[1]:
            return
        if not change_budget:
            raise LedgerError(
                f"{self._books.name} was made with a budget of {found[1]}, not {self._terms}; "
                "open it without one, or with change_budget=True"
            )
        cursor.execute(sql.CHANGE, (*self._terms, self._key))

    def _hold(self, cursor: sqlite3.Cursor, wanted: Wanted, state: DeviceState | None) -> Reservation:
        floor_frac = self._terms.floor_frac or 0.0
        if state is not None and state.battery_frac is not None and state.battery_frac < floor_frac:
            raise BudgetExhausted(
                f"the battery is at {state.battery_frac:.0%} and {self._books.name} spends nothing below {floor_frac:.0%}; "
                "charge it, or lower the floor"
            )
        if not self._books.attached:
            turn(cursor, self._key, time.time(), state)
        held = hold(cursor, self._key, wanted, self._who_and_when())
        if held is None:
            raise self._exhausted(wanted.least_nj / NANO)
        return Reservation(self._settle, held.identity, held.upper_nj / NANO, wanted.cause)

    def _settle(self, identity: int, actual_nj: int, measured: bool, expected_nj: int | None) -> None:
        with self._books.transaction() as cursor:
            self._book(cursor, identity, actual_nj, measured, expected_nj)

    def _book(
        self, cursor: sqlite3.Cursor, identity: int, actual_nj: int, measured: bool, expected_nj: int | None
    ) -> None:
        if not book(cursor, self._key, identity, actual_nj, measured=measured, expected_nj=expected_nj):
            raise LedgerError(f"reservation {identity} of {self._books.name} is settled already; settle each one once")

    def _who_and_when(self) -> tuple[str | None, float | None]:
        # A simulator's file must not depend on who ran it and when.
        return (None, None) if self._books.attached else (process_mark(), time.time())

    def _exhausted(self, upper_j: float) -> BudgetExhausted:
        budget, spent, reserved = self._sums()
        asked, kept = show(upper_j, "J"), show(reserved / NANO, "J")
        if spent + reserved > budget:
            over = show((spent + reserved - budget) / NANO, "J")
            return BudgetExhausted(
                f"{self._books.name} is overspent by {over} and reserves nothing more; raise its budget"
            )
        left = show((budget - spent - reserved) / NANO, "J")
        return BudgetExhausted(
            f"{asked} asked of {self._books.name}, {left} left of {show(budget / NANO, 'J')} ({kept} reserved); raise the budget"
        )
