"""`budjoule train`: one JSON document on stdout, one line an error, and the folder that the report reads."""

import json
import warnings
from pathlib import Path

import pytest

from budjoule.energy.errors import BudjouleError
from budjoule.energy.reports.run_folder import load_run

with warnings.catch_warnings():  # typer reads names that click has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer
    from typer.testing import CliRunner

    from budjoule.cli.train import train

SUMMARY_KEYS = [
    "accuracy_frac",
    "target_accuracy_frac",
    "time_to_target_s",
    "energy_to_target_j",
    "uplink_bytes_to_target",
    "budget_j",
    "spent_j",
    "spent_by_cause_j",
    "uplink_bytes",
    "downlink_bytes",
    "peak_memory_bytes",
    "simulated_duration_s",
    "wall_duration_s",
    "rounds",
    "clients",
    "overspent_clients",
    "worst_decile_accuracy_frac",
    "participating_clients",
    "method",
    "seed",
    "model_sha256",
    "by_client",
]

CONFIG = """
[fleet]
clients = 4
[training]
local_steps = 2
[stop]
duration = "5 min"
"""


@pytest.fixture
def budjoule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run `budjoule train CONFIG` in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(CONFIG)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train)

    def run(*arguments: str, config: str = "small.toml") -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [config, *arguments])
        if isinstance(result.exception, BudjouleError):  # the border prints it, as `cli/main.py` does
            return result.exception.exit_code, result.stdout, f"{result.stderr}budjoule: {result.exception}"
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_json_prints_the_summary_and_nothing_else(budjoule) -> None:  # type: ignore[no-untyped-def]
    code, out, err = budjoule("--json", "-o", "run", "--seed", "3", "--set", "budget.energy=2 kJ")
    document = json.loads(out)
    assert code == 0
    assert document == json.loads(Path("run/summary.json").read_text())
    assert set(SUMMARY_KEYS) <= set(document)
    assert (document["schema"], document["seed"], document["budget_j"]) == ("budjoule.summary/1", 3, 8000.0)
    assert err.splitlines()[-1] == "next: budjoule report run"


def test_json_is_alone_on_stdout_whatever_the_data_print(budjoule, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def data(seed):\n    print('hello')\n    d = TensorDataset(torch.rand(40, 3), torch.arange(40) % 2)\n    return d, d\n"
    )
    code, out, err = budjoule("--json", "-o", "run", "--set", "task.data=own.py:data")
    assert code == 0
    assert json.loads(out)["clients"] == 4
    assert "hello" in err


def test_a_run_in_which_nobody_can_take_part_says_so(budjoule) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = budjoule("-o", "run", "--set", "budget.energy=0.001 J")
    assert code == 0
    assert "nothing was sent" in out
    assert json.loads(Path("run/summary.json").read_text())["stopped_by"] == "clients"
    assert "nothing was sent" not in budjoule("-o", "other")[1]


def test_the_default_folder_is_the_files_name_and_the_report_reads_it(budjoule) -> None:  # type: ignore[no-untyped-def]
    code, out, err = budjoule()
    assert code == 0
    assert "accuracy" in out
    assert err.splitlines()[-1] == "next: budjoule report runs/small"
    run = load_run("runs/small")
    assert run.finished
    assert run.totals.spent_j == pytest.approx(sum(client.spent_j for client in run.clients))
    assert len(run.sends) == sum(client.sends for client in run.clients) > 0


def test_a_run_in_the_way_needs_force_or_resume(budjoule) -> None:  # type: ignore[no-untyped-def]
    assert budjoule("-o", "run")[0] == 0
    code, out, err = budjoule("-o", "run")
    assert (code, out) == (1, "")
    assert "--resume" in err
    assert "--force" in err
    first = Path("run/summary.json").read_text()
    assert budjoule("-o", "run", "--resume")[0] == 0
    assert Path("run/summary.json").read_text() == first
    assert budjoule("-o", "run", "--force", "--seed", "1")[0] == 0
    assert json.loads(Path("run/summary.json").read_text())["seed"] == 1


def test_several_seeds_report_their_spread(budjoule) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = budjoule("--json", "-o", "many", "--seeds", "2", "--seed", "5")
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == "budjoule.seeds/1"
    assert [run["seed"] for run in document["runs"]] == [5, 6]
    row = document["spread"]["accuracy_frac"]
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["count"] == 2
    assert document["spread"]["time_to_target_s"] is None
    assert {path.name for path in Path("many").iterdir()} == {"seed-5", "seed-6"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "fleet.client=3"], 2, "fleet.clients"),
        (["--set", "fleet.device=abacus"], 2, "abacus"),
        (["--set", "task.data=text:folder"], 2, "not built yet"),
        (["--set", "task.data=fashion-mnist:nowhere"], 2, "dataset-fashion-mnist"),
        (["--set", "nonsense"], 2, "--set"),
        (["--resume"], 1, "nothing to resume"),
        (["-o", "small.toml/run"], 1, "cannot write"),
    ],
)
def test_errors_are_one_line_with_the_remedy(budjoule, arguments: list[str], code: int, said: str) -> None:  # type: ignore[no-untyped-def]
    found, out, err = budjoule(*arguments)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("budjoule: ")
    assert said in err
    assert not Path("runs/small").exists()


def test_a_missing_configuration_is_named(budjoule) -> None:  # type: ignore[no-untyped-def]
    code, out, err = budjoule(config="nope.toml")
    assert (code, out) == (2, "")
    assert "nope.toml" in err
