"""The durable record of a joule budget: every spend is reserved at an upper bound, then committed at its true value.

Contract, held on every path, by several threads and processes and over SIGKILL: `spent + reserved + remaining -
overspent == budget`, exactly (amounts are whole nanojoules inside); and if no spend exceeds its reservation, spent
never exceeds the budget. A reservation left open by a crash counts as spent until it is settled.
"""

import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

import budjoule.training.ledger.ledger_sql as sql
from budjoule.energy.errors import BudgetExhausted, LedgerError
from budjoule.energy.units import show
from budjoule.training.ledger.books import Books
from budjoule.training.ledger.ledger_file import NANO, check_books, create_tables, nanojoules
from budjoule.training.ledger.ledger_period import Period, checked_period_s, is_over, past, renew, renew_if_due
from budjoule.training.ledger.process import process_mark, still_runs
from budjoule.training.ledger.reservation import Reservation

CAUSES = ("compute", "uplink", "downlink", "idle")


class Balance(NamedTuple):
    """A ledger's sums at one moment: `spent_j + reserved_j + remaining_j - overspent_j == budget_j`. [J]"""

    budget_j: float
    spent_j: float
    reserved_j: float
    remaining_j: float
    overspent_j: float


class Ledger:
    """A budget of joules, and where they went. Made by `Ledger.open` (a device's file) or `Ledger.attach` (a simulator)."""

    def __init__(self, books: Books, account: str) -> None:
        """Not for callers: use `Ledger.open` or `Ledger.attach`."""
        self._books = books
        self._account = account
        self._key = 0

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        budget_j: float | None = None,
        period_s: float | None = None,
        change_budget: bool = False,
        account: str = "device",
    ) -> "Ledger":
        """Open a device's ledger, or make it.

        Args:
            path: The file, on a local disk. It is safe for several processes and survives SIGKILL and power cuts.
            budget_j: The budget; needed to make a ledger, and checked against the one it was made with. [J]
            period_s: The budget comes back every so many seconds (86400: joules a day); None if it is given once, or to
                keep what the ledger was made with. [s]
            change_budget: Replace the recorded budget and period by those given; what was spent stays spent.
            account: Which of the file's accounts.

        Raises:
            LedgerError: The file is no ledger, is corrupt, cannot be written, or was made with another budget.
        """
        checked_period_s(period_s)
        if budget_j is None and not Path(path).exists():
            raise LedgerError(f"there is no ledger {path}; give budget_j to make one")
        ledger = cls(Books.open(Path(path)), account)
        try:
            with ledger._books.transaction() as cursor:
                create_tables(cursor, str(path))
                check_books(cursor, str(path))
                ledger._open_account(cursor, budget_j, period_s, change_budget)
                renew_if_due(cursor, ledger._key, time.time())
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
            ledger._open_account(cursor, budget_j, None, False)
        return ledger

    def reserve(self, upper_j: float, cause: str = "compute", *, expected_j: float | None = None) -> Reservation:
        """Set joules aside for a spend, before it begins.

        Args:
            upper_j: The most that the spend can cost. [J]
            cause: One of `CAUSES`.
            expected_j: What it is expected to cost; a measured commit is held against it in `measured_ratio`. [J]

        Raises:
            BudgetExhausted: More than what remains, or the budget is overspent.
            LedgerError: The amount is negative or not finite, the cause unknown, or the file cannot be written.
        """
        if cause not in CAUSES:
            raise LedgerError(f"unknown cause {cause!r}; give one of {', '.join(CAUSES)}")
        upper_nj = nanojoules(upper_j, "the reserved energy")
        expected_nj = None if expected_j is None else nanojoules(expected_j, "the expected energy")
        with self._books.transaction() as cursor:
            if not self._books.attached:
                renew_if_due(cursor, self._key, time.time())
            cursor.execute(sql.HOLD, (upper_nj, self._key))
            if cursor.rowcount != 1:
                raise self._exhausted(upper_j)
            cursor.execute(
                sql.RESERVE,
                (self._key, cause, upper_nj, expected_nj, *self._who_and_when()),
            )
            return Reservation(self._settle, int(cursor.lastrowid or 0), upper_nj / NANO, cause)

    def renew(self) -> None:
        """Begin a new period now, with nothing spent: for budgets a charge, by whoever sees the charger.

        Raises:
            LedgerError: The ledger is attached, or cannot be written.
        """
        if self._books.attached:
            raise LedgerError(f"{self._books.name} is attached and has no periods; give the client another account")
        with self._books.transaction() as cursor:
            renew(cursor, self._key, time.time())

    def periods(self) -> list[Period]:
        """The periods that are over, oldest first."""
        return past(self._books.read(sql.PAST, (self._key,)))

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

    def close(self) -> None:
        """Close a ledger that `open` made; an attached one leaves the caller's connection alone."""
        self._books.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        budget, spent, reserved = (show(nano / NANO, "J") for nano in self._sums())
        return f"<Ledger {self._books.name}: {spent} spent and {reserved} reserved of {budget}>"

    def _sums(self) -> tuple[int, int, int]:
        budget, spent, reserved = self._books.read(sql.SUMS, (self._key,))[0]
        return budget, spent, reserved

    def _catch_up(self) -> None:
        """Begin the period that holds now, so that what is read belongs to it."""
        if self._books.attached:
            return
        began_s, period_s = self._books.read(sql.PERIOD, (self._key,))[0]
        if is_over(began_s, period_s, time.time()):
            with self._books.transaction() as cursor:
                renew_if_due(cursor, self._key, time.time())

    def _open_account(
        self, cursor: sqlite3.Cursor, budget_j: float | None, period_s: float | None, change_budget: bool
    ) -> None:
        budget_nj = None if budget_j is None else nanojoules(budget_j, "the budget")
        row = cursor.execute("SELECT id, budget_nj, period_s FROM account WHERE name = ?", (self._account,)).fetchone()
        if row is None:
            if budget_nj is None:
                raise LedgerError(f"{self._books.name} is new and has no budget; give budget_j")
            began_s = None if self._books.attached else time.time()
            cursor.execute(sql.OPEN, (self._account, budget_nj, period_s, began_s))
            self._key = int(cursor.lastrowid or 0)
            cursor.executemany(
                "INSERT INTO spend (account, cause) VALUES (?, ?)", [(self._key, cause) for cause in CAUSES]
            )
            return
        self._key, was_nj, was_s = row
        budget_nj, period_s = was_nj if budget_nj is None else budget_nj, was_s if period_s is None else period_s
        if (budget_nj, period_s) == (was_nj, was_s):
            return
        if not change_budget:
            raise LedgerError(
                f"{self._books.name} was made with a budget of {_shown(was_nj, was_s)}, not {_shown(budget_nj, period_s)}; "
                "open it without one, or with change_budget=True"
            )
        cursor.execute("UPDATE account SET budget_nj = ?, period_s = ? WHERE id = ?", (budget_nj, period_s, self._key))

    def _settle(self, identity: int, actual_nj: int, measured: bool, expected_nj: int | None) -> None:
        with self._books.transaction() as cursor:
            row = cursor.execute(sql.SETTLE, (identity, self._key)).fetchone()
            if row is None:
                raise LedgerError(
                    f"reservation {identity} of {self._books.name} is settled already; settle each one once"
                )
            upper_nj, expected_then_nj, cause = row
            cursor.execute(sql.BOOK, (upper_nj, actual_nj, self._key))
            if not measured:
                cursor.execute(sql.FILE, (actual_nj, self._key, cause))
                return
            expected_nj = expected_then_nj if expected_nj is None else expected_nj
            ratio = actual_nj / expected_nj if expected_nj else None
            cursor.execute(sql.FILE_MEASURED, (actual_nj, ratio, self._key, cause))

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


def _shown(budget_nj: int, period_s: float | None) -> str:
    return show(budget_nj / NANO, "J") + (f" every {show(period_s, 's')}" if period_s else "")
