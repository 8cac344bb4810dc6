"""`profile --measure`: an estimate and a measurement of the same step, side by side and never in one field."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from budjoule.cli import beside
from budjoule.cli.main import app
from budjoule.energy.errors import UsageError

MODEL = "import torch\ndef net():\n    print('hello')\n    return torch.nn.Linear(16, 4)\n"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any) -> list[str]:
    tree.zone("intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(beside, "WARM_S", 0.01)
    monkeypatch.setattr(beside, "MEASURED_S", 0.05)
    (tmp_path / "m.py").write_text(MODEL)
    return ["profile", f"{tmp_path / 'm.py'}:net", "--input", "8x16", "--device", "cpu-generic", "--measure"]


def test_profile_measures_the_step_beside_its_estimate(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--json", "--mode", "training"])
    document = json.loads(done.stdout)
    measured = document["measured"]
    assert document["source"] == "estimated"
    assert (measured["source"], "RAPL" in measured["method"]) == ("measured", True)
    assert measured["steps"] >= 1
    assert 0 < measured["duration_s"] <= 0.1
    assert measured["energy_low_j"] <= measured["energy_j"] <= measured["energy_high_j"]


def test_profile_prints_both_and_their_ratio(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command[:-1], "--device", "raspberry-pi-5", "--measure"])
    assert "run here (cpu, " in done.stdout
    assert done.stdout.count("the estimate for ") == 2


def test_profile_measure_is_refused_where_it_is_not_the_step_that_was_estimated(command: list[str]) -> None:
    for extra in (["--fused"], ["--sweep", "batch=1,2"]):
        done = CliRunner().invoke(app, [*command, *extra])
        assert isinstance(done.exception, UsageError)
        assert "--measure runs" in str(done.exception)


def test_ratio_to_a_step_without_a_joule_is_no_number() -> None:
    measured = dict.fromkeys(("energy_j", "energy_low_j", "energy_high_j"), 0.0) | {"duration_s": 1.0, "power_w": 0.0}
    measured |= {"steps": 1, "device": "cpu", "source": "measured", "method": "RAPL", "notes": ["did not step"]}
    lines = beside.beside(measured, [{"device": "a", "energy_j": 1.0, "duration_s": 2.0}])
    assert "is - times that energy and 2 times that time" in lines[1]
    assert lines[-1] == "  note: did not step"
