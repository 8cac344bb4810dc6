"""`budjoule measure -- CMD`: one JSON document, the command's own exit code and output, signals passed on, refusals before it runs."""

import csv
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from budjoule.cli.measured import unmet
from budjoule.energy.measurement import Measurement

KEYS = {
    "energy_j",
    "energy_low_j",
    "energy_high_j",
    "duration_s",
    "power_w",
    "domains",
    "source",
    "method",
    "exit_code",
    "notes",
}

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM")


def bare(root: Path) -> dict[str, str]:
    """An environment whose only counters are those of a tree: no GPU answers, whatever this machine has."""
    (root / "path").mkdir(exist_ok=True)
    (root / "path" / "pynvml.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(root / "path"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"BUDJOULE_SYSFS_ROOT": str(root), "PYTHONPATH": path}


def line(*args: str, first: str = "") -> list[str]:
    """A command line of it, in a process that does something else first."""
    then = "os.execv(sys.executable, [sys.executable, '-m', 'budjoule', *sys.argv[1:]])"
    return [sys.executable, "-c", f"import os, signal, sys\n{first}\n{then}", *args]


def budjoule(*args: str, root: Path, first: str = "") -> "subprocess.CompletedProcess[str]":
    command = line(*args, first=first)
    return subprocess.run(command, env=bare(root), capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    folder = tmp_path / "class" / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "262143328850")):
        (folder / name).write_text(text + "\n")
    return tmp_path


def test_measure_reads_the_counters_of_the_tree_around_the_command(powercap: Path) -> None:
    counter = powercap / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    done = budjoule(
        "measure", "--json", "--require-measured", "--", "sh", "-c", f"echo 4500000 > {counter}", root=powercap
    )
    document = json.loads(done.stdout)
    assert set(document) >= KEYS
    assert document["schema"] == "budjoule.measurement/1"
    assert document["energy_j"] == pytest.approx(3.5)
    assert document["domains"] == {"package-0": pytest.approx(3.5)}
    assert (document["source"], document["exit_code"]) == ("measured", 0)
    assert done.returncode == 0


def test_measure_without_a_counter_estimates_and_keeps_the_streams_apart(tmp_path: Path) -> None:
    code = "import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(7)"
    done = budjoule("measure", "--json", "--", sys.executable, "-c", code, root=tmp_path)
    document = json.loads(done.stdout)  # the command's line is not in it
    assert document["source"] == "estimated"
    assert 0 < document["energy_low_j"] < document["energy_j"] < document["energy_high_j"]
    assert document["exit_code"] == done.returncode == 7
    assert "to stdout" in done.stderr
    assert "to stderr" in done.stderr


