"""Fitting package power against load: a known machine is recovered, two samples do, nonsense is refused, saving is identity."""

from pathlib import Path
from typing import Any

import pytest

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.load_model import (
    LoadModel,
    LoadSample,
    energy_unseen_j,
    fit_load_model,
    model_from_tdp,
    save_load_model,
    saved_model_path,
    this_machine,
)

TRUE = LoadModel(idle_w=12.0, busy_w=20.0, clock_w=30.0, knee_frac=0.3, max_clock_hz=3e9, factor=1.0, basis="truth")


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def samples(noise: tuple[float, ...] = (1.0,)) -> list[LoadSample]:
    grid = [(load / 10, clock) for load in range(11) for clock in (1.5e9, 2.2e9, 3e9)]
    return [
        LoadSample(load, TRUE.power_w(load, clock) * noise[number % len(noise)], clock)
        for number, (load, clock) in enumerate(grid)
    ]


def test_fit_recovers_a_known_machine() -> None:
    fitted = fit_load_model(samples())
    for load, clock in [(0.0, 1.5e9), (0.15, 3e9), (0.5, 2e9), (0.95, 2.5e9)]:
        assert fitted.power_w(load, clock) == pytest.approx(TRUE.power_w(load, clock), rel=0.02)


def test_fit_of_noisier_samples_has_a_wider_interval() -> None:
    quiet, noisy = fit_load_model(samples()), fit_load_model(samples((0.8, 1.25, 1.0)))
    assert 1.04 < quiet.factor < noisy.factor
    assert noisy.factor > 1.2


def test_fit_shrugs_off_one_odd_sample() -> None:
    odd = [*samples(), LoadSample(0.5, 400.0, 3e9)]
    assert fit_load_model(odd).power_w(0.5, 3e9) == pytest.approx(TRUE.power_w(0.5, 3e9), rel=0.05)


def test_fit_of_two_samples_meets_both_and_lies_between() -> None:
    fitted = fit_load_model([LoadSample(0.02, 8.0), LoadSample(1.0, 60.0)])
    assert fitted.power_w(0.02) == pytest.approx(8.0, rel=0.1)
    assert fitted.power_w(1.0) == pytest.approx(60.0, rel=0.1)
    assert 8.0 < fitted.power_w(0.4) < 60.0


@pytest.mark.parametrize(
    "bad", [[], [LoadSample(0.5, 10.0)], [LoadSample(0.5, 10.0)] * 3, [LoadSample(0, 5), LoadSample(1, -1)], [LoadSample(0, 5), LoadSample(7, 9)]]
)  # fmt: skip
def test_fit_refuses_samples_that_tell_nothing(bad: list[LoadSample]) -> None:
    with pytest.raises(MeterError, match="sample"):
        fit_load_model(bad)


def test_saved_model_is_this_machines_from_then_on(tree: Any) -> None:
    fitted = fit_load_model(samples())
    assert save_load_model(fitted) == saved_model_path()
    assert this_machine() == fitted


@pytest.mark.parametrize("text", ["not toml [", "idle_w = -1.0\nbusy_w = 1.0\nfactor = 1.0\nbasis = ''", "other = 1"])
def test_broken_saved_model_is_passed_over_and_said(tree: Any, text: str) -> None:
    typical = this_machine()
    saved_model_path().parent.mkdir(parents=True)
    saved_model_path().write_text(text)
    model = this_machine()
    assert (model.idle_w, model.busy_w, model.factor) == (typical.idle_w, typical.busy_w, typical.factor)
    assert str(saved_model_path()) in model.basis
    assert "delete the file" in model.basis


@pytest.mark.parametrize(
    "change",
    [
        {"idle_w": 0.0},
        {"busy_w": -1.0},
        {"knee_frac": 0.0},
        {"factor": 0.5},
        {"clock_w": 1.0},
        {"idle_w": float("nan")},
    ],
)
def test_load_model_refuses_what_no_processor_does(change: dict[str, float]) -> None:
    with pytest.raises(MeterError, match="load model"):
        LoadModel(**{"idle_w": 5.0, "busy_w": 5.0, "factor": 2.0, "basis": "x"} | change)  # type: ignore[arg-type]


def test_energy_of_an_unseen_window_lies_between_idle_and_busy() -> None:
    model = model_from_tdp(100.0)
    value_j, low_j, high_j = energy_unseen_j(model, 2.0)
    assert low_j < 2 * model.power_w(0.0) <= value_j <= 2 * model.power_w(1.0) < high_j
