"""Reads a run folder (`run.json`, `events.jsonl`, `summary.json`) into a `Run`; an unfinished one as far as it got.

The folder is untrusted input: every line is checked, a bad one is named by file and number, and only a torn last
line, which a killed run leaves, is dropped.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from budjoule.energy.errors import LedgerError, RunError
from budjoule.energy.reports.ledger_rows import load_ledger
from budjoule.energy.reports.rows import Aggregate, Client, Evaluate, Reject, Send, Totals

RUN_SCHEMA = "budjoule.run/1"
SUMMARY_SCHEMA = "budjoule.summary/1"
UNFINISHED = (
    "the run is unfinished: there is no summary.json yet; if it was stopped, 'budjoule train --resume' goes on with it"
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as read.

    Args:
        path: The folder.
        name: Its name, for people; longer where several runs of one report share it.
        header: `run.json`: configuration with defaults, seed, version, machine.
        summary: `summary.json` as it is, or None while the run is unfinished.
        totals: The summary's numbers; of an unfinished run, what its events say so far.
        clients: The summary's rows, one a client.
        notes: What the reader should know, such as a torn last line.
    """

    path: Path
    name: str
    header: dict[str, Any]
    summary: dict[str, Any] | None
    totals: Totals
    clients: tuple[Client, ...]
    evaluations: tuple[Evaluate, ...]
    sends: tuple[Send, ...]
    aggregates: tuple[Aggregate, ...]
    rejects: tuple[Reject, ...]
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run wrote its summary."""
        return self.summary is not None

    @cached_property
    def source(self) -> str:
        """Where the run's joules, seconds and bytes come from."""
        devices, links = (sorted({getattr(row, key) for row in self.clients} - {"-"}) for key in ("device", "link"))
        fleet = self.header.get("config", {}).get("fleet", {})
        devices = devices or _names(fleet.get("device"))
        links = links or _names(fleet.get("link"))
        on = f"profile{'s' if len(devices) > 1 else ''} {', '.join(devices)}" if devices else "device profiles"
        over = f", link{'s' if len(links) > 1 else ''} {', '.join(links)}" if links else ""
        return f"estimated: simulated on {on}{over}"


def load_run(folder: str | Path) -> Run:
    """Read a run folder.

    Args:
        folder: What `budjoule train -o` wrote, finished or not.

    Raises:
        RunError: The folder is none, or a file in it is malformed; names the file and the line.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/run.json"))
        remedy = (
            f"it holds runs: give {folder}/{inside[0]}, or {folder}/*"
            if inside
            else "give what 'budjoule train -o' wrote"
        )
        raise RunError(f"{folder} is no run folder, for it has no run.json; {remedy}")
    header = read_json(folder / "run.json", RUN_SCHEMA)
    if not isinstance(header.get("config"), dict):
        raise RunError(
            f"{folder / 'run.json'} has no table 'config'; the file is damaged, train again into a new folder"
        )
    summary = read_json(folder / "summary.json", SUMMARY_SCHEMA) if (folder / "summary.json").exists() else None
    clients: tuple[Client, ...] = ()
    totals = Totals()
    if summary is not None:
        totals = checked(TypeAdapter(Totals), summary, str(folder / "summary.json"))
        clients = checked(TypeAdapter(tuple[Client, ...]), summary.get("by_client", []), str(folder / "summary.json"))
    found: dict[str, list[Any]] = {name: [] for name in _EVENTS}
    notes: list[str] = [] if summary is not None else [UNFINISHED]
    for name, event in _events(folder / "events.jsonl", notes):
        found[name].append(event)
    if summary is None:
        refused = Counter(event.client for event in found["reject"])
        arrived = Counter(send.client for send in found["send"] if not send.lost)
        taken = {client: max(0, count - refused[client]) for client, count in arrived.items()}
        clients = _clients_so_far(folder / "ledger.db", found["send"], taken, notes)
        totals = _so_far(header, found["evaluate"], taken, clients)
    return Run(
        path=folder,
        name=folder.resolve().name,
        header=header,
        summary=summary,
        totals=totals,
        clients=clients,
        evaluations=tuple(found["evaluate"]),
        sends=tuple(found["send"]),
        aggregates=tuple(found["aggregate"]),
        rejects=tuple(found["reject"]),
        notes=tuple(notes),
    )


def read_json(path: Path, schema: str | None) -> dict[str, Any]:
    """Read a JSON object and check its schema's name, where one is asked for.

    Raises:
        RunError: The file cannot be read, is no JSON object, or has another schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not UTF-8 text; the file is damaged") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is no valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise RunError(f"{path} holds no JSON object; the file is damaged")
    if schema is not None and document.get("schema") != schema:
        raise RunError(f"{path} has schema {document.get('schema')!r}, this version reads {schema!r}")
    return document


