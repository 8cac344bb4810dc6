"""`budjoule run -- CMD`: a command is stopped before it overspends, with all it started, and its budget is in a ledger."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from budjoule.training.ledger.ledger import Ledger

# A command on a device that draws 50 W: it moves the counter by itself, while it runs.
DRAWING = """
import os, signal, sys, time
counter = os.open(sys.argv[1], os.O_RDWR)
start = int(os.pread(counter, 32, 0))
began = time.monotonic()
def draw(until_s=1e9):
    while (now_s := time.monotonic() - began) < until_s:
        os.pwrite(counter, b"%012d\\n" % (start + int(50e6 * now_s)), 0)
        time.sleep(0.002)
"""

# A loaded test machine may look late; that the guard itself never passes a budget is tested with a clock of its own.
LATE = 2


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    folder = tmp_path / "class" / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "000001000000"), ("max_energy_range_uj", "262143328850")):
        (folder / name).write_text(text + "\n")
    return folder / "energy_uj"


def environment(counter: Path) -> dict[str, str]:
    """Only this counter: no GPU answers, whatever this machine has."""
    (counter.parent / "pynvml.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(counter.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"BUDJOULE_SYSFS_ROOT": str(counter.parents[3]), "PYTHONPATH": path}


def budjoule(counter: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "budjoule", "run", *args]
    return subprocess.run(command, env=environment(counter), capture_output=True, text=True, check=False, timeout=60)


def drawing(counter: Path, script: str) -> list[str]:
    return [sys.executable, "-c", DRAWING + script, str(counter)]


def test_a_command_within_its_budget_ends_by_itself_with_its_own_code(counter: Path, tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    done = budjoule(
        counter,
        "--budget",
        "100 J",
        "--json",
        "-o",
        str(output),
        "--",
        *drawing(counter, "draw(0.2); print('hi'); sys.exit(7)"),
    )
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 7
    assert "hi" in done.stderr
    assert document["stopped_by"] is None
    assert document["source"] == "measured"
    assert 9 < document["energy_j"] < 20
    assert document["run_spent_j"] == pytest.approx(document["energy_j"])
    assert document["spent_j"] + document["remaining_j"] == pytest.approx(100)
    assert document["reserved_j"] == document["overspent_j"] == 0
    assert json.loads(output.read_text()) == document


def test_a_command_that_goes_on_and_on_is_stopped_within_its_budget(counter: Path) -> None:
    done = budjoule(counter, "--budget", "40 J", "--grace", "0.2 s", "--", *drawing(counter, "draw()"))
    assert done.returncode == 3
    assert "stopped  what is left of the budget pays for its ending" in done.stdout
    assert "J left, lasts" in done.stderr  # progress


def test_what_is_spent_is_near_the_budget(counter: Path) -> None:
    done = budjoule(counter, "--budget", "40 J", "--grace", "0 s", "--json", "--", *drawing(counter, "draw()"))
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"], document["stopped_by"]) == (3, 128 + signal.SIGKILL, "budget")
    assert 30 < document["spent_j"] < 40 * LATE


def test_a_command_has_its_grace_to_save_its_work(counter: Path, tmp_path: Path) -> None:
    script = f"""
def save(*_):
    open({str(tmp_path / "saved")!r}, "w").write("model")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
