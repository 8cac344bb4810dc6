"""A ledger's entries, as functions inside a transaction: open an account, hold joules, book them. Whole nanojoules."""

import math
import sqlite3
from typing import NamedTuple

import budjoule.training.ledger.ledger_sql as sql
from budjoule.energy.errors import LedgerError
from budjoule.energy.units import show
from budjoule.training.ledger.ledger_file import NANO, nanojoules

CAUSES = ("compute", "uplink", "downlink", "idle")


class Terms(NamedTuple):
    """What an account was made with; None keeps what the file says, or the default in a new one.

    Args:
        budget_nj: The budget. [nJ]
        period_s: It comes back every so many seconds; 0 for never. [s]
        per_charge: It comes back when the battery has been charged.
        floor_frac: Nothing is reserved below this charge of the battery.
    """

    budget_nj: int | None = None
    period_s: float | None = None
    per_charge: bool | None = None
    floor_frac: float | None = None

    def over(self, other: "Terms") -> "Terms":
        """These terms, and the other's where these say nothing."""
        return other._replace(**{name: term for name, term in self._asdict().items() if term is not None})

    def __str__(self) -> str:
        """The terms for people."""
        text = show((self.budget_nj or 0) / NANO, "J")
        text += f" every {show(self.period_s, 's')}" if self.period_s else " a charge" if self.per_charge else ""
        return text + (f" above {self.floor_frac:.0%} of the battery" if self.floor_frac else "")


UNTOLD = Terms(period_s=0.0, per_charge=False, floor_frac=0.0)


def terms_of(
    budget_j: float | None, period_s: float | None, per_charge: bool | None, floor_frac: float | None
) -> Terms:
    """Terms that can be kept.

    Raises:
        LedgerError: One of them is out of range.
    """
    if period_s is not None and not (isinstance(period_s, int | float) and 0 <= period_s < math.inf):
        raise LedgerError(f"the period is {period_s!r} s; give seconds, or 0 for a budget that is given once")
    if floor_frac is not None and not (isinstance(floor_frac, int | float) and 0 <= floor_frac < 1):
        raise LedgerError(f"the battery's floor is {floor_frac!r}; give a share from 0 to below 1")
    if period_s and per_charge:
        raise LedgerError(f"a budget comes back every {show(period_s, 's')} or a charge; give one of the two")
    budget_nj = None if budget_j is None else nanojoules(budget_j, "the budget")
    return Terms(budget_nj, None if period_s is None else float(period_s), per_charge, floor_frac)


class Wanted(NamedTuple):
    """What is to be reserved.

    Args:
        cause: What for.
        upper_nj: The most that the spend can cost. [nJ]
        least_nj: The least that will do, where not so much remains. [nJ]
        expected_nj: What it is expected to cost, if that is known. [nJ]
    """

    cause: str
    upper_nj: int
    least_nj: int
    expected_nj: int | None


def wanted_of(upper_j: float, cause: str, expected_j: float | None, least_j: float | None) -> Wanted:
    """A reservation that can be asked for.

    Raises:
        LedgerError: An amount is no energy, or the cause is unknown.
    """
    if cause not in CAUSES:
        raise LedgerError(f"unknown cause {cause!r}; give one of {', '.join(CAUSES)}")
    upper_nj = nanojoules(upper_j, "the reserved energy")
    least_nj = upper_nj if least_j is None else min(upper_nj, nanojoules(least_j, "the least energy"))
    return Wanted(
        cause, upper_nj, least_nj, None if expected_j is None else nanojoules(expected_j, "the expected energy")
    )


class Held(NamedTuple):
    """An open reservation as its row says."""

    identity: int
    upper_nj: int


def read_terms(cursor: sqlite3.Cursor, name: str) -> tuple[int, Terms] | None:
    """Number and terms of an account; None if there is no such account."""
    row = cursor.execute(sql.TERMS, (name,)).fetchone()
    return None if row is None else (row[0], Terms(row[1], row[2], bool(row[3]), row[4]))


def make_account(cursor: sqlite3.Cursor, name: str, terms: Terms, began_s: float | None) -> int:
    """A new account with nothing spent; its number."""
    cursor.execute(sql.OPEN, (name, *terms, began_s))
    account = int(cursor.lastrowid or 0)
    cursor.executemany("INSERT INTO spend (account, cause) VALUES (?, ?)", [(account, cause) for cause in CAUSES])
    return account


def hold(cursor: sqlite3.Cursor, account: int, wanted: Wanted, who: tuple[str | None, float | None]) -> Held | None:
    """Reserve as much of what is wanted as remains; None where that is less than the least that will do."""
    budget_nj, spent_nj, reserved_nj = cursor.execute(sql.SUMS, (account,)).fetchone()
    upper_nj = min(wanted.upper_nj, max(budget_nj - spent_nj - reserved_nj, wanted.least_nj))
    cursor.execute(sql.HOLD, (upper_nj, account))
    if cursor.rowcount != 1:
        return None
    cursor.execute(sql.RESERVE, (account, wanted.cause, upper_nj, wanted.expected_nj, *who))
    return Held(int(cursor.lastrowid or 0), upper_nj)


def book(
    cursor: sqlite3.Cursor, account: int, identity: int, actual_nj: int, *, measured: bool, expected_nj: int | None
) -> bool:
    """Settle a reservation at what it cost; False if it is settled already."""
    row = cursor.execute(sql.SETTLE, (identity, account)).fetchone()
    if row is None:
        return False
    upper_nj, expected_then_nj, cause = row
    cursor.execute(sql.BOOK, (upper_nj, actual_nj, account))
    if not measured:
        cursor.execute(sql.FILE, (actual_nj, account, cause))
        return True
    expected_nj = expected_then_nj if expected_nj is None else expected_nj
    ratio = actual_nj / expected_nj if expected_nj else None
    cursor.execute(sql.FILE_MEASURED, (actual_nj, ratio, account, cause))
    return True
