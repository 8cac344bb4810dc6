"""Who writes a ledger's rows, and when: through its own connection in its own transactions, or inside its caller's."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from budjoule.energy.errors import LedgerError
from budjoule.training.ledger.ledger_file import connect, explain


class Books:
    """Reads and transactions on a ledger's tables, their errors in plain words."""

    def __init__(self, connection: "Callable[[], sqlite3.Connection]", name: str, own: "OwnConnection | None") -> None:
        """Not for callers: use `Books.open` or `Books.attach`."""
        self.connection = connection
        self.name = name
        self._own = own

    @classmethod
    def open(cls, path: Path) -> "Books":
        """A file of its own.

        Raises:
            LedgerError: It cannot be opened, or is no database.
        """
        own = OwnConnection(path)
        return cls(own, str(path), own)

    @classmethod
    def attach(cls, connection: sqlite3.Connection, name: str) -> "Books":
        """Tables in the caller's database, written in the caller's transactions."""
        return cls(lambda: connection, name, None)

    @property
    def attached(self) -> bool:
        """The connection and its transactions are the caller's."""
        return self._own is None

    def read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        try:
            connection = self.connection()
            with self._lock():
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise explain(error, self.name) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """All of the body's statements, or none; one inside another is part of it."""
        try:
            connection = self.connection()
            if self._own is None:
                if not connection.in_transaction:
                    raise LedgerError(f"{self.name} is attached: begin a transaction before reserving or settling")
                yield connection.cursor()
                return
            with self._lock():
                if connection.in_transaction:  # this thread's own, since others wait for the lock
                    yield connection.cursor()
                    return
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
            raise explain(error, self.name) from error

    def close(self) -> None:
        """Close an own connection; a caller's is left alone."""
        if self._own is not None:
            self._own.close()

    def _lock(self) -> AbstractContextManager[object]:
        # Threads share a connection, and would see each other's half-done transactions through it.
        return self._own.lock if self._own is not None else nullcontext()


class OwnConnection:
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
