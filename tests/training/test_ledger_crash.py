"""The ledger under fire: SIGKILL before every statement, several processes, threads, forks, damaged and foreign files."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from budjoule.energy.errors import BudgetExhausted, LedgerError
from budjoule.training.ledger.ledger import Ledger

# Runs the script, and kills itself before the n-th statement that the ledger gives to SQLite. What the ledger
# acknowledged is printed, unbuffered, so the reader knows what must have survived.
KILLED_AT = """
import os, signal, sys
from budjoule.training.ledger.ledger import Ledger
path, kill_at = sys.argv[1], int(sys.argv[2])
ledger = Ledger.open(path, budget_j=100)
seen = 0
def count(statement):
    global seen
    if seen == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    seen += 1
ledger._books.connection().set_trace_callback(count)
def say(text):
    os.write(1, (text + " ").encode())
first = ledger.reserve(10); say("reserved-10")
second = ledger.reserve(20, "uplink"); say("reserved-20")
first.commit(4, measured=True); say("committed-4")
second.release(); say("released-20")
third = ledger.reserve(30); say("reserved-30")
third.commit(35); say("committed-35")
ledger._books.connection().set_trace_callback(None)
say(f"statements-{seen}")
"""
# spent, reserved after so many acknowledged operations
TRUTH = [(0, 0), (0, 10), (0, 30), (4, 20), (4, 0), (4, 30), (39, 0)]


def run_killed(path, kill_at):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(path), str(kill_at)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split()


@pytest.fixture(scope="module")
def statements(tmp_path_factory):
    returncode, said = run_killed(tmp_path_factory.mktemp("whole") / "l.db", -1)
    assert returncode == 0
    return int(said[-1].removeprefix("statements-"))


def test_sigkill_before_any_statement_loses_nothing_that_was_acknowledged(tmp_path, statements):
    assert statements > 20
    for kill_at in range(statements):
        path = tmp_path / f"{kill_at}.db"
        returncode, said = run_killed(path, kill_at)
        assert returncode == -signal.SIGKILL
        with Ledger.open(path, budget_j=100) as ledger:
            found = (ledger.spent_j, ledger.reserved_j)
            # The operation in progress happened whole or not at all: killed before COMMIT it did not.
            assert found == TRUTH[len(said)], f"killed before statement {kill_at}"
            assert ledger.spent_j + ledger.reserved_j + ledger.remaining_j == 100
            open_ones = ledger.abandoned()
            assert sum(one.upper_j for one in open_ones) == ledger.reserved_j
            # A meter settles what the crash left: from then on nothing is held.
            for one in open_ones:
                one.commit(one.upper_j / 2, measured=True)
            assert (ledger.reserved_j, ledger.spent_j) == (0, found[0] + found[1] / 2)


def test_two_processes_creating_and_spending_never_pass_the_budget(tmp_path):
    script = """
import sys
from budjoule.energy.errors import BudgetExhausted
from budjoule.training.ledger.ledger import Ledger
ledger = Ledger.open(sys.argv[1], budget_j=50)
held = []
spent = 0
try:
    while True:
        held.append(ledger.reserve(2))
        if len(held) == 3:
            held.pop(0).commit(1); spent += 1
except BudgetExhausted:
    for one in held:
        one.commit(2); spent += 2
print(spent)
"""
    path = tmp_path / "l.db"
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    results = [process.communicate() for process in racing]
    assert [errors for _, errors in results] == ["", "", ""]
    with Ledger.open(path) as ledger:
        assert ledger.spent_j == sum(int(out) for out, _ in results)
        assert 44 <= ledger.spent_j <= 50
        assert ledger.reserved_j == 0


# Spends at random, honestly, and says what it was told was done; dies by its own hand before a random statement.
KILLED_AT_RANDOM = """
import os, random, signal, sys
from budjoule.energy.errors import BudgetExhausted
from budjoule.training.ledger.ledger import Ledger
draw, ledger = random.Random(int(sys.argv[2])), Ledger.open(sys.argv[1])
life = draw.randrange(20, 200)
def tick(statement):
    global life
    life -= 1
    if life < 0:
        os.kill(os.getpid(), signal.SIGKILL)
ledger._books.connection().set_trace_callback(tick)
held = []
while True:
    try:
        if held and draw.random() < 0.4:
            amount = held[0].upper_j * draw.random()
            held[0] = ledger.roll_over(held[0], amount, draw.random(), least_j=0.0)
        elif held and draw.random() < 0.6:
            one = held.pop(draw.randrange(len(held)))
            amount = one.upper_j * draw.random()
            one.commit(amount)
        else:
            held.append(ledger.reserve(draw.random()))
            continue
        os.write(1, f"{amount!r} ".encode())
    except BudgetExhausted:
        held and held.pop().release()
