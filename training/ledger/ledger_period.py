"""Budgets that come back: an account begins a new period every so often, when the battery was charged, or when told to.

A new period starts with nothing spent. What is still reserved is carried over and counts against it; what the old period
spent, overspending included, stays in the file's history.
"""

import sqlite3
from typing import NamedTuple

import budjoule.training.ledger.ledger_sql as sql
from budjoule.energy.device_state import DeviceState
from budjoule.training.ledger.ledger_file import NANO

FULL_FRAC = 0.95  # a battery is charged from here; the last per cent take long, and many phones stop before them


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


class Turn(NamedTuple):
    """What is due between two periods.

    Args:
        begins_s: When the new period begins; None if none is due. [s]
        charged: The battery has been charged since it last left the charger.
    """

    begins_s: float | None
    charged: bool


def due(row: tuple[float, float, bool, bool], now_s: float, state: DeviceState | None) -> Turn | None:
    """What to write now, from an account's `sql.PERIOD`; None for nothing.

    Periods of a length follow each other without gaps, also over days without a spend; a clock that was set back ends
    none. A charge counts once, when the battery is full on its charger, and again only after it has left the charger.
    """
    began_s, period_s, per_charge, charged = row
    if period_s and now_s >= began_s + period_s:
        return Turn(began_s + (now_s - began_s) // period_s * period_s, bool(charged))
    if per_charge and state is not None and state.battery_frac is not None:
        if state.plugged and state.battery_frac >= FULL_FRAC and not charged:
            return Turn(now_s, True)
        if not state.plugged and charged:
            return Turn(None, False)
    return None


def turn(cursor: sqlite3.Cursor, account: int, now_s: float, state: DeviceState | None) -> None:
    """Begin a new period if one is due."""
    found = due(cursor.execute(sql.PERIOD, (account,)).fetchone(), now_s, state)
    if found is None:
        return
    if found.begins_s is not None:
        renew(cursor, account, found.begins_s)
    cursor.execute("UPDATE account SET charged = ? WHERE id = ?", (found.charged, account))


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
