"""Opening records: each kind by its content, mixed kinds refused, JSON and CSV true to what was read."""

import csv
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from budjoule.energy.errors import BudjouleError, LedgerError, RunError, UsageError
from budjoule.energy.estimate import Estimate
from budjoule.energy.reports.ledger_rows import LedgerFile
from budjoule.energy.reports.records import load_records
from budjoule.energy.reports.reporters import REPORTERS

TABLES = """
CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT, budget_nj INTEGER, spent_nj INTEGER, reserved_nj INTEGER);
CREATE TABLE spend (account INTEGER, cause TEXT, spent_nj INTEGER, measured_nj INTEGER);
CREATE TABLE reservation (id INTEGER PRIMARY KEY, account INTEGER, cause TEXT, upper_nj INTEGER);
"""


def write_ledger(path: Path, name: str = "device", spent_nj: int = 4_000_000_000) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(TABLES)
    connection.execute("INSERT INTO account VALUES (1, ?, 10000000000, ?, 1000000000)", (name, spent_nj))
    connection.execute("INSERT INTO spend VALUES (1, 'compute', ?, 1000000000)", (spent_nj,))
    connection.execute("INSERT INTO reservation VALUES (1, 1, 'uplink', 1000000000)")
    connection.commit()
    connection.close()
    return path


def test_a_ledger_reads_as_its_rows(tmp_path: Path) -> None:
    (record,) = load_records([write_ledger(tmp_path / "phone.db")])
    assert isinstance(record, LedgerFile)
    (account,) = record.accounts
    assert (account.budget_j, account.spent_j, account.reserved_j, account.remaining_j) == (10.0, 4.0, 1.0, 5.0)
    assert (account.measured_j, account.open_reservations, account.overspent_j) == (1.0, 1, 0.0)


def test_a_ledger_of_the_project_reads_back(tmp_path: Path) -> None:
    from budjoule.training.ledger.ledger import Ledger

    with_ledger = Ledger.open(tmp_path / "phone.db", budget_j=100.0)
    with_ledger.reserve(30.0, "compute").commit(21.5)
    with_ledger.reserve(8.0, "uplink")
    (record,) = load_records([tmp_path / "phone.db"])
    with_ledger.close()
    assert isinstance(record, LedgerFile)
    (account,) = record.accounts
    assert (account.spent_j, account.reserved_j, account.remaining_j) == (21.5, 8.0, 70.5)
    assert account.spent_by_cause_j["compute"] == 21.5


def test_reading_a_ledger_changes_no_byte(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "name with ? and #.db")
    before = path.read_bytes()
    for form in REPORTERS.values():
        form(load_records([path]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"not a database at all", b"SQLite format 3\0" + b"\xff" * 500, b""])
def test_what_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "phone.db").write_bytes(content)
    with pytest.raises(LedgerError, match=r"phone\.db"):
        load_records([tmp_path / "phone.db"])


def test_an_overspent_ledger_says_by_how_much(tmp_path: Path) -> None:
    records = load_records([write_ledger(tmp_path / "phone.db", spent_nj=12_000_000_000)])
    assert "2.00 J" in REPORTERS["html"](records)
    assert json.loads(REPORTERS["json"](records))["accounts"][0]["overspent_j"] == 2.0


def test_json_of_an_estimate_is_the_estimate(make_estimate: Callable[..., Estimate], tmp_path: Path) -> None:
    document = make_estimate().to_dict()
    (tmp_path / "e.json").write_text(json.dumps(document))
    assert json.loads(REPORTERS["json"](load_records([tmp_path / "e.json"]))) == document


def test_json_of_a_run_holds_its_files(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    document = json.loads(REPORTERS["json"](load_records([folder])))
    assert document["run"] == json.loads((folder / "run.json").read_text())
    assert document["summary"] == json.loads((folder / "summary.json").read_text())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert len(document["sends"]) == sum(event["event"] == "send" for event in events)
    assert document["evaluations"][-1]["accuracy_frac"] == document["summary"]["accuracy_frac"]


def test_a_file_inside_a_run_stands_for_the_run(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    assert REPORTERS["json"](load_records([folder / "summary.json"])) == REPORTERS["json"](load_records([folder]))


def test_csv_has_a_row_an_evaluation(make_run: Callable[..., Path]) -> None:
    folders = [make_run(name="one"), make_run(name="two", seed=1)]
    rows = list(csv.DictReader(io.StringIO(REPORTERS["csv"](load_records(folders)))))
    assert [row["run"] for row in rows] == ["one"] * 30 + ["two"] * 30
    assert float(rows[29]["spent_j"]) == pytest.approx(json.loads((folders[0] / "summary.json").read_text())["spent_j"])


def test_csv_of_modules_adds_up(make_estimate: Callable[..., Estimate], tmp_path: Path) -> None:
    estimate = make_estimate()
    (tmp_path / "e.json").write_text(json.dumps(estimate.to_dict()))
    rows = list(csv.DictReader(io.StringIO(REPORTERS["csv"](load_records([tmp_path / "e.json"])))))
    assert sum(float(row["energy_j"]) for row in rows) == pytest.approx(estimate.energy_j)


def test_csv_cells_are_no_formulas(make_estimate: Callable[..., Estimate], tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps(make_estimate(device='=HYPERLINK("x")').to_dict()))
    rows = csv.DictReader(io.StringIO(REPORTERS["csv"](load_records([tmp_path / "e.json"]))))
    assert {row["device"][0] for row in rows} == {"'"}


def test_runs_of_one_name_are_told_apart(make_run: Callable[..., Path]) -> None:
    (make_run("a").parent / "b").mkdir()
    folders = [make_run("a/seed-0"), make_run("b/seed-0"), make_run("b/seed-1")]
    names = [document["name"] for document in json.loads(REPORTERS["json"](load_records(folders)))]
    assert names == ["a/seed-0", "b/seed-0", "seed-1"]


def test_records_of_two_kinds_are_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one kind"):
        load_records([make_run(), write_ledger(tmp_path / "phone.db")])


@pytest.mark.parametrize("text", ["", "nonsense", "{}", "[]", "[1]", '{"schema": "budjoule.estimate/1"}', '"text"'])
def test_what_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(BudjouleError, match=r"some\.json"):
        load_records([path])


def test_numbers_that_are_none_are_refused(make_estimate: Callable[..., Estimate], tmp_path: Path) -> None:
    document = make_estimate().to_dict() | {"energy_j": float("nan")}
    (tmp_path / "e.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match="energy_j"):
        load_records([tmp_path / "e.json"])
