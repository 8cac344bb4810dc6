"""`budjoule doctor` says what is there, what is not and the exact fix, and imports no torch for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from budjoule.cli import doctor as verb
from budjoule.energy.errors import MeterError
from budjoule.energy.meters import METERS, rapl


@pytest.fixture(autouse=True)
def empty_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # no GPU answers, whatever this machine has
    return tmp_path


def row(findings: dict[str, Any], meter: str) -> dict[str, Any]:
    return next(row for row in findings["meters"] if row["meter"] == meter)


def zone(root: Path) -> None:
    folder = root / "class" / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "9000000")):
        (folder / name).write_text(text)


def test_doctor_has_a_row_for_every_meter_and_always_one_that_works(empty_tree: Path) -> None:
    findings = verb.examine()
    assert [row["meter"] for row in findings["meters"]] == list(METERS)
    assert row(findings, "load")["available"]
    assert not row(findings, "rapl")["available"]
    assert row(findings, "rapl")["fixes"]
    assert findings["measures"] is False
    assert findings["sysfs_root"] == str(empty_tree)
    assert json.loads(json.dumps(findings)) == findings


def test_doctor_names_the_domains_of_a_counter_that_is_ready(empty_tree: Path) -> None:
    zone(empty_tree)
    findings = verb.examine()
    assert row(findings, "rapl")["domains"] == [
        {"name": "package-0", "inside": None, "counted": True, "readable": True}
    ]
    assert (findings["measures"], findings["chosen"]) == (True, ["rapl"])
    assert "energy is measured, by rapl" in verb._lines(findings)


def test_doctor_prints_the_command_and_the_rule_where_permission_is_denied(
    empty_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(empty_tree)

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setitem(METERS, "rapl", lambda: rapl.open_rapl(opener=refuse))
    findings = verb.examine()
    chmod, udev = row(findings, "rapl")["fixes"]
    assert chmod == f"sudo chmod a+r {empty_tree}/class/powercap/*rapl*:*/energy_uj"
    assert "udev/rules.d" in udev
    lines = verb._lines(findings)
    assert chmod in lines
    assert udev in lines
    assert lines.splitlines()[-1].startswith("energy is estimated")


def test_doctor_gives_the_chmod_a_shell_expands_to_every_counter(empty_tree: Path) -> None:
    zone(empty_tree)
    pattern = rapl.permission_fix(empty_tree)[0].removeprefix("sudo chmod a+r ")
    found = subprocess.run(["sh", "-c", f"ls {pattern}"], capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(empty_tree / "class" / "powercap" / "intel-rapl:0" / "energy_uj")]


def test_doctor_survives_a_meter_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise MeterError("no such thing; buy one")

    monkeypatch.setitem(METERS, "rapl", absent)
    assert row(verb.examine(), "rapl") | {"reason": "no such thing", "fixes": ["buy one"]} == row(
        verb.examine(), "rapl"
    )


def test_doctor_takes_what_is_left_out_for_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    each = ("gpu-0 (A) left out: it tells neither energy nor power", "gpu-1 (B) left out: a virtual GPU")
    for message, reason, fixes in (
        ("; ".join(each), "; ".join(each), []),
        (each[0], each[0], []),
        ("cannot replay a; b: no file; give one", "cannot replay a; b: no file", ["give one"]),
        ("no battery here", "no battery here", []),
    ):

        def absent(message: str = message) -> Any:
            raise MeterError(message)

        monkeypatch.setitem(METERS, "nvml", absent)
        found = row(verb.examine(), "nvml")
        assert (found["reason"], found["fixes"]) == (reason, fixes)


def test_doctor_prints_one_json_document_and_imports_no_torch(empty_tree: Path) -> None:
    code = (
        "import sys; from budjoule.cli.doctor import doctor; doctor(as_json=True); "
        "assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["packages"]["torch"]


def test_doctor_says_where_the_users_profiles_go_and_whether_they_can(
    empty_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(empty_tree / "data"))
    profiles = verb.examine()["profiles"]
    assert profiles["folder"].startswith(str(empty_tree / "data"))
    assert profiles["writable"]
    (empty_tree / "data").write_text("a file in the way")
    assert not verb.examine()["profiles"]["writable"]
