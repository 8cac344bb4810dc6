"""A budget inside real trainers: they stop before they would overspend, and the ledger holds what ran."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.energy.errors import UsageError
from budjoule.training.ledger.ledger import Ledger

BATCHES, EPOCHS = 6, 2
LIGHTNINGS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore")  # of PyTorch's deprecations, and of few workers


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "l.db", budget_j=10.0) as ledger:
        yield ledger


class Model(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.ran = 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.ran += 1
        return {"loss": (self.linear(x)[:, 0] - labels).square().mean()}


def rows() -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.ones(2), "labels": torch.tensor(1.0)} for _ in range(BATCHES)]


Fit = Callable[..., int]


@pytest.fixture
def fit_with_trainer(tmp_path: Path) -> Fit:
    """Fits two epochs and returns the steps that ran."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def fit(budget: Any) -> int:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=1,
            num_train_epochs=EPOCHS,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(Model(), arguments, train_dataset=rows(), callbacks=[budget])
        trainer.train()
        return int(trainer.state.global_step)

    return fit


@pytest.fixture
def fit_with_lightning(tmp_path: Path) -> Fit:
    """The same in Lightning."""
    pytorch = pytest.importorskip("lightning.pytorch")

    class Module(pytorch.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, fail_at: int) -> None:
            super().__init__()
            self.model, self.fail_at = Model(), fail_at

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> Any:
            if batch_idx == self.fail_at:
                raise ZeroDivisionError
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(budget: Any, fail_at: int = -1, **options: Any) -> int:
        trainer = pytorch.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(tmp_path),
            callbacks=[budget],
            **options,
        )
        trainer.fit(Module(fail_at), torch.utils.data.DataLoader(rows(), batch_size=1))  # type: ignore[arg-type]
        return int(trainer.global_step)

    return fit


def trainer_budget(ledger: Ledger, **options: Any) -> Any:
    return bj.TrainerBudget(ledger, meter=None, **options)


def lightning_budget(ledger: Ledger, **options: Any) -> Any:
    return bj.LightningBudget(ledger, meter=None, **options)


BOTH = pytest.mark.parametrize(
    ("fitting", "budget_of"),
    [("fit_with_trainer", trainer_budget), ("fit_with_lightning", lightning_budget)],
    ids=["hugging_face", "lightning"],
)


@BOTH
@LIGHTNINGS_OWN_WARNINGS
@pytest.mark.parametrize("block_steps", [1, 4])
def test_training_stops_when_another_step_cannot_be_paid(
    ledger: Ledger, fitting: str, budget_of: Callable[..., Any], block_steps: int, request: pytest.FixtureRequest
) -> None:
    budget = budget_of(ledger, step_cost=1.5, block_steps=block_steps)
    assert request.getfixturevalue(fitting)(budget) == 6
    assert budget.exhausted
    assert (ledger.spent_j, ledger.reserved_j) == (9.0, 0.0)


@BOTH
@LIGHTNINGS_OWN_WARNINGS
def test_training_that_fits_runs_to_its_end_and_gives_the_rest_back(
    ledger: Ledger, fitting: str, budget_of: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    budget = budget_of(ledger, step_cost=0.5, block_steps=5)
    assert request.getfixturevalue(fitting)(budget) == BATCHES * EPOCHS
    assert not budget.exhausted
    assert (ledger.spent_j, ledger.reserved_j) == (0.5 * BATCHES * EPOCHS, 0.0)


@BOTH
@LIGHTNINGS_OWN_WARNINGS
def test_budget_that_pays_for_no_step_trains_nothing(
    ledger: Ledger, fitting: str, budget_of: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    budget = budget_of(ledger, step_cost=11.0)
    with pytest.raises(bj.BudgetExhausted, match=r"10 J remain and a step may cost 11 J"):
        request.getfixturevalue(fitting)(budget)
    assert (ledger.spent_j, ledger.reserved_j) == (0.0, 0.0)


def test_budget_of_one_process_refuses_several(ledger: Ledger) -> None:
    pytest.importorskip("lightning")
    several = SimpleNamespace(world_size=2)
    with pytest.raises(UsageError, match="one process and not 2"):
        trainer_budget(ledger, step_cost=1.0).on_train_begin(several, None, None)
    with pytest.raises(UsageError, match="one process and not 2"):
        lightning_budget(ledger, step_cost=1.0).on_train_start(several, None)


@LIGHTNINGS_OWN_WARNINGS
def test_lightning_that_would_not_stop_is_stopped_before_it_overspends(ledger: Ledger, fit_with_lightning: Fit) -> None:
    with pytest.raises(bj.BudgetExhausted):
        fit_with_lightning(lightning_budget(ledger, step_cost=3.0), min_epochs=EPOCHS)
    assert (ledger.spent_j, ledger.reserved_j) == (9.0, 0.0)


@LIGHTNINGS_OWN_WARNINGS
def test_lightning_run_that_breaks_off_commits_what_ran(ledger: Ledger, fit_with_lightning: Fit) -> None:
    with pytest.raises(ZeroDivisionError):
        fit_with_lightning(lightning_budget(ledger, step_cost=1.0, block_steps=5), fail_at=2)
    assert (ledger.spent_j, ledger.reserved_j) == (3.0, 0.0)


def test_trainer_run_that_breaks_off_is_settled_by_hand(ledger: Ledger, fit_with_trainer: Fit) -> None:
    budget = trainer_budget(ledger, step_cost=1.0, block_steps=5)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    budget.on_log = budget.on_epoch_end = fail
    with pytest.raises(ZeroDivisionError):
        fit_with_trainer(budget)
    assert ledger.reserved_j > 0  # counted as spent until someone says what ran
    budget.settle()
    budget.settle()
    assert (ledger.spent_j, ledger.reserved_j) == (6.0, 0.0)


@pytest.mark.parametrize(
    ("name", "package"), [("hugging_face", "transformers"), ("lightning", "lightning.pytorch.callbacks")]
)
def test_callback_without_its_framework_names_the_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"budjoule.training.callbacks.{name}", raising=False)
    with pytest.raises(UsageError, match=rf"pip install 'budjoule\[{package.partition('.')[0]}\]'"):
        __import__(f"budjoule.training.callbacks.{name}")
