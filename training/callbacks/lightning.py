"""A joule budget for a Lightning `Trainer`. Needs lightning."""

from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import UsageError
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.paid_steps import PaidSteps

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    raise UsageError("LightningBudget needs lightning; install it with: pip install 'budjoule[lightning]'") from None

if TYPE_CHECKING:
    from budjoule.energy.estimate import Estimate
    from budjoule.energy.meters import Meter


class LightningBudget(Callback):  # type: ignore[misc, unused-ignore]
    """Stops a Lightning `Trainer` before it would overspend: `bj.within` for those whose loop is inside a `Trainer`.

    ``Trainer(..., callbacks=[bj.LightningBudget(ledger, step_cost=est)])`` reserves a block of training batches before its
    first and commits it after its last, also when training breaks off. When the budget cannot pay for another batch,
    `fit` ends as `trainer.should_stop` ends it, and `exhausted` is true.

    Args:
        ledger: Pays for the steps.
        step_cost: As in `bj.within`.
        block_steps: As in `bj.within`.
        meter: As in `bj.within`.
        idle_w: As in `bj.within`. [W]
        cause: What the ledger files the steps under.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        step_cost: "Estimate | float | str",
        block_steps: int | None = None,
        meter: "str | Meter | None" = "auto",
        idle_w: float = 0.0,
        cause: str = "compute",
    ) -> None:
        self.exhausted = False
        self._steps = PaidSteps(
            ledger, step_cost=step_cost, block_steps=block_steps, meter=meter, idle_w=idle_w, cause=cause
        )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look whether one process trains.

        Raises:
            UsageError: Several do, and could not agree when to stop.
        """
        if trainer.world_size > 1:
            raise UsageError(
                f"LightningBudget stops one process and not {trainer.world_size}; use a bj.within loop in each"
            )
        self.exhausted = False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch that begins.

        Raises:
            BudgetExhausted: The budget cannot pay for it: there is none for a first batch, or `min_epochs` or `min_steps`
                would not let the trainer stop.
        """
        self._steps.step()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pay for the next batch, or end the training."""
        if not self._steps.pay():
            self.exhausted = trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Commit what ran."""
        self._steps.settle()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Commit what ran, also when training breaks off."""
        self._steps.settle()