draw()
"""
    done = budjoule(counter, "--budget", "30 J", "--json", "--", *drawing(counter, script))
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"], document["stopped_by"]) == (3, 0, "budget")
    assert (tmp_path / "saved").read_text() == "model"
    assert document["spent_j"] < 30 * LATE


def test_a_command_that_will_not_end_is_ended_when_its_joules_are(counter: Path) -> None:
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); draw()"
    done = budjoule(counter, "--budget", "30 J", "--grace", "60 s", "--json", "--", *drawing(counter, stubborn))
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"]) == (3, 128 + signal.SIGKILL)
    assert document["spent_j"] < 30 * LATE


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
@pytest.mark.parametrize("how", ["{} & wait", "setsid {} & sleep 60", "(setsid {} &) ; exec sleep 60"])
def test_everything_that_the_command_started_ends_with_it(counter: Path, tmp_path: Path, how: str) -> None:
    script = tmp_path / "draw.py"
    script.write_text(DRAWING + f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ndraw()\n")
    line = how.format(f"{sys.executable} {script} {counter}")
    done = budjoule(counter, "--budget", "30 J", "--grace", "1 s", "--json", "--", "sh", "-c", line)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["spent_j"] < 30 * LATE
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_runs_share_a_ledger_until_it_is_empty(counter: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "shared.db"
    first = budjoule(counter, "--budget", "30 J", "--ledger", str(ledger), "--", *drawing(counter, "draw(0.3)"))
    assert first.returncode == 0
    with Ledger.open(ledger) as books:
        assert 14 < books.spent_j < 25
        assert (books.reserved_j, books.measured_j) == (0, books.spent_j)
    second = budjoule(counter, "--ledger", str(ledger), "--grace", "0 s", "--json", "--", *drawing(counter, "draw()"))
    document: dict[str, Any] = json.loads(second.stdout)
    assert second.returncode == 3
    assert document["run_spent_j"] < 16 * LATE
    assert 24 < document["spent_j"] < 30 * LATE
    with Ledger.open(ledger) as books, books.reserve(books.remaining_j):
        pass
    third = budjoule(counter, "--ledger", str(ledger), "--", "touch", str(tmp_path / "ran"))
    assert (third.returncode, third.stdout) == (3, "")
    assert "nothing is left of the budget of 30.0 J" in third.stderr
    assert not (tmp_path / "ran").exists()


def test_a_daily_budget_is_kept_as_one_and_a_battery_below_its_floor_runs_nothing(
    counter: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "daily.db"
    daily = budjoule(counter, "--budget", "30 J", "--per", "day", "--ledger", str(ledger), "--", "true")
    assert daily.returncode == 0, daily.stderr
    again = budjoule(counter, "--per", "2 h", "--ledger", str(ledger), "--", "true")
    assert "was made with a budget of 30.0 J every 24 h, not 30.0 J every 2 h" in again.stderr
    charge = budjoule(counter, "--budget", "30 J", "--per", "charge", "--ledger", str(tmp_path / "c.db"), "--", "true")
    assert "no battery that can be read" in charge.stderr
    battery = counter.parents[2] / "power_supply" / "BAT0"
    battery.mkdir(parents=True)
    for name, text in (("type", "Battery"), ("capacity", "15"), ("status", "Discharging")):
        (battery / name).write_text(text + "\n")
    low = budjoule(counter, "--budget", "30 J", "--battery-floor", "0.2", "--", "touch", str(tmp_path / "ran"))
    assert low.returncode == 3
    assert "the battery is at 15%" in low.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a death is passed on on Linux only")
def test_a_killed_guard_takes_the_command_with_it_and_its_joules_count_as_spent(counter: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"
    command = [sys.executable, "-m", "budjoule", "run", "--budget", "1 kJ", "--ledger", str(ledger), "--"]
    script = "print(os.getpid(), flush=True); draw()"
    with subprocess.Popen(
        command + drawing(counter, script), env=environment(counter), stdout=subprocess.PIPE, text=True
    ) as guard:
        assert guard.stdout is not None
        drawn = psutil.Process(int(guard.stdout.readline()))
        guard.kill()
        drawn.wait(timeout=20)
    with Ledger.open(ledger) as books:
        (left,) = books.abandoned()
        assert books.reserved_j == left.upper_j > 0
        counted_j = books.spent_j + books.reserved_j
        assert counted_j + books.remaining_j == pytest.approx(1000)
    assert budjoule(counter, "--ledger", str(ledger), "--", "true").returncode == 0
    with Ledger.open(ledger) as books:
        assert books.abandoned() == []
        assert books.spent_j == pytest.approx(counted_j, abs=1)


def test_a_training_script_that_knows_nothing_of_budgets_is_stopped(counter: Path) -> None:
    """The script is unchanged; its counter steps once as it starts, and by 4 J with every line of its log."""
    example = Path(__file__).parents[2] / "examples" / "train.py"
    step = f'echo 000001000100 > {counter}; exec "$@"'  # one that stood still while Python starts would not be believed
    script = ["sh", "-c", step, "sh", sys.executable, str(example), "--epochs", "100000"]
    printed = []
    with subprocess.Popen(
        [sys.executable, "-m", "budjoule", "run", "--budget", "40 J", "--json", "--", *script],
        env=environment(counter),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        for line in running.stderr:
            printed.append(line)
            if line.startswith("Train epoch") and len(printed) < 50:
                counter.write_text(f"{1_000_000 + 4_000_000 * len(printed):012d}\n")
        document = json.loads(running.stdout.read())
    assert running.returncode == 3
    assert document["stopped_by"] == "budget"
    assert printed[0].startswith("Train epoch 1 [0/1437]  loss")


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (("--budget", "5 J"), 2, "no command to run"),
        (("--budget", "5 J", "--bugdet", "6 J", "--", "true"), 2, "unknown option '--bugdet'"),
        (("--", "true"), 2, "no budget; give --budget '5 kJ'"),
        (("--budget", "5 apples", "--", "true"), 2, "5 apples"),
        (("--budget", "5 J", "--", "no-such-command"), 127, "not found"),
        (("--ledger", "nowhere.db", "--", "true"), 1, "there is no ledger"),
        (("--budget", "0 J", "--", "true"), 3, "nothing is left"),
        (("--budget", "5 J", "--per", "day", "--", "true"), 2, "keep it with --ledger FILE"),
    ],
)
def test_what_cannot_be_run_says_why(counter: Path, args: tuple[str, ...], code: int, reason: str) -> None:
    done = budjoule(counter, *args)
    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
