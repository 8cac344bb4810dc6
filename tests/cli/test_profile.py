"""`budjoule profile` and `budjoule devices`: one JSON document, one-line errors, files as named."""

import json
from pathlib import Path

import pytest

from budjoule.cli.main import main

KEYS = {
    "schema", "device", "mode", "precision", "clock_hz", "source", "energy_j", "energy_low_j", "energy_high_j", "duration_s",
    "power_w", "flop", "moved_bytes", "unruled_energy_frac", "by_op", "by_module",
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "net.py").write_text(
        "import torch\ndef build(): return torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))\n"
    )
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["budjoule", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_json_is_one_document_with_the_agreed_keys(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            monkeypatch,
            "profile",
            "net.py:build",
            "--input",
            "4x12",
            "--device",
            "cpu-generic",
            "--mode",
            "training",
            "--json",
        )
        == 0
    )
    document = json.loads(capfd.readouterr().out)
    assert set(document) >= KEYS
    assert document["source"] == "estimated"
    assert sum(row["energy_j"] for row in document["by_module"]) == pytest.approx(document["energy_j"])


def test_several_devices_are_a_list_in_their_order(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            monkeypatch,
            "profile",
            "net.py:build",
            "--input",
            "4x12",
            "--device",
            "cpu-generic,raspberry-pi-5",
            "--device",
            "a100-pcie-40gb",
            "--json",
        )
        == 0
    )
    assert [row["device"] for row in json.loads(capfd.readouterr().out)] == [
        "cpu-generic",
        "raspberry-pi-5",
        "a100-pcie-40gb",
    ]


def test_default_device_is_said_on_stderr(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", "net.py:build", "--input", "4x12", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["device"] == "cpu-generic"
    assert "cpu-generic" in err


def test_budget_tells_the_steps_that_fit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            monkeypatch,
            "profile",
            "net.py:build",
            "--input",
            "4x12",
            "--device",
            "cpu-generic",
            "--budget",
            "2 kJ",
            "--epoch",
            "100",
            "--json",
        )
        == 0
    )
    row = json.loads(capfd.readouterr().out)
    assert row["steps"] == int(2000 // row["energy_j"])
    assert row["steps_low"] < row["steps"] < row["steps_high"]
    assert row["epochs"] == pytest.approx(2000 / row["energy_j"] / 25)


@pytest.mark.parametrize("name", ["x.html", "x.json", "x.speedscope.json", "x.trace.json"])
def test_output_is_written_once_and_kept(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("profile", "net.py:build", "--input", "4x12", "--device", "cpu-generic", "-o", name)
    assert run(monkeypatch, *arguments) == 0
    before = (place / name).read_bytes()
    assert before
    if name.endswith("json"):
        json.loads(before)
    assert run(monkeypatch, *arguments) == 1
    assert "--force" in capfd.readouterr().err
    assert (place / name).read_bytes() == before
    assert run(monkeypatch, *arguments, "--force") == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("missing.py:build", "--input", "4x12"), "missing.py"),
        (("net.py:nothing", "--input", "4x12"), "build"),
        (("no.such.module:build", "--input", "4x12"), "no module"),
        (("net.py:build", "--input", "4x13"), "4x13"),
        (("net.py:build", "--input", "4x"), "8x3x224x224"),
        (("net.py:build", "--input", "4x12", "--device", "a100"), "a100-pcie-40gb"),
        (("net.py:build", "--input", "4x12", "--precision", "fp8"), "bf16"),
        (("net.py:build", "--input", "4x12", "--mode", "training", "--optimizer", "addam"), "adam"),
        (("net.py:build", "--input", "4x12", "--clock-mhz", "99999"), "MHz"),
        (("net.py:build", "--input", "4x12", "--budget", "5 apples"), "apples"),
        (("net.py:build", "--input", "4x12", "--budget", "-5 J"), "positive"),
        (("net.py:build", "--input", "4x12", "-o", "x.pdf"), ".html"),
        (("net.py:build",), "--input"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "profile", *arguments) == 2
    out, err = capfd.readouterr()
    assert text in err
    assert "Traceback" not in err
    assert not out


def test_unwritable_output_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            monkeypatch, "profile", "net.py:build", "--input", "4x12", "--device", "cpu-generic", "-o", "no/such/x.json"
        )
        == 1
    )
    assert "folder" in capfd.readouterr().err


def test_devices_lists_every_profile_with_what_it_rests_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "devices", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows["a100-pcie-40gb"]["status"] == "fitted"
    assert rows["a100-pcie-40gb"]["unseen_energy_error_frac"] > 0
    assert rows["cpu-generic"]["status"] == "literature"
    assert rows["cpu-generic"]["interval_factor"] > rows["a100-pcie-40gb"]["interval_factor"]
    assert run(monkeypatch, "devices") == 0
    shown = capfd.readouterr().out
    assert all(name in shown for name in rows)


def test_one_device_shows_its_coefficients(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "devices", "a10-pcie-24gb") == 0
    assert "eff_tensor" in capfd.readouterr().out
    assert run(monkeypatch, "devices", "a10-pcie-24gb", "--json") == 0
    assert json.loads(capfd.readouterr().out)["coefficients"]["eff_tensor"]["value"] > 0


def test_broken_user_profile_does_not_break_the_list(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = place / "data" / "budjoule" / "profiles"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text("schema = 3")
    assert run(monkeypatch, "devices") == 0
    out = capfd.readouterr().out
    assert "broken" in out
    assert "a100-pcie-40gb" in out