"""


@pytest.mark.parametrize("seed", range(3))
def test_processes_killed_at_random_among_each_other_keep_the_sum_and_the_budget(tmp_path, seed):
    path = tmp_path / "l.db"
    Ledger.open(path, budget_j=8).close()
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED_AT_RANDOM, str(path), str(10 * seed + number)], stdout=subprocess.PIPE
        )
        for number in range(3)
    ]
    told_j = sum(float(amount) for process in racing for amount in process.communicate()[0].split())
    assert [process.returncode for process in racing] == [-signal.SIGKILL] * 3
    with Ledger.open(path) as ledger:  # which checks that the rows add up to the sums
        balance = ledger.balance()
        assert balance.spent_j + balance.reserved_j <= 8
        assert balance.overspent_j == 0
        # Each process may have died between a commit and saying so: at most one spend of 1 J each is not told.
        assert told_j - 1e-6 <= balance.spent_j <= told_j + 3
        left = ledger.abandoned()
        assert sum(one.upper_j for one in left) == pytest.approx(balance.reserved_j)
        for one in left:
            one.commit(one.upper_j)
        assert ledger.spent_j == pytest.approx(balance.spent_j + balance.reserved_j)
        assert ledger.spent_j <= 8


def test_threads_sharing_a_ledger_never_pass_the_budget(tmp_path):
    sums, faults = [], []
    with Ledger.open(tmp_path / "l.db", budget_j=60) as ledger:

        def spend():
            total = 0
            try:
                while True:
                    with ledger.reserve(1) as reservation:
                        reservation.commit(0.5)
                        total += 0.5
                    budget_j, spent_j, reserved_j, remaining_j, overspent_j = ledger.balance()
                    if spent_j + reserved_j + remaining_j != budget_j or overspent_j:
                        faults.append("sum")
            except BudgetExhausted:
                sums.append(total)
            except Exception as error:
                faults.append(error)

        threads = [threading.Thread(target=spend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert ledger.spent_j == sum(sums) == 59.5
        assert ledger.reserved_j == 0


def test_a_forked_child_opens_a_connection_of_its_own(tmp_path):
    script = """
import os, sys
from budjoule.training.ledger.ledger import Ledger
ledger = Ledger.open(sys.argv[1], budget_j=10)
inherited = ledger.reserve(4)
parent = ledger._books.connection()
child = os.fork()
if child == 0:
    assert ledger._books.connection() is not parent
    inherited.commit(3)
    held = ledger.reserve(2)
    ledger.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert ledger._books.connection() is parent
assert (ledger.spent_j, ledger.reserved_j) == (3, 2), ledger
(left,) = ledger.abandoned()  # the child's; the parent lives
left.release()
own = ledger.reserve(1)
assert ledger.abandoned() == []
try:
    inherited.commit(3)
except Exception as error:
    assert "settled already" in str(error)
else:
    raise SystemExit("settled twice")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "l.db")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("joules, joules, joules\n" * 100)
    with pytest.raises(LedgerError, match=r"notes.txt: file is not a database; .* another path"):
        Ledger.open(path, budget_j=1)
    assert path.read_text() == "joules, joules, joules\n" * 100


def test_a_database_of_something_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE contacts (name)")
        connection.execute("INSERT INTO contacts VALUES ('Ada')")
    connection.close()
    with pytest.raises(LedgerError, match="database of something else"):
        Ledger.open(path, budget_j=1)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("contacts",)]
    assert connection.execute("SELECT * FROM contacts").fetchall() == [("Ada",)]
    connection.close()


def make(path):
    with Ledger.open(path, budget_j=100) as ledger:
        for _ in range(200):
            ledger.reserve(0.1)
        ledger.reserve(10).commit(5)
    # The last close moved the log into the file, so that the damage below is where it will be read.
    assert not path.with_name(path.name + "-wal").exists()


@pytest.mark.parametrize("place", [0, 20, 100, 4096, 8192, 12288])
def test_a_damaged_file_is_refused_or_whole_and_never_altered(tmp_path, place):
    path = tmp_path / "l.db"
    make(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + b"\xff" * 64 + whole[place + 64 :])
    damaged = path.read_bytes()
    with pytest.raises(LedgerError, match="cannot use the ledger"):
        Ledger.open(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("kept_frac", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_and_never_altered(tmp_path, kept_frac):
    path = tmp_path / "l.db"
    make(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept_frac * len(whole))])
    damaged = path.read_bytes()
    with pytest.raises(LedgerError, match="cannot use the ledger"):
        Ledger.open(path)
    assert path.read_bytes() == damaged


def test_books_that_do_not_add_up_are_refused(tmp_path):
    path = tmp_path / "l.db"
    make(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE account SET spent_nj = 0")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="the sums of account 'device' do not agree"):
        Ledger.open(path)


def test_a_missing_folder_says_so(tmp_path):
    with pytest.raises(LedgerError, match=r"unable to open database file; check that the folder exists"):
        Ledger.open(tmp_path / "nowhere" / "l.db", budget_j=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_says_so(tmp_path):
    make(tmp_path / "l.db")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(LedgerError, match="cannot use the ledger"):
            Ledger.open(tmp_path / "l.db").reserve(1)
    finally:
        tmp_path.chmod(0o700)


def test_a_ledger_held_by_another_process_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("budjoule.training.ledger.ledger_file.BUSY_TIMEOUT_S", 0.0)
    path = tmp_path / "l.db"
    with Ledger.open(path, budget_j=10) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="database is locked; another process has held it"):
            ledger.reserve(1)
        assert ledger.remaining_j == 10  # readers do not wait for writers
        other.execute("ROLLBACK")
        other.close()
        ledger.reserve(1)


def test_a_full_disk_books_nothing(tmp_path):
    with Ledger.open(tmp_path / "l.db", budget_j=1000) as ledger:
        pages = ledger._books.connection().execute("PRAGMA page_count").fetchone()[0]
        ledger._books.connection().execute(f"PRAGMA max_page_count = {pages}")

        def fill():
            for _ in range(2000):
                ledger.reserve(0.1)

        with pytest.raises(LedgerError, match=r"full; check the disk's free space and health; nothing was booked"):
            fill()
        held = len(ledger.open_reservations())
        assert ledger.reserved_j == pytest.approx(0.1 * held)
        assert ledger.spent_j + ledger.reserved_j + ledger.remaining_j == pytest.approx(1000)
