"""The ledger's SQLite file: its tables, how it is opened so that a power cut loses nothing, its errors in plain words.

The tables stand beside others in the same file: a device's record of what left it, or a simulator's own state.
"""

import math
import sqlite3
import time
from pathlib import Path

from budjoule.energy.errors import LedgerError

NANO = 1_000_000_000
BUSY_TIMEOUT_S = 30.0
_SLACK = 1 - 2**-48  # a few roundings of a float sum, so that 0.1 + 0.2 is 0.3 and not a nanojoule more
_MAX_J = 4e9  # what 64-bit nanojoules hold twice over: 1.1 MWh

_TABLES = """
CREATE TABLE IF NOT EXISTS account (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    budget_nj INTEGER NOT NULL CHECK (budget_nj >= 0),
    spent_nj INTEGER NOT NULL DEFAULT 0 CHECK (spent_nj >= 0),
    reserved_nj INTEGER NOT NULL DEFAULT 0 CHECK (reserved_nj >= 0),
    period_s REAL NOT NULL,
    per_charge INTEGER NOT NULL,
    charged INTEGER NOT NULL DEFAULT 0,
    floor_frac REAL NOT NULL,
    began_s REAL
) STRICT;
CREATE TABLE IF NOT EXISTS spend (
    account INTEGER NOT NULL REFERENCES account,
    cause TEXT NOT NULL,
    spent_nj INTEGER NOT NULL DEFAULT 0 CHECK (spent_nj >= 0),
    measured_nj INTEGER NOT NULL DEFAULT 0 CHECK (measured_nj >= 0),
    ratio REAL,
    PRIMARY KEY (account, cause)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES account,
    cause TEXT NOT NULL,
    upper_nj INTEGER NOT NULL CHECK (upper_nj >= 0),
    expected_nj INTEGER,
    process TEXT,
    opened_at REAL
) STRICT;
CREATE TABLE IF NOT EXISTS period (
    account INTEGER NOT NULL REFERENCES account,
    began_s REAL,
    ended_s REAL NOT NULL,
    cause TEXT NOT NULL,
    spent_nj INTEGER NOT NULL,
    PRIMARY KEY (account, ended_s, cause)
) STRICT, WITHOUT ROWID;
"""


def nanojoules(amount_j: float, what: str) -> int:
    """An amount as whole nanojoules, rounded up: the record never says less than was meant. [nJ]

    Raises:
        LedgerError: It is negative, not finite or too large.
    """
    if not (isinstance(amount_j, int | float) and math.isfinite(amount_j)) or amount_j < 0 or amount_j > _MAX_J:
        raise LedgerError(f"{what} is {amount_j!r} J; give a finite number of joules from 0 to {_MAX_J:.0g}")
    return math.ceil(amount_j * NANO * _SLACK)


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the file: write-ahead log, every commit on the disk, waiting for other writers.

    Raises:
        LedgerError: It cannot be opened, or is no database.
    """
    try:
        # Other threads may use the connection: the ledger's own lock keeps them apart.
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explain(error, str(path)) from error
    try:
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error as error:
        connection.close()
        raise explain(error, str(path)) from error
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite's own waiting does not cover this switch while another process makes it too."""
    end = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def create_tables(cursor: sqlite3.Cursor, name: str, *, alone: bool = True) -> None:
    """Make the tables where they are missing.

    Args:
        cursor: In an open transaction.
        name: The file, for the error.
        alone: Refuse a database that holds somebody else's tables only.

    Raises:
        LedgerError: The database belongs to something else.
    """
    tables = {row[0] for row in cursor.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if {"account", "spend", "reservation", "period"} <= tables:
        return
    if alone and tables:
        raise LedgerError(
            f"{name} is a database of something else (tables {', '.join(sorted(tables)[:3])}); give another path"
        )
    for statement in filter(str.strip, _TABLES.split(";")):
        cursor.execute(statement)


def check_books(cursor: sqlite3.Cursor, name: str) -> None:
    """Refuse a file that SQLite or its own sums find damaged.

    Raises:
        LedgerError: It is.
    """
    problems = [str(row[0]) for row in cursor.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
    unequal = cursor.execute(
        """SELECT name FROM account WHERE
        spent_nj <> (SELECT coalesce(sum(spent_nj), 0) FROM spend WHERE account = account.id) OR
        reserved_nj <> (SELECT coalesce(sum(upper_nj), 0) FROM reservation WHERE account = account.id)"""
    ).fetchall()
    problems += [f"the sums of account {row[0]!r} do not agree" for row in unequal]
    if problems:
        raise explain(sqlite3.DatabaseError(f"corrupt: {problems[0]}"), name)


def explain(error: sqlite3.Error, name: str) -> LedgerError:
    """SQLite's error as one line that names the remedy."""
    text = str(error)
    if "not a database" in text:
        remedy = "it is no ledger; give another path, it was left as it is"
    elif "malformed" in text or "corrupt" in text:
        remedy = "keep a copy, then try `sqlite3 FILE .recover`; until then nothing can be spent from it"
    elif "locked" in text or "busy" in text:
        remedy = f"another process has held it for {BUSY_TIMEOUT_S:.0f} s; end that process or try again"
    elif "unable to open" in text:
        remedy = "check that the folder exists and may be written"
    elif "readonly" in text:
        remedy = "the file or its folder may not be written; change its permissions"
    elif "full" in text or "I/O" in text:
        remedy = "check the disk's free space and health; nothing was booked"
    else:
        remedy = "nothing was booked; check the file"
    return LedgerError(f"cannot use the ledger {name}: {text}; {remedy}")
