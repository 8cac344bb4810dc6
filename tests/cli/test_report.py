"""`budjoule report`: formats, files, refusals."""

import json
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budjoule.energy.errors import BudjouleError, RunError, UsageError

with warnings.catch_warnings():  # typer reads names that click has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer
    from typer.testing import CliRunner, Result

    from budjoule.cli.report import report

write_run: Callable[..., Path] = runpy.run_path(str(Path(__file__).parents[1] / "energy/reports/conftest.py"))[
    "write_run"
]


def invoke(*arguments: Any) -> Result:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(report)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: Any) -> BudjouleError:
    result = invoke(*arguments)
    assert isinstance(result.exception, BudjouleError)
    assert result.stdout == ""
    assert "\n" not in str(result.exception)
    return result.exception


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "digits")


def test_json_is_one_document_and_nothing_else(folder: Path) -> None:
    result = invoke(folder, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["summary"] == json.loads((folder / "summary.json").read_text())


def test_console_says_what_to_run_next_on_stderr(folder: Path) -> None:
    result = invoke(folder)
    assert "energy spent" in result.stdout
    assert result.stderr.splitlines()[-1] == f"next: budjoule report {folder} --format html"
    assert "next:" not in result.stdout


def test_html_lands_in_the_run_folder_and_is_renewed(folder: Path) -> None:
    for _ in range(2):
        result = invoke(folder, "--format", "html")
        assert result.exit_code == 0
        assert result.stdout == ""
        assert str(folder / "report.html") in result.stderr
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "start"), [("a.html", "<!doctype"), ("a.json", "{"), ("a.csv", "run,"), ("a.txt", "\ndigits")]
)
def test_the_suffix_chooses_the_format(folder: Path, tmp_path: Path, name: str, start: str) -> None:
    assert invoke(folder, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_text().startswith(start)


def test_a_named_file_is_kept_unless_forced(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.html"
    target.write_text("mine")
    assert "--force" in str(refusal(folder, "-o", target))
    assert target.read_text() == "mine"
    assert invoke(folder, "-o", target, "--force").exit_code == 0
    assert target.read_text() != "mine"


def test_several_runs_make_one_report(folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", seed=1)
    result = invoke(folder, other, "--json")
    assert [document["name"] for document in json.loads(result.stdout)] == ["digits", "other"]


def test_refusals_are_one_line_with_their_exit_code(folder: Path, tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path / "nope"), RunError)
    assert isinstance(refusal(tmp_path), RunError)
    assert isinstance(refusal(folder, "--format", "pdf"), UsageError)
    assert isinstance(refusal(folder, "--format", "csv", "--json"), UsageError)
    assert isinstance(refusal(folder, "-o", tmp_path / "no" / "folder.html"), RunError)
    assert invoke().exit_code == 2
