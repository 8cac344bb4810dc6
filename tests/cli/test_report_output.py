"""What every verb prints through: strict JSON, files kept, characters that a terminal lacks."""

import io
import json
import sys
from pathlib import Path

import pytest

from budjoule.cli.output import check_output, note, print_json, print_text, result_console, save, to_json
from budjoule.energy.errors import BudjouleError, RunError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_refuses_what_json_cannot_say(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BudjouleError, match="JSON"):
        print_json(value)
    assert capsys.readouterr().out == ""


def test_json_round_trips(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"energy_j": 1.5, "name": "µ", "none": None, "list": [1, "a"]}
    print_json(document)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == document == json.loads(to_json(document))
    assert captured.err == ""


def test_save_keeps_a_file_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    save(target, "one", force=False)
    with pytest.raises(RunError, match="--force"):
        save(target, "two", force=False)
    assert target.read_text() == "one"
    save(target, "three", force=True)
    assert target.read_text() == "three"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count(str(target)) == 2


def test_output_is_checked_where_it_will_be_written(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "no" / "file")
    with pytest.raises(RunError, match=r"cannot write .*link: .*no does not exist"):
        check_output(link, force=True)
    (tmp_path / "no").mkdir()
    check_output(link, force=False)
    with pytest.raises(RunError, match="is a folder; give a file's name"):
        check_output(tmp_path, force=True)
    assert list((tmp_path / "no").iterdir()) == []


def test_a_note_that_nobody_can_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    note("1 J so far")
    assert tried == ["1 J so far"]


def test_notes_stay_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    note("next: something")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "next: something\n")


def test_a_terminal_without_the_character_gets_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    print_text("12 µJ\n")
    result_console().print("1 µJ [bold]")
    assert raw.getvalue().decode("ascii") == "12 ?J\n1 ?J [bold]\n"
