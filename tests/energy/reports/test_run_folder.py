"""Reading run folders: whole, unfinished, torn, damaged."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from budjoule.energy.errors import RunError
from budjoule.energy.reports.run_folder import load_run

MakeRun = Callable[..., Path]


def test_reading_keeps_every_event_and_the_sums(make_run: MakeRun) -> None:
    folder = make_run()
    run = load_run(folder)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    counts = {
        kind: sum(event["event"] == kind for event in events) for kind in ("evaluate", "send", "aggregate", "reject")
    }
    assert counts == {
        "evaluate": len(run.evaluations),
        "send": len(run.sends),
        "aggregate": len(run.aggregates),
        "reject": len(run.rejects),
    }
    assert run.finished
    assert math.isclose(sum(row.spent_j for row in run.clients), run.totals.spent_j or 0.0)
    assert run.source == "estimated: simulated on profile raspberry-pi-5, link wifi-pi"


def test_an_unfinished_run_shows_what_its_events_say(make_run: MakeRun) -> None:
    run = load_run(make_run(finished=False))
    last = run.evaluations[-1]
    assert not run.finished
    assert (run.totals.accuracy_frac, run.totals.spent_j) == (last.accuracy_frac, last.spent_j)
    assert any("unfinished" in note for note in run.notes)


def test_an_unfinished_run_takes_its_clients_from_the_ledger(make_run: MakeRun) -> None:
    ledger = pytest.importorskip("budjoule.training.ledger.ledger")
    import sqlite3

    folder = make_run(finished=False)
    connection = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    connection.execute("BEGIN")
    for client, spent_j in ((0, 12.0), (1, 30.0)):
        book = ledger.Ledger.attach(connection, f"client-{client}", budget_j=100.0)
        book.reserve(50.0, "compute").commit(spent_j)
    connection.execute("COMMIT")
    connection.close()
    run = load_run(folder)
    assert {row.client: row.spent_j for row in run.clients} == {0: 12.0, 1: 30.0}
    assert (run.totals.spent_j, run.totals.budget_j, run.totals.spent_by_cause_j["compute"]) == (42.0, 200.0, 42.0)
    assert run.clients[0].sends == sum(send.client == 0 for send in run.sends)


def test_a_torn_last_line_is_left_out(make_run: MakeRun) -> None:
    folder = make_run()
    whole = load_run(folder)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "send", "time_')
    run = load_run(folder)
    assert run.sends == whole.sends
    assert any("torn" in note for note in run.notes)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{not json}", "no valid JSON"),
        ('{"event": "send", "client": 1}', "time_s"),
        ('{"event": "evaluate", "time_s": NaN}', "finite"),
        ("[1, 2]", "no event"),
        ('{"time_s": 1}', "no event"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_a_malformed_line_is_named(make_run: MakeRun, line: str, what: str) -> None:
    folder = make_run()
    lines = (folder / "events.jsonl").read_text().splitlines()
    lines.insert(4, line)
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"events\.jsonl, line 5") as caught:
        load_run(folder)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kinds_of_events_of_a_later_version_are_passed_over(make_run: MakeRun) -> None:
    folder = make_run()
    before = load_run(folder)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "handover", "time_s": 1}\n')
    assert load_run(folder).sends == before.sends


def test_a_run_with_nothing_in_it_is_readable(make_run: MakeRun) -> None:
    folder = make_run(finished=False)
    (folder / "events.jsonl").unlink()
    run = load_run(folder)
    assert run.evaluations == ()
    assert len(run.notes) == 2


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other/1"}', "\ud800"])
def test_a_damaged_document_is_named(make_run: MakeRun, name: str, text: str) -> None:
    folder = make_run()
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=name):
        load_run(folder)


def test_a_summary_of_wrong_types_is_refused(make_run: MakeRun) -> None:
    folder = make_run()
    summary = json.loads((folder / "summary.json").read_text())
    summary["spent_j"] = "much"
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match="spent_j"):
        load_run(folder)


def test_a_folder_without_a_run_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="budjoule train -o"):
        load_run(tmp_path)


def test_a_folder_of_runs_names_one(make_run: MakeRun) -> None:
    folder = make_run("sweep/one")
    with pytest.raises(RunError, match="sweep/one"):
        load_run(folder.parent)
