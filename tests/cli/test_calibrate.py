"""`budjoule calibrate`: where the profile lands, what is printed, what is refused before anything runs."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import budjoule as bj
from budjoule.calibration.calibrate import Calibration
from budjoule.calibration.calibrate import calibrate as calibrate_here
from budjoule.calibration.microbenchmarks import SUITE, Prepared
from budjoule.calibration.reading import Reading
from budjoule.calibration.target import Target, target_for
from budjoule.calibration.this_machine import ThisMachine
from budjoule.cli.main import main
from budjoule.energy.meters.load_model import LoadModel, this_machine

Run = Callable[..., int]


def simulated(**options: Any) -> Calibration:
    """Calibrate a machine that is just its prior."""
    generic = bj.load_profile("cpu-generic")

    def read(prepared: Prepared, limit_s: float) -> Reading:
        e = bj.predict(prepared.workload, device=generic)
        return Reading(duration_s=e.duration_s, energy_j=None, spread_frac=0.0)

    return calibrate_here(
        read=read,
        suite=[b for b in SUITE if b.name in ("tiny ops", "large product") or b.held_out],
        target=Target(kind="cpu", device="meta", cores=2),
        machine=ThisMachine(title="simulated", spec=generic.spec, assumed=()),
        **options,
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", simulated)

    def go(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["budjoule", "calibrate", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return go


def test_profile_is_picked_up_as_this_machine(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    printed = capfd.readouterr()
    assert "not measured" in printed.out
    assert "no energy counter was read" in printed.out
    assert printed.err.splitlines()[-1].startswith("next: budjoule profile ")
    assert printed.err.splitlines()[-1].endswith("--device this-machine")
    profile = bj.load_profile("this-machine")
    assert profile.title == "simulated"
    assert {"machine", "torch", "date", "meter", "in_sample", "held_out_training_steps", "notes"} <= set(
        profile.provenance
    )


def test_json_is_one_document_and_nothing_else(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert set(document) == {
        "schema",
        "profile",
        "status",
        "readings",
        "validation",
        "load_model",
        "coefficients",
        "notes",
    }
    assert Path(document["profile"]).is_file()
    assert {
        "name",
        "duration_s",
        "energy_j",
        "spread_frac",
        "error_frac",
        "others_cores",
        "clock_hz",
        "throttled",
    } <= set(document["readings"][0])
    assert {row["name"] for row in document["validation"]} == {b.name for b in SUITE if b.held_out}
    assert set(document["coefficients"]["eff_fp32"]) == {"value", "sd_log", "prior_value", "prior_sd_log", "pinned"}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_load_model_is_kept_for_this_machine_and_not_beside_another_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    model = LoadModel(idle_w=4.0, busy_w=20.0, factor=1.2, basis="this machine's calibration")
    made = replace(simulated(), load_model=model)
    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", lambda **_: made)
    assert run(*(["-o", str(tmp_path / "mine.toml")] if elsewhere else [])) == 0
    assert (this_machine() == model) != elsewhere


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("during", ["large product", "training step of a conv net"])
def test_interruption_leaves_the_old_profile(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], during: str
) -> None:
    """Ctrl-C in a step of a suite that runs for real, after others have been read."""
    assert run() == 0
    before = bj.load_profile("this-machine").log_mean
    files = sorted(tmp_path.rglob("*"))
    suite = [b for b in SUITE if b.name in ("big copy", "large product", "tiny ops") or b.held_out]
    target = target_for(bj.load_profile("cpu-generic"))
    begun: list[str] = []

    def read(prepared: Prepared, limit_s: float) -> Reading:
        begun.append(prepared.benchmark.name)
        if begun[-1] == during:
            prepared = replace(prepared, step=lambda: signal.raise_signal(signal.SIGINT))
        return target.read(prepared, limit_s)

    monkeypatch.setattr(
        "budjoule.calibration.calibrate.calibrate",
        lambda **options: calibrate_here(limit_s=1e-3, suite=suite, read=read, **options),
    )
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    capfd.readouterr()
    try:
        assert run() == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert begun[0] != during == begun[-1]
    assert "is as it was" in capfd.readouterr().err
    assert np.array_equal(bj.load_profile("this-machine").log_mean, before)
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize("force", [False, True])
def test_a_spoilt_calibration_replaces_no_profile_unless_forced(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], force: bool
) -> None:
    made = simulated()
    rows = [{**row, "time_error_frac": -0.7} for row in made.validation]
    spoilt = replace(made, validation=rows, profile=replace(made.profile, title="spoilt"))
    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", lambda **_: spoilt)
    assert run() == 0  # where there is none, a bad one with its wide interval is better
    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", lambda **_: made)
    assert run() == 0
    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", lambda **_: spoilt)
    capfd.readouterr()
    assert run(*(["--force"] if force else [])) == (0 if force else 1)
    assert ("is as it was" in capfd.readouterr().err) != force
    assert bj.load_profile("this-machine").title == ("spoilt" if force else "simulated")


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def ran(**_: object) -> Calibration:
        raise AssertionError("microbenchmarks ran")

    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", ran)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    ("name", "code", "remedy"),
    [
        ("kept.toml", 1, "--force"),
        ("kept.toml/no.toml", 1, "give a writable place"),
        ("folder.toml", 1, "give a file's name"),
        ("profile", 2, "end it in .toml"),
    ],
)
def test_bad_output_is_refused_before_anything_runs(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, code: int, remedy: str
) -> None:
    (tmp_path / "kept.toml").write_text("mine")
    (tmp_path / "folder.toml").mkdir()
    assert run("-o", str(tmp_path / name)) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert remedy in printed.err
    assert len(printed.err.splitlines()) == 1
    assert (tmp_path / "kept.toml").read_text() == "mine"


def test_forced_output_is_renewed_and_named_for_the_next_command(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mine.toml"
    target.write_text("mine")
    assert run("-o", str(target), "--force") == 0
    assert bj.load_profile(target).name == "this-machine"
    assert capfd.readouterr().err.splitlines()[-1].endswith(f"--device {target}")


def test_unknown_start_is_one_line_with_the_remedy(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--device", "no-such-device") == 2
    assert "budjoule devices" in capfd.readouterr().err


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_calibrates_for_real(run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """With so little time for each microbenchmark that it says nothing of accuracy: only that everything runs through."""
    monkeypatch.setattr("budjoule.calibration.calibrate.calibrate", lambda **o: calibrate_here(limit_s=1e-3, **o))
    assert run("--quick", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["readings"]) == sum("cpu" in b.kinds for b in SUITE)
    assert all(reading["duration_s"] > 0 for reading in document["readings"])
    assert bj.load_profile("this-machine").spec.units == 1