def test_measure_options_after_the_dashes_are_the_commands(tmp_path: Path) -> None:
    done = budjoule("measure", "--", "echo", "--json", "--help", "-o", "x", "--", "y", root=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "--json --help -o x -- y"
    assert " J" in lines[1] or "J (" in lines[1]
    assert "estimated" in lines[1]
    assert lines[-1].startswith("next: ")


def test_measure_require_measured_unmet_refuses_before_the_command_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    done = budjoule("measure", "--json", "--require-measured", "--", "touch", str(mark), root=tmp_path)
    document = json.loads(done.stdout)
    assert document["energy_j"] is None
    assert set(document) >= KEYS
    assert done.returncode == 1
    assert not mark.exists()
    assert "no counter measures energy here" in done.stderr
    assert "Traceback" not in done.stderr


def test_measure_refusal_has_the_keys_of_a_measurement() -> None:
    measured = Measurement(
        energy_j=0, energy_low_j=0, energy_high_j=0, duration_s=0, domains={}, source="measured", method=""
    )
    assert set(unmet("")) == set(measured.to_dict()) | {"exit_code"}


def test_measure_command_killed_by_a_signal_ends_as_a_shell_would_say(tmp_path: Path) -> None:
    done = budjoule("measure", "--json", "--", "sh", "-c", "kill -9 $$", root=tmp_path)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 128 + 9


WAITING = """
import signal, sys, time
{handling}
print("ready", flush=True)
time.sleep(30)
"""


# Whoever runs the tests may have them ignore signals, which is passed on.
HEAR_ALL = "\n".join(f"signal.signal(signal.{name}, signal.SIG_DFL)" for name in PASSED_ON)


@pytest.mark.parametrize("name", PASSED_ON)
def test_measure_passes_signals_on_and_still_reports(tmp_path: Path, name: str) -> None:
    code = WAITING.format(handling=f"signal.signal(signal.{name}, lambda *_: sys.exit(42))")
    command = line("measure", "--json", "--", sys.executable, "-c", code, first=HEAR_ALL)
    environment = bare(tmp_path)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(getattr(signal, name))
        stdout, _ = process.communicate(timeout=60)
    assert json.loads(stdout)["exit_code"] == process.returncode == 42


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
@pytest.mark.parametrize(("key", "name"), [(b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT")])
def test_measure_passes_no_key_on_that_the_terminal_gave_the_command_too(tmp_path: Path, key: bytes, name: str) -> None:
    """The command counts the signals of a key until it is asked how many came, by one that comes after them."""
    count = f"""
came = []
signal.signal(signal.{name}, lambda *_: (came.append(1), print("key", flush=True)))
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(40 + len(came)))
"""
    code = WAITING.format(handling=count)
    first = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{HEAR_ALL}"
    command = line("measure", "--interval", "off", "--", sys.executable, "-c", code, first=first)
    ours, theirs = os.openpty()
    printed = b""

    def read_until(word: bytes) -> None:
        nonlocal printed
        while word not in printed:
            printed += os.read(ours, 1000)

    with subprocess.Popen(
        command, env=bare(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        read_until(b"ready")
        process.send_signal(signal.SIGSTOP)  # so that the command has taken its signal when ours is handled
        os.waitpid(process.pid, os.WUNTRACED)
        os.write(ours, key)
        read_until(b"key\r\n")
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 41
    read_until(b"next: ")
    assert b"estimated" in printed
    os.close(ours)


def test_measure_ignores_with_the_command_what_it_was_told_to_ignore(tmp_path: Path) -> None:
    code = "import signal, sys; sys.exit(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)"
    first = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    nohup = budjoule("measure", "--", sys.executable, "-c", code, root=tmp_path, first=first)
    assert nohup.returncode == 0


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (("--", "no-such-command-here"), 127, "command 'no-such-command-here' not found"),
        (("--", "/"), 126, "cannot run '/'"),
        ((), 2, "no command to measure"),
        (("--jsn", "--", "true"), 2, "unknown option '--jsn'"),
        (("--meter", "rapple", "--", "true"), 2, "no meter 'rapple'"),
        (("--idle", "12 J", "--", "true"), 2, "unknown unit 'J' in '12 J'"),
        (("--serve", "1", "--host", "192.0.2.1", "--", "true"), 2, "cannot listen on 192.0.2.1 port 1"),
        (("-o", "/no/such/folder/m.json", "--", "true"), 1, "cannot write /no/such/folder/m.json"),
    ],
)
def test_measure_refuses_in_one_line(tmp_path: Path, command: tuple[str, ...], code: int, message: str) -> None:
    done = budjoule("measure", *command, root=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_measure_writes_the_document_and_never_over_another_unasked(tmp_path: Path) -> None:
    path, mark = tmp_path / "m.json", tmp_path / "ran"
    assert budjoule("measure", "-o", str(path), "--", "true", root=tmp_path).returncode == 0
    first = path.read_text()
    assert json.loads(first)["command"] == ["true"]
    refused = budjoule("measure", "-o", str(path), "--", "touch", str(mark), root=tmp_path)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert (path.read_text(), mark.exists()) == (first, False)
    assert budjoule("measure", "-o", str(path), "--force", "--", "touch", str(mark), root=tmp_path).returncode == 0
    assert mark.exists()


# No byte can be added to a file any more.
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
@pytest.mark.parametrize(("code", "ends"), [(3, 3), (0, 1)])
def test_measure_with_a_full_disk_prints_what_it_measured(tmp_path: Path, code: int, ends: int) -> None:
    log, output = tmp_path / "power.csv", tmp_path / "m.json"
    options = ("--interval", "20 ms", "--csv", str(log), "-o", str(output))
    work = ("sh", "-c", f"sleep 0.2; exit {code}")
    done = budjoule("measure", *options, "--", *work, root=tmp_path, first=FULL_DISK)
    assert done.returncode == ends
    assert "estimated" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.count(f"cannot write {log}: ") == done.stderr.count(f"cannot write {output}: ") == 1
    assert "so far (estimated)" in done.stderr


def test_measure_that_runs_nothing_leaves_logs_as_they_were(tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("mine")
    refused = budjoule("measure", "--csv", str(old), "--force", "--require-measured", "--", "true", root=tmp_path)
    assert (refused.returncode, old.read_text()) == (1, "mine")
    assert budjoule("measure", "--csv", str(new), "--", "no-such-command", root=tmp_path).returncode == 127
    assert not new.exists()
    taken = budjoule("measure", "--csv", str(old), "--idle", "10 s", "--", "true", root=tmp_path)
    assert "--force" in taken.stderr
    assert "measuring" not in taken.stderr


def test_measure_shows_live_power_on_stderr_and_logs_rows_that_add_up(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    options = ("--json", "--interval", "20 ms", "--csv", str(path))
    done = budjoule("measure", *options, "--", "sleep", "0.15", root=tmp_path)
    document = json.loads(done.stdout)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) >= 2
    assert sum(float(row["energy_j"]) for row in rows) == pytest.approx(document["energy_j"], rel=1e-6)
    assert float(rows[-1]["elapsed_s"]) == pytest.approx(document["duration_s"], rel=1e-6)
    assert len([line for line in done.stderr.splitlines() if "so far (estimated)" in line]) == len(rows)


def test_measure_tells_what_came_on_top_of_an_idle_machine(powercap: Path) -> None:
    counter = powercap / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    work = ("sh", "-c", f"echo 4500000 > {counter}")
    document = json.loads(budjoule("measure", "--json", "--idle", "0 W", "--", *work, root=powercap).stdout)
    assert document["idle_w"] == 0.0
    assert document["net_energy_j"] == document["energy_j"] == pytest.approx(3.5)
    counter.write_text("1000000")
    done = budjoule("measure", "--idle", "10 ms", "--", *work, root=powercap)
    assert "measuring the idle machine for 10.0 ms" in done.stderr
    assert "above an idle of" in done.stdout


def test_measure_serves_prometheus_until_it_is_interrupted(powercap: Path) -> None:
    counter = powercap / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    command = [sys.executable, "-m", "budjoule", "measure", "--json", "--serve", "0"]
    with subprocess.Popen(
        command, env=bare(powercap), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = said.removeprefix("serving ").partition(";")[0]
        assert url.startswith("http://127.0.0.1:")
        counter.write_text("3000000")
        with urllib.request.urlopen(url, timeout=30) as reply:
            text = reply.read().decode()
        process.terminate()
        stdout, _ = process.communicate(timeout=60)
    assert 'budjoule_energy_joules_total{source="measured"} 2.0' in text
    assert process.returncode == 0
    assert json.loads(stdout)["energy_j"] == pytest.approx(2.0)


def test_measure_serves_prometheus_while_a_command_runs(powercap: Path) -> None:
    scrape = (
        "import sys, urllib.request; print(urllib.request.urlopen(sys.stdin.readline().split()[1]).read().decode())"
    )
    command = [sys.executable, "-m", "budjoule", "measure", "--serve", "0", "--", sys.executable, "-c", scrape]
    with subprocess.Popen(
        command,
        env=bare(powercap),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        stdout, _ = process.communicate(said, timeout=60)
    assert "budjoule_domain_energy_joules_total" in stdout
    assert process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
def test_measure_shows_power_by_itself_on_a_terminal_only(tmp_path: Path) -> None:
    def stderr_of(*options: str, terminal: bool) -> str:
        reader, writer = os.openpty() if terminal else os.pipe()
        command = [sys.executable, "-m", "budjoule", "measure", *options, "--", "true"]
        subprocess.run(command, env=bare(tmp_path), stdout=subprocess.DEVNULL, stderr=writer, check=True, timeout=60)
        os.set_blocking(reader, False)
        try:
            return os.read(reader, 10_000).decode()
        except BlockingIOError:
            return ""
        finally:
            os.close(reader)
            os.close(writer)

    assert "so far (estimated)" in stderr_of(terminal=True)
    assert stderr_of("--interval", "off", terminal=True) == ""
    assert stderr_of(terminal=False) == ""
