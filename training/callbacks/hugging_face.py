"""A joule budget for a Hugging Face `Trainer`. Needs transformers."""

from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import UsageError
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.paid_steps import PaidSteps

try:
    from transformers import TrainerCallback
except ImportError:
    raise UsageError(
        "TrainerBudget needs transformers; install it with: pip install 'budjoule[transformers]'"
    ) from None

if TYPE_CHECKING:
    from budjoule.energy.estimate import Estimate
    from budjoule.energy.meters import Meter


class TrainerBudget(TrainerCallback):  # type: ignore[misc]
    """Stops a `Trainer` before it would overspend: `bj.within` for those whose loop is inside a `Trainer`.

    ``Trainer(..., callbacks=[bj.TrainerBudget(ledger, step_cost=est)])`` reserves a block of optimizer steps before its first
    and commits it after its last. When the budget cannot pay for another step, training ends as at its last step: saved,
    evaluated and logged by the trainer's own rules, and `exhausted` is true.

    With gradient accumulation `step_cost` is what a whole optimizer step costs. After an exception call `settle`; else what
    was reserved stays counted as spent.

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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look whether one process trains.

        Raises:
            UsageError: Several do, and could not agree when to stop.
        """
        if args.world_size > 1:
            raise UsageError(f"TrainerBudget stops one process and not {args.world_size}; give each a bj.within loop")
        self.exhausted = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step that begins.

        Raises:
            BudgetExhausted: The budget cannot pay for it: there is none for a first step, or the trainer would not stop.
        """
        self._steps.step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pay for the next step, or end the training."""
        if not self._steps.pay():
            self.exhausted = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Commit what ran."""
        self.settle()

    def settle(self) -> None:
        """Commit what ran and give the rest back; nothing if that was done."""
        self._steps.settle()
