"""The simulator's state on disk, in the file of the ledgers: both are written in one transaction, so they never disagree.

A killed run loses what happened since the last transaction, joules included, and repeats it to the bit. Numbers are JSON and
vectors are raw little-endian float32: nothing here is ever unpickled.
"""

import heapq
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from budjoule.energy.errors import RunError
from budjoule.training.clients.client import Client
from budjoule.training.compression.update import Vector
from budjoule.training.simulation.simulator import Event, Simulator

_TABLES = """
CREATE TABLE IF NOT EXISTS sim_state (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sim_client (
    client INTEGER PRIMARY KEY, numbers TEXT NOT NULL, local BLOB, residual BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS sim_event (
    number INTEGER PRIMARY KEY, time_s REAL NOT NULL, kind TEXT NOT NULL, subject INTEGER NOT NULL,
    frame BLOB NOT NULL, energy_j REAL NOT NULL, level INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sim_version (version INTEGER PRIMARY KEY, weights BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sim_buffer (place INTEGER PRIMARY KEY, delta BLOB NOT NULL) STRICT;
"""


class Checkpoint:
    """`ledger.db` of a run folder, with one transaction open from each `save` to the next.

    Args:
        path: The file.

    Raises:
        RunError: It cannot be opened, is damaged, or another process is running on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: set[int] = set()
        self._versions: set[int] = set()
        try:
            self.connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            # A run can be repeated: a power cut may cost the last seconds, but never the agreement of the rows.
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _TABLES.split(";")):
                self.connection.execute(statement)
        except sqlite3.Error as error:
            raise self._explain(error) from None

    def save(self, simulator: Simulator) -> None:
        """Write what changed since the last time, and commit it together with the ledgers' rows."""
        try:
            self._write(simulator)
            self.connection.execute("COMMIT")
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._explain(error) from None

    def load(self, simulator: Simulator) -> bool:
        """Take up the last saved state; False where none was saved.

        Raises:
            RunError: The file is damaged, or of another version.
        """
        try:
            row = self.connection.execute("SELECT value FROM sim_state WHERE name = 'numbers'").fetchone()
            if row is None:
                return False
            self._read(simulator, json.loads(row[0]))
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise self._explain(error) from None
        return True

    def residual(self, client: int) -> Vector:
        """The residual that was put away for a client. Shape (n,)."""
        row = self.connection.execute("SELECT residual FROM sim_client WHERE client = ?", (client,)).fetchone()
        return _vector(row[0])

    def spent_j(self) -> float:
        """What all ledgers have booked. [J]"""
        row = self.connection.execute("SELECT coalesce(sum(spent_nj), 0) FROM account").fetchone()
        return int(row[0]) / 1e9

    def close(self) -> None:
        """Give up what was not saved, and close."""
        self.connection.close()

    def _write(self, simulator: Simulator) -> None:
        run = self.connection.execute
        state = simulator.server.state
        numbers = {
            "now_s": simulator.now_s,
            "events": simulator.events,
            "order": simulator.order,
            "free": simulator.free,
            "stopped": simulator.stopped,
            "server": simulator.server.numbers(),
            "record": simulator.record.numbers(),
        }
        rows = {
            "numbers": json.dumps(numbers).encode(),
            "weights": _blob(state.weights),
            "average": _blob(state.average),
        }
        self.connection.executemany("INSERT OR REPLACE INTO sim_state VALUES (?, ?)", rows.items())
        run("DELETE FROM sim_buffer")
        self.connection.executemany(
            "INSERT INTO sim_buffer VALUES (?, ?)",
            ((place, _blob(item.values)) for place, item in enumerate(state.buffer)),
        )
        self._write_events(simulator.queue)
        made = simulator.clients.made
        for client in sorted(simulator.touched & made.keys()):
            self._write_client(made[client], client)
        simulator.touched.clear()
        self._write_versions({c.state.base_version: c.state.base for c in made.values() if c.state.base is not None})

    def _write_events(self, queue: list[Event]) -> None:
        present = {event.order for event in queue}
        self.connection.executemany("DELETE FROM sim_event WHERE number = ?", ((n,) for n in self._events - present))
        self.connection.executemany(
            "INSERT INTO sim_event VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (event.order, event.time_s, event.kind, event.subject, event.frame, event.energy_j, event.level)
                for event in queue
                if event.order not in self._events
            ),
        )
        self._events = present

    def _write_client(self, subject: Client, client: int) -> None:
        """Write a client; the residual of one at rest leaves the memory, so that a fleet's residuals need none."""
        state = subject.state
        residual = None if state.residual is None else _blob(state.residual)
        if state.local is None and residual is not None:
            state.residual, state.shelved = None, True
        # A client that has just begun holds its base twice, and an empty blob says so.
        local = None if state.local is None else b"" if state.local is state.base else _blob(state.local)
        numbers = json.dumps(subject.numbers())
        if state.shelved and residual is None:  # put away earlier and not touched since
            self.connection.execute(
                "UPDATE sim_client SET numbers = ?, local = ? WHERE client = ?", (numbers, local, client)
            )
            return
        self.connection.execute(
            "INSERT OR REPLACE INTO sim_client VALUES (?, ?, ?, ?)", (client, numbers, local, residual)
        )

    def _write_versions(self, needed: dict[int, Vector]) -> None:
        self.connection.executemany(
            "DELETE FROM sim_version WHERE version = ?", ((v,) for v in self._versions - needed.keys())
        )
        self.connection.executemany(
            "INSERT INTO sim_version VALUES (?, ?)",
            ((v, _blob(w)) for v, w in needed.items() if v not in self._versions),
        )
        self._versions = set(needed)

    def _read(self, simulator: Simulator, numbers: dict[str, Any]) -> None:
        run = self.connection.execute
        vectors = dict(run("SELECT name, value FROM sim_state WHERE name <> 'numbers'").fetchall())
        versions = {int(v): _vector(w) for v, w in run("SELECT version, weights FROM sim_version")}
        deltas = [_vector(row[0]) for row in run("SELECT delta FROM sim_buffer ORDER BY place")]
        weights, average = _vector(vectors["weights"]), _vector(vectors["average"])
        simulator.server.restore(numbers["server"], weights, average, deltas)
        queue = [
            Event(*row) for row in run("SELECT time_s, number, kind, subject, frame, energy_j, level FROM sim_event")
        ]
        heapq.heapify(queue)
        simulator.queue = queue
        for client, text, local, residual in run("SELECT client, numbers, local, residual FROM sim_client").fetchall():
            saved = json.loads(text)
            state = saved["state"]
            base = None if local is None else versions[state["base_version"]]
            simulator.clients[client].restore(
                saved,
                base=base,
                local=None if local is None else _vector(local) if local else base,
                residual=None if residual is None or state["shelved"] else _vector(residual),
            )
        simulator.now_s, simulator.events, simulator.order = numbers["now_s"], numbers["events"], numbers["order"]
        simulator.stopped = numbers["stopped"]
        simulator.set_free(numbers["free"])
        simulator.go_on()
        simulator.record.restore(numbers["record"])
        self._events = {event.order for event in queue}
        self._versions = set(versions)

    def _explain(self, error: Exception) -> RunError:
        if "locked" in str(error):
            return RunError(
                f"{self._path} is in use: another process is training in this folder; wait for it or give another -o"
            )
        return RunError(f"cannot use {self._path}: {error}; train again into a new folder")


def _blob(values: Vector) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _vector(blob: bytes) -> Vector:
    return np.frombuffer(blob, "<f4").astype(np.float32)
