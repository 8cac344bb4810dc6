"""Budgets that come back: a ledger's account may begin a new period every so often, or when its owner says so.

A new period starts with nothing spent. What is still reserved is carried over and counts against it; what the old period
spent, overspending included, stays in the file's history.
"""

import math
import sqlite3
from typing import NamedTuple

from budjoule.energy.errors import LedgerError
from budjoule.training.ledger.ledger_file import NANO


class Period(NamedTuple):
    """A period that is over.

    Args:
        began_s: When it began, in seconds since 1970. [s]
        ended_s: When it ended. [s]
        spent_by_cause_j: What was spent in it. [J]
    """

    began_s: float
    ended_s: float
    spent_by_cause_j: dict[str, float]


def checked_period_s(period_s: float | None) -> float | None:
    """A period's length, or None for a budget that is given once. [s]

    Raises:
        LedgerError: It is no length.
    """
    if period_s is not None and not (isinstance(period_s, int | float) and 0 < period_s < math.inf):
        raise LedgerError(f"the period is {period_s!r} s; give seconds above 0, or None")
    return period_s


def is_over(began_s: float | None, period_s: float | None, now_s: float) -> bool:
    """Whether a period has ended. A clock that was set back ends none."""
    return period_s is not None and began_s is not None and now_s >= began_s + period_s


def renew_if_due(cursor: sqlite3.Cursor, account: int, now_s: float) -> None:
    """Begin a new period if the last one is over: periods follow each other without gaps, also over days without a spend."""
    began_s, period_s = cursor.execute("SELECT began_s, period_s FROM account WHERE id = ?", (account,)).fetchone()
    if is_over(began_s, period_s, now_s):
        renew(cursor, account, began_s + (now_s - began_s) // period_s * period_s)


def renew(cursor: sqlite3.Cursor, account: int, now_s: float) -> None:
    """Close the period in the history and begin one with nothing spent."""
    cursor.execute(
        """INSERT INTO period (account, began_s, ended_s, cause, spent_nj)
        SELECT account.id, account.began_s, ?, spend.cause, spend.spent_nj
        FROM account JOIN spend ON spend.account = account.id WHERE account.id = ?""",
        (now_s, account),
    )
    cursor.execute("UPDATE spend SET spent_nj = 0, measured_nj = 0 WHERE account = ?", (account,))
    cursor.execute("UPDATE account SET spent_nj = 0, began_s = ? WHERE id = ?", (now_s, account))


def past(rows: list[tuple[float, float, str, int]]) -> list[Period]:
    """Periods from the history's rows, ordered by their end."""
    periods: dict[float, Period] = {}
    for began_s, ended_s, cause, spent_nj in rows:
        period = periods.setdefault(ended_s, Period(began_s, ended_s, {}))
        period.spent_by_cause_j[cause] = spent_nj / NANO
    return list(periods.values())
