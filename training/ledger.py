"""The durable record of a joule budget: every spend is reserved at an upper bound, then committed at its true value.

Contract, held on every path, by several threads and processes and over SIGKILL: `spent + reserved + remaining -
overspent == budget`, exactly (amounts are whole nanojoules inside); and if no spend exceeds its reservation, spent
never exceeds the budget. A reservation left open by a crash counts as spent until it is settled.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from budjoule.energy.errors import BudgetExhausted, LedgerError
from budjoule.energy.units import show
from budjoule.training.ledger_file import NANO, connect, create_tables, explain, nanojoules

CAUSES = ("compute", "uplink", "downlink", "idle")


class Reservation:
    """Joules set aside for one spend, to be settled exactly once: `commit` what it cost, or `release` it unspent.

    As a context manager it is settled at the end of the block: left unsettled, the block's end commits the full
    upper bound, since nobody measured less. An exception leaves it reserved, as a crash does: what ran is unknown,
    so it counts as spent until `Ledger.open_reservations` is settled.
    """

    __slots__ = ("_id", "_ledger", "_settled", "cause", "upper_j")

    def __init__(self, ledger: "Ledger", identity: int, upper_j: float, cause: str) -> None:
        self._ledger = ledger
        self._id = identity
        self._settled = False
        self.upper_j = upper_j
        self.cause = cause

    @property
    def id(self) -> int:
        """Number of the reservation in its ledger, never used twice; `Ledger.reservation` finds it again."""
        return self._id

    def commit(self, actual_j: float, *, measured: bool = False) -> None:
        """Book what the spend cost and give the rest back. [J]

        Args:
            actual_j: What it cost; booked in full, also above `upper_j`. [J]
            measured: A meter gave the number, not an estimate.

        Raises:
            LedgerError: The amount is negative or not finite, or the reservation was settled before.
        """
        self._ledger._settle(self, nanojoules(actual_j, "the committed energy"), measured)
        self._settled = True

    def release(self) -> None:
        """Give the whole reservation back: nothing was spent.

        Raises:
            LedgerError: The reservation was settled before.
        """
        self._ledger._settle(self, 0, False)
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


class Ledger:
    """A budget of joules, and where they went. Made by `Ledger.open` (a device's file) or `Ledger.attach` (a simulator)."""

    def __init__(
        self, connection: Callable[[], sqlite3.Connection], name: str, account: str, *, attached: bool
    ) -> None:
        """Not for callers: use `Ledger.open` or `Ledger.attach`."""
        self._connection = connection
        self._name = name
        self._account = account
        self._attached = attached
        self._key = 0

    @classmethod
    def open(
        cls, path: str | Path, *, budget_j: float | None = None, change_budget: bool = False, account: str = "device"
    ) -> "Ledger":
        """Open a device's ledger, or make it.

        Args:
            path: The file, on a local disk. It is safe for several processes and survives SIGKILL and power cuts.
            budget_j: The budget; needed to make a ledger, and checked against the one it was made with. [J]
            change_budget: Replace the recorded budget by `budget_j`; what was spent stays spent.
            account: Which of the file's accounts.

        Raises:
            LedgerError: The file is no ledger, is corrupt, cannot be written, or was made with another budget.
        """
        connection = _OwnConnection(Path(path))
        ledger = cls(connection, str(path), account, attached=False)
        try:
            with ledger._transaction() as cursor:
                create_tables(cursor, str(path))
                ledger._open_account(cursor, budget_j, change_budget)
        except BaseException:
            connection.close()
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
        ledger = cls(lambda: connection, f"the account {account!r}", account, attached=True)
        with ledger._transaction() as cursor:
            create_tables(cursor, ledger._name, alone=False)
            ledger._open_account(cursor, budget_j, False)
        return ledger

    def reserve(self, upper_j: float, cause: str = "compute") -> Reservation:
        """Set joules aside for a spend, before it begins.

        Args:
            upper_j: The most that the spend can cost. [J]
            cause: One of `CAUSES`.

        Raises:
            BudgetExhausted: More than what remains, or the budget is overspent.
            LedgerError: The amount is negative or not finite, the cause unknown, or the file cannot be written.
        """
        if cause not in CAUSES:
            raise LedgerError(f"unknown cause {cause!r}; give one of {', '.join(CAUSES)}")
        upper_nj = nanojoules(upper_j, "the reserved energy")
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE account SET reserved_nj = reserved_nj + ?1 WHERE id = ?2 AND spent_nj + reserved_nj + ?1 <= budget_nj",
                (upper_nj, self._key),
            )
            if cursor.rowcount != 1:
                raise self._exhausted(upper_j)
            cursor.execute(
                "INSERT INTO reservation (account, cause, upper_nj, pid, opened_at) VALUES (?, ?, ?, ?, ?)",
                (self._key, cause, upper_nj, *((None, None) if self._attached else (os.getpid(), time.time()))),
            )
            return Reservation(self, int(cursor.lastrowid or 0), upper_nj / NANO, cause)

    def open_reservations(self) -> list[Reservation]:
        """Reservations that nobody has settled, oldest first: those in use now, and those a crash left behind."""
        rows = self._read("SELECT id, upper_nj, cause FROM reservation WHERE account = ? ORDER BY id", (self._key,))
        return [Reservation(self, identity, upper_nj / NANO, cause) for identity, upper_nj, cause in rows]

    def reservation(self, identity: int) -> Reservation:
        """An open reservation by its number, for a run that resumes.

        Raises:
            LedgerError: It is settled, or was never made.
        """
        rows = self._read("SELECT upper_nj, cause FROM reservation WHERE account = ? AND id = ?", (self._key, identity))
        if not rows:
            raise LedgerError(f"{self._name} has no open reservation {identity}; it was settled before")
        return Reservation(self, identity, rows[0][0] / NANO, rows[0][1])

    @property
    def budget_j(self) -> float:
        """What may be spent in all. [J]"""
        return self._balance()[0] / NANO

    @property
    def spent_j(self) -> float:
        """What was spent and settled. [J]"""
        return self._balance()[1] / NANO

    @property
    def reserved_j(self) -> float:
        """What open reservations hold. [J]"""
        return self._balance()[2] / NANO

    @property
    def remaining_j(self) -> float:
        """What can still be reserved; 0 when the budget is overspent. [J]"""
        budget, spent, reserved = self._balance()
        return max(budget - spent - reserved, 0) / NANO

    @property
    def overspent_j(self) -> float:
        """By how much spent and reserved joules pass the budget, after a commit above its reservation; else 0. [J]"""
        budget, spent, reserved = self._balance()
        return max(spent + reserved - budget, 0) / NANO

    @property
    def exhausted(self) -> bool:
        """Nothing remains."""
        return self.remaining_j == 0

    @property
    def spent_by_cause_j(self) -> dict[str, float]:
        """The spent joules by cause, every cause listed; they add up to `spent_j`. [J]"""
        spent = dict(self._read("SELECT cause, spent_nj FROM spend WHERE account = ?", (self._key,)))
        return {cause: spent.get(cause, 0) / NANO for cause in CAUSES}

    @property
    def measured_j(self) -> float:
        """The part of `spent_j` that a meter gave. [J]"""
        return (
            int(self._read("SELECT coalesce(sum(measured_nj), 0) FROM spend WHERE account = ?", (self._key,))[0][0])
            / NANO
        )

    def close(self) -> None:
        """Close a ledger that `open` made; an attached one leaves the caller's connection alone."""
        if isinstance(self._connection, _OwnConnection):
            self._connection.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        budget, spent, reserved = (show(nano / NANO, "J") for nano in self._balance())
        return f"<Ledger {self._name}: {spent} spent and {reserved} reserved of {budget}>"

    def _balance(self) -> tuple[int, int, int]:
        budget, spent, reserved = self._read(
            "SELECT budget_nj, spent_nj, reserved_nj FROM account WHERE id = ?", (self._key,)
        )[0]
        return budget, spent, reserved

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[int, ...]]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise explain(error, self._name) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        try:
            connection = self._connection()
            if self._attached:
                if not connection.in_transaction:
                    raise LedgerError(f"{self._name} is attached: begin a transaction before reserving or settling")
                yield connection.cursor()
                return
            assert isinstance(self._connection, _OwnConnection)
            with self._connection.lock:
                cursor = connection.cursor()
                cursor.execute("BEGIN IMMEDIATE")
                try:
                    yield cursor
                    cursor.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        cursor.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise explain(error, self._name) from error

    def _open_account(self, cursor: sqlite3.Cursor, budget_j: float | None, change_budget: bool) -> None:
        budget_nj = None if budget_j is None else nanojoules(budget_j, "the budget")
        row = cursor.execute("SELECT id, budget_nj FROM account WHERE name = ?", (self._account,)).fetchone()
        if row is None:
            if budget_nj is None:
                raise LedgerError(f"{self._name} is new and has no budget; give budget_j")
            cursor.execute("INSERT INTO account (name, budget_nj) VALUES (?, ?)", (self._account, budget_nj))
            self._key = int(cursor.lastrowid or 0)
            cursor.executemany(
                "INSERT INTO spend (account, cause) VALUES (?, ?)", [(self._key, cause) for cause in CAUSES]
            )
            return
        self._key = int(row[0])
        if budget_nj is None or budget_nj == row[1]:
            return
        if not change_budget:
            was, wanted = show(row[1] / NANO, "J"), show(budget_nj / NANO, "J")
            raise LedgerError(
                f"{self._name} was made with a budget of {was}, not {wanted}; open it without one, or with change_budget=True"
            )
        cursor.execute("UPDATE account SET budget_nj = ? WHERE id = ?", (budget_nj, self._key))

    def _settle(self, reservation: Reservation, actual_nj: int, measured: bool) -> None:
        with self._transaction() as cursor:
            row = cursor.execute(
                "DELETE FROM reservation WHERE id = ? AND account = ? RETURNING upper_nj, cause",
                (reservation.id, self._key),
            ).fetchone()
            if row is None:
                raise LedgerError(
                    f"reservation {reservation.id} of {self._name} is settled already; settle each one once"
                )
            cursor.execute(
                "UPDATE account SET reserved_nj = reserved_nj - ?, spent_nj = spent_nj + ? WHERE id = ?",
                (row[0], actual_nj, self._key),
            )
            cursor.execute(
                "UPDATE spend SET spent_nj = spent_nj + ?, measured_nj = measured_nj + ? WHERE account = ? AND cause = ?",
                (actual_nj, actual_nj if measured else 0, self._key, row[1]),
            )

    def _exhausted(self, upper_j: float) -> BudgetExhausted:
        budget, spent, reserved = self._balance()
        asked, kept = show(upper_j, "J"), show(reserved / NANO, "J")
        if spent + reserved > budget:
            over = show((spent + reserved - budget) / NANO, "J")
            return BudgetExhausted(f"{self._name} is overspent by {over} and reserves nothing more; raise its budget")
        left = show((budget - spent - reserved) / NANO, "J")
        return BudgetExhausted(
            f"{asked} asked of {self._name}, {left} left of {show(budget / NANO, 'J')} ({kept} reserved); raise the budget"
        )


class _OwnConnection:
    """One connection a process: SQLite's do not survive a fork, so a child opens its own and leaves the parent's alone."""

    _forked: list[sqlite3.Connection] = []  # noqa: RUF012 - kept from the collector, which would close a parent's connection

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._pid = os.getpid()
        self._open: sqlite3.Connection | None = connect(path)

    def __call__(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            if self._open is not None:
                self._forked.append(self._open)
            self.lock, self._pid, self._open = threading.RLock(), os.getpid(), connect(self.path)
        if self._open is None:
            raise LedgerError(f"{self.path} is closed; open it again")
        return self._open

    def close(self) -> None:
        """Close this process's connection; twice does no harm."""
        if self._open is not None and self._pid == os.getpid():
            with self.lock:
                self._open.close()
        self._open = None
