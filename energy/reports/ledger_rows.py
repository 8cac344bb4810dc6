"""Reads a ledger's database without touching it: what each account may spend, has spent, and holds reserved."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from budjoule.energy.errors import LedgerError
from budjoule.energy.reports.rows import Client

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One budget of a ledger.

    Args:
        name: The account; a device's own file has one, a simulation one for each client.
        spent_by_cause_j: What was committed. [J]
        measured_j: The part of it that a meter gave. [J]
        open_reservations: Reservations not settled; they count as spent until they are.
    """

    name: str
    budget_j: float
    spent_j: float
    reserved_j: float
    spent_by_cause_j: dict[str, float]
    measured_j: float
    open_reservations: int

    @property
    def overspent_j(self) -> float:
        """By how much spending passed the budget. [J]"""
        return max(0.0, self.spent_j - self.budget_j)

    @property
    def remaining_j(self) -> float:
        """What may still be reserved. [J]"""
        return max(0.0, self.budget_j - self.spent_j - self.reserved_j)

    def as_client(self) -> Client:
        """The account in the shape that charts of spending take."""
        return Client(
            client=self.name,
            budget_j=self.budget_j,
            spent_j=self.spent_j,
            spent_by_cause_j=self.spent_by_cause_j,
            overspent_j=self.overspent_j,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFile:
    """A ledger as read."""

    path: Path
    accounts: tuple[Account, ...]

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain data."""
        rows = [
            {
                "name": account.name,
                "budget_j": account.budget_j,
                "spent_j": account.spent_j,
                "reserved_j": account.reserved_j,
                "remaining_j": account.remaining_j,
                "overspent_j": account.overspent_j,
                "spent_by_cause_j": account.spent_by_cause_j,
                "measured_j": account.measured_j,
                "open_reservations": account.open_reservations,
            }
            for account in self.accounts
        ]
        return {"schema": "budjoule.ledger/1", "path": str(self.path), "accounts": rows}


def load_ledger(path: Path) -> LedgerFile:
    """Read a ledger, read-only: its owner may go on spending meanwhile.

    Raises:
        LedgerError: The file is no ledger, is damaged, or cannot be read.
    """
    try:
        return LedgerFile(path=path, accounts=_accounts(path, "mode=ro"))
    except sqlite3.OperationalError as error:
        # A write-ahead log needs a shared file beside the database; on a read-only medium there can be none. Without
        # it the database alone is read, unless the log holds commits, which would then be missing.
        log = path.with_name(f"{path.name}-wal")
        if ("unable to open" not in str(error) and "readonly" not in str(error)) or (
            log.exists() and log.stat().st_size
        ):
            raise _refused(path, error) from None
    except sqlite3.Error as error:
        raise _refused(path, error) from None
    try:
        return LedgerFile(path=path, accounts=_accounts(path, "immutable=1"))
    except sqlite3.Error as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: sqlite3.Error) -> LedgerError:
    return LedgerError(
        f"cannot read {path} as a ledger: {error}; give the file that a ledger keeps, it was left as it is"
    )


def _accounts(path: Path, how: str) -> tuple[Account, ...]:
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?{how}", uri=True, timeout=5.0)) as connection:
        connection.execute("BEGIN")  # one snapshot over the three tables
        spends: dict[int, list[tuple[str, int, int]]] = {}
        for account, cause, spent_nj, measured_nj in connection.execute(
            "SELECT account, cause, spent_nj, measured_nj FROM spend"
        ):
            spends.setdefault(account, []).append((cause, spent_nj, measured_nj))
        pending: dict[int, int] = dict(connection.execute("SELECT account, count(*) FROM reservation GROUP BY account"))
        rows = connection.execute(
            "SELECT id, name, budget_nj, spent_nj, reserved_nj FROM account ORDER BY id"
        ).fetchall()
    return tuple(
        Account(
            name=str(name),
            budget_j=budget_nj / NANO,
            spent_j=spent_nj / NANO,
            reserved_j=reserved_nj / NANO,
            spent_by_cause_j={str(cause): nj / NANO for cause, nj, _ in spends.get(identity, [])},
            measured_j=sum(nj for _, _, nj in spends.get(identity, [])) / NANO,
            open_reservations=pending.get(identity, 0),
        )
        for identity, name, budget_nj, spent_nj, reserved_nj in rows
    )
