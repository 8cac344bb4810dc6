"""`budjoule profile --sweep`: one document, a page that stands alone, and other people's prints kept out of stdout."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from budjoule.cli.main import main

BASE = ("profile", "net.py:build", "--input", "4x12", "--device", "cpu-generic,raspberry-pi-5")
SWEEP = ("--sweep", "batch=1,2,4..32", "--sweep", "clock-mhz=1500..2400:300")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "net.py").write_text(
        "import os, sys, torch\n"
        "print('chatter')\n"
        "def build():\n"
        "    os.write(1, b'chatter from below\\n')\n"
        "    return torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))\n"
        "def leaves(): sys.exit('no model here')\n"
    )
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["budjoule", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_sweep_is_one_document_with_every_setting(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *BASE, *SWEEP, "--budget", "1 kJ", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["points"]) == 2 * 6 * 4
    for point in document["points"]:
        assert point["steps_low"] <= point["steps"] == int(1000 // point["energy_j"]) <= point["steps_high"]
    assert set(document["best"]) == {"cpu-generic", "raspberry-pi-5"}


def test_screen_shows_the_settings_and_what_to_choose(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *BASE, *SWEEP) == 0
    out, err = capfd.readouterr()
    assert "least energy" in out
    assert re.search(r"\d+ of 48 settings shown", out)
    assert "chatter" not in out
    assert "chatter from below" in err


def test_page_stands_alone_and_has_a_dot_a_setting(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *BASE, *SWEEP, "-o", "sweep.html") == 0
    page = (place / "sweep.html").read_text()
    assert page.count("<circle") == 48 + 2  # and the legend's
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "<script" not in page
    for drawing in re.findall(r"<svg role=.*?</svg>\s*</div>", page, flags=re.DOTALL):
        ET.fromstring(drawing.removesuffix("</div>").strip())
    assert run(monkeypatch, *BASE, *SWEEP, "-o", "sweep.html") == 1
    assert (place / "sweep.html").read_text() == page


def test_what_a_model_prints_stays_out_of_the_document(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *BASE, "--json") == 0
    out, err = capfd.readouterr()
    assert [row["device"] for row in json.loads(out)] == ["cpu-generic", "raspberry-pi-5"]
    assert "chatter" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("net.py:build", "--input", "4x12", "--sweep", "size=3"), "batch"),
        (("net.py:build", "--input", "scalar", "--sweep", "batch=1,2"), "scalars"),
        (("net.py:build", "--input", "4x12", "--sweep", "clock-mhz=99999"), "no setting"),
        (("net.py:build", "--input", "4x12", "--sweep", "batch=1,2", "-o", "x.trace.json"), ".html"),
        (("net.py:leaves", "--input", "4x12"), "no model here"),
        (("net.py:build", "--input", "0x12"), "empty"),
        (("net.py:build", "--input", "99999999999999999999x12"), "elements"),
        (("net.py:build", "--input", "4:int8<9999"), "int8"),
        (("net.py:build", "--input", "4:int64<99999999999999999999"), "bound"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "profile", *arguments) == 2
    out, err = capfd.readouterr()
    assert text in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("budjoule: ")]) == 1
    assert not out


def test_table_fits_a_narrow_terminal_whole(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, *BASE, "--sweep", "batch=16,32", "--sweep", "power-limit-w=6..9", "--budget", "1 kJ") == 0
    out = capfd.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


BEST = ("--best", "energy@1.5x-time", "--over", "batch=1,2,4,8..32,clock-mhz=1500..2400:300")


def test_best_names_a_setting_that_the_sweep_holds_and_what_it_saves(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *BASE, *BEST, "--budget", "1 kJ", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["goal"] == "energy@1.5x-time"
    assert [choice["device"] for choice in document["choices"]] == ["cpu-generic", "raspberry-pi-5"]
    for choice in document["choices"]:
        assert {key: choice[key] for key in document["points"][0]} in document["points"]
        saved = 1 - choice["example_energy_j"] / choice["default"]["example_energy_j"]
        assert choice["saving_frac"] == pytest.approx(saved)
        assert choice["default"]["batch"] == 4
        assert choice["default"]["wanted_clock_hz"] is None
    assert run(monkeypatch, *BASE, *BEST, "-o", "best.html") == 0
    out = " ".join(capfd.readouterr().out.split())
    for choice in document["choices"]:
        named = f"batch {choice['batch']}, clock"
        assert f"{choice['device']} (literature), least energy within 1.5 times the least time: {named}" in out
        assert f"On {choice['device']}, {named}" in (place / "best.html").read_text()
    assert "as given" in out


def test_given_batch_is_traced_once_whether_swept_or_not(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from budjoule.energy import trace as module

    traced: list[int] = []
    true_trace = module.trace

    def counting(*arguments: object, **how: object) -> object:
        work = true_trace(*arguments, **how)  # type: ignore[arg-type]
        traced.append(work.examples)
        return work

    monkeypatch.setattr(module, "trace", counting)
    assert run(monkeypatch, *BASE, "--best", "energy", "--over", "batch=2,4,8") == 0
    assert traced == [4, 2, 8]
    capfd.readouterr()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--best", "energy"), "--over"),
        (("--over", "batch=1,2"), "--best"),
        (("--best", "speed", "--over", "batch=1,2"), "energy@1.1x-time"),
        (("--best", "energy", "--over", "1,batch=2"), "batch"),
        (("--best", "energy", "--over", "batch=1", "--sweep", "batch=2"), "twice"),
    ],
)
def test_bad_choice_is_one_line_and_exit_2(
    arguments: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *BASE, *arguments) == 2
    out, err = capfd.readouterr()
    assert text in err
    assert "Traceback" not in err
    assert not out