_EVENTS: dict[str, TypeAdapter[Any]] = {
    "evaluate": TypeAdapter(Evaluate),
    "send": TypeAdapter(Send),
    "aggregate": TypeAdapter(Aggregate),
    "reject": TypeAdapter(Reject),
}


def _events(path: Path, notes: list[str]) -> Iterator[tuple[str, Any]]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        notes.append("there is no events.jsonl: no curve and no timeline to show")
        return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines) and not line.endswith(b"\n"):
                notes.append(f"the last line of events.jsonl ({number}) is torn and left out")
                return
            raise RunError(f"{where}: no valid JSON; resume the run to repair its tail, or remove the line") from None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise RunError(f"{where}: no event; expected an object with the key 'event'")
        kind = event.pop("event")
        if kind in _EVENTS:  # a later version may add kinds: they are no business of this report
            yield kind, checked(_EVENTS[kind], event, where)


def _clients_so_far(
    path: Path, sends: list[Send], taken: Mapping[str | int, int], notes: list[str]
) -> tuple[Client, ...]:
    """What each client of an unfinished run has spent, by the run's ledger, as of its last checkpoint."""
    if not path.is_file():
        return ()
    try:
        ledger = load_ledger(path)
    except LedgerError as error:
        notes.append(str(error))
        return ()
    rows = []
    for account in ledger.accounts:
        own = [send for send in sends if f"client-{send.client}" == account.name]
        name = own[0].client if own else account.name.removeprefix("client-")
        row = replace(
            account.as_client(),
            client=name,
            sends=len(own),
            taken=taken.get(name, 0),
            uplink_bytes=sum(send.size_bytes for send in own),
        )
        rows.append(row)
    return tuple(rows)


def _unlimited(header: Mapping[str, Any]) -> bool:
    """Whether the run has no energy budget: its ledgers then hold a figure that nobody set."""
    try:
        return bool(header["config"]["budget"]["energy"] == "none")
    except (KeyError, TypeError):
        return False


def _so_far(
    header: dict[str, Any], evaluations: list[Evaluate], taken: Mapping[str | int, int], clients: tuple[Client, ...]
) -> Totals:
    seed = header.get("seed")
    causes = dict.fromkeys(cause for row in clients for cause in row.spent_by_cause_j)
    known = Totals(
        participating_clients=sum(count > 0 for count in taken.values()),
        seed=seed if isinstance(seed, int) else None,
        spent_by_cause_j={cause: sum(row.spent_by_cause_j.get(cause, 0.0) for row in clients) for cause in causes},
    )
    if clients:
        known = replace(
            known,
            clients=len(clients),
            spent_j=sum(row.spent_j for row in clients),
            budget_j=None if _unlimited(header) else sum(row.budget_j or 0.0 for row in clients),
            overspent_clients=sum(row.overspent_j > 0 for row in clients),
        )
    if not evaluations:
        return known
    last = evaluations[-1]
    return replace(
        known,
        accuracy_frac=last.accuracy_frac,
        spent_j=known.spent_j if clients else last.spent_j,
        uplink_bytes=last.uplink_bytes,
        downlink_bytes=last.downlink_bytes,
        simulated_duration_s=last.time_s,
        rounds=last.version,
    )


def checked(adapter: TypeAdapter[T], value: object, where: str) -> T:
    """A value as its type.

    Raises:
        RunError: It is not of that type; names `where` and the key.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "value"
        raise RunError(f"{where}: {place}: {first['msg'].lower()}") from None


def _names(device: object) -> list[str]:
    if isinstance(device, str):
        return [device]
    return sorted(str(name) for name in device) if isinstance(device, dict) else []
