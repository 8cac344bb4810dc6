"""Energy in the logs of real trainers: a Hugging Face Trainer and a Lightning one, on a counter that every step moves."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.energy.callbacks.training_log import TrainingLog
from budjoule.energy.errors import UsageError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.watch import Watch

BATCHES, EPOCHS, STEP_J = 6, 2, 5.0
LIGHTNINGS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore")  # of PyTorch's deprecations, and of few workers


class StepMeter:
    """A counter that a training step moves by `STEP_J`."""

    name, method, notes = "steps", "a counter of a test", ()

    def __init__(self, source: str = "measured") -> None:
        self.source = source
        self.domains = (Domain(name="package-0", limit_w=1e18),)
        self.energy_j = 0.0

    def read(self) -> list[float | None]:
        return [self.energy_j]

    def close(self) -> None: ...


class Model(nn.Module):
    """One weight; its forward pass is what a step costs, and fails at one of them."""

    def __init__(self, meter: StepMeter, fail_at: int = -1) -> None:
        super().__init__()
        self.linear, self.meter, self.steps_left = nn.Linear(2, 1), meter, fail_at

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.meter.energy_j += STEP_J
        self.steps_left -= 1
        if self.steps_left == 0:
            raise ZeroDivisionError
        return {"loss": (self.linear(x)[:, 0] - labels).square().mean()}


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.ones(2), "labels": torch.tensor(1.0)} for _ in range(count)]


@pytest.fixture
def hugging_face(tmp_path: Path) -> Callable[..., Any]:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def trainer(meter: StepMeter, *callbacks: Any, fail_at: int = -1, **options: Any) -> Any:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=1,
            num_train_epochs=EPOCHS,
            logging_steps=2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **options,
        )
        return Trainer(Model(meter, fail_at), arguments, train_dataset=rows(BATCHES), callbacks=list(callbacks))

    return trainer


def test_trainer_logs_the_run_a_step_and_an_epoch(hugging_face: Callable[..., Any]) -> None:
    meter = StepMeter()
    energy = bj.TrainerEnergy(meter=meter)
    trainer = hugging_face(meter, energy)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["measured_energy_j"] for log in logs] == [STEP_J * 2 * (i + 1) for i in range(len(logs))]
    assert {log["measured_step_energy_j"] for log in logs} == {STEP_J}
    assert all(log["measured_power_w"] > 0 for log in logs)
    epochs = [log["measured_epoch_energy_j"] for log in trainer.state.log_history if "measured_epoch_energy_j" in log]
    assert epochs == [STEP_J * BATCHES] * EPOCHS
    assert [each.energy_j for each in energy.epochs] == epochs
    assert energy.measurement is not None
    assert energy.measurement.energy_j == STEP_J * BATCHES * EPOCHS


def test_trainer_run_that_breaks_off_is_measured_as_far_as_it_came(hugging_face: Callable[..., Any]) -> None:
    meter = StepMeter()
    with pytest.raises(ZeroDivisionError), bj.TrainerEnergy(meter=meter) as energy:
        hugging_face(meter, energy, fail_at=BATCHES + 2).train()
    energy.close()
    assert energy.measurement is not None
    assert energy.measurement.energy_j == STEP_J * (BATCHES + 2)
    assert [each.energy_j for each in energy.epochs] == [STEP_J * BATCHES, STEP_J * 2]


def test_trainer_that_nobody_closes_leaves_no_window_open(
    hugging_face: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    watches: list[Watch] = []

    def watch(meter: StepMeter) -> Watch:
        watches.append(Watch(meter))
        return watches[-1]

    monkeypatch.setattr("budjoule.energy.windows.choose.Watch", watch)
    meter = StepMeter()
    energy = bj.TrainerEnergy(meter=meter)
    with pytest.raises(ZeroDivisionError):
        hugging_face(meter, energy, fail_at=2).train()
    assert sum(watch.open_windows for watch in watches) == 2  # it may still be closed
    energy.on_train_begin(None, SimpleNamespace(is_local_process_zero=True), None)
    assert sum(watch.open_windows for watch in watches) == 1
    del energy
    gc.collect()
    assert sum(watch.open_windows for watch in watches) == 0


def test_trainer_reports_see_the_energy_where_the_callback_stands_first(hugging_face: Callable[..., Any]) -> None:
    from transformers import TrainerCallback

    seen: list[dict[str, float]] = []

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.append(dict(logs))

    meter = StepMeter("estimated")
    trainer = hugging_face(meter, Report())
    energy = bj.TrainerEnergy(meter=meter).first(trainer)
    assert energy.first(trainer) is energy
    assert trainer.callback_handler.callbacks.count(energy) == 1
    trainer.train()
    assert all("estimated_energy_j" in logs for logs in seen)


@LIGHTNINGS_OWN_WARNINGS
def test_lightning_logs_the_run_a_step_and_an_epoch(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    meter = StepMeter()
    energy = bj.LightningEnergy(meter=meter)
    trainer, logged = lightning(tmp_path, meter, energy)
    assert trainer.current_epoch == EPOCHS
    steps = [row for row in logged if "measured_energy_j" in row]
    assert [row["measured_energy_j"] for row in steps] == [STEP_J * 2 * (i + 1) for i in range(len(steps))]
    assert {row["measured_step_energy_j"] for row in steps} == {STEP_J}
    epochs = [row["measured_epoch_energy_j"] for row in logged if "measured_epoch_energy_j" in row]
    assert epochs == [STEP_J * BATCHES] * EPOCHS == [each.energy_j for each in energy.epochs]
    assert energy.measurement is not None
    assert energy.measurement.energy_j == STEP_J * BATCHES * EPOCHS


@LIGHTNINGS_OWN_WARNINGS
def test_lightning_run_that_breaks_off_is_measured_as_far_as_it_came(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    meter = StepMeter()
    energy = bj.LightningEnergy(meter=meter)
    with pytest.raises(ZeroDivisionError):
        lightning(tmp_path, meter, energy, fail_at=3)
    assert energy.measurement is not None
    assert energy.measurement.energy_j == STEP_J * 4
    assert len(energy.epochs) == 1


def lightning(root: Path, meter: StepMeter, *callbacks: Any, fail_at: int = -1) -> tuple[Any, list[dict[str, float]]]:
    """Fit two epochs; the trainer, and what a logger was given."""
    from lightning import pytorch
    from lightning.pytorch.loggers.logger import DummyLogger

    logged: list[dict[str, float]] = []

    class Logger(DummyLogger):  # type: ignore[misc, unused-ignore]
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            logged.append(dict(metrics))

    class Module(pytorch.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = Model(meter)

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> Any:
            loss = self.model(**batch)["loss"]
            if batch_idx == fail_at:
                raise ZeroDivisionError
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pytorch.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        log_every_n_steps=2,
        logger=Logger(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(root),
        callbacks=list(callbacks),
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(rows(BATCHES), batch_size=1))  # type: ignore[arg-type]
    return trainer, logged


def test_training_log_tells_an_epoch_once_and_begins_anew() -> None:
    meter = StepMeter()
    log = TrainingLog(meter=meter)
    assert log.figures() == {}
    for _ in range(2):
        log.begin()
        log.begin_epoch()
        meter.energy_j += 8.0
        log.step()
        log.step()
        log.end_epoch()
        figures = log.figures()
        assert figures["measured_energy_j"] == figures["measured_epoch_energy_j"] == 8.0
        assert figures["measured_step_energy_j"] == 4.0
        assert log.figures() == {"measured_energy_j": 8.0}
        log.end()
        log.end()
        assert log.measurement is not None
        assert log.measurement.label == "training"


@pytest.mark.parametrize(
    ("name", "package"), [("hugging_face", "transformers"), ("lightning", "lightning.pytorch.callbacks")]
)
def test_callback_without_its_framework_names_the_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"budjoule.energy.callbacks.{name}", raising=False)
    with pytest.raises(UsageError, match=rf"pip install 'budjoule\[{package.partition('.')[0]}\]'"):
        __import__(f"budjoule.energy.callbacks.{name}")
