"""How much work fits in an energy: steps, and epochs where the number of examples is known."""

from dataclasses import dataclass
from typing import Any

from budjoule.energy.errors import UsageError
from budjoule.energy.estimate import Estimate
from budjoule.energy.units import joules


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An energy to spend on steps.

    Args:
        energy_j: The energy. [J]
        epoch_examples: Examples of an epoch, where epochs are to be counted too.
    """

    energy_j: float
    epoch_examples: int | None = None

    def __post_init__(self) -> None:
        if not self.energy_j > 0:
            raise UsageError(f"the budget is {self.energy_j:g} J; give a positive energy such as '50 kJ'")
        if self.epoch_examples is not None and self.epoch_examples < 1:
            raise UsageError(f"an epoch has {self.epoch_examples} examples; give at least 1")

    def fitting(self, estimate: Estimate) -> dict[str, Any]:
        """Whole steps and epochs that fit, as estimated and at the ends of the 90 % interval.

        An epoch's last step is as dear as the others, full or not.
        """
        needs_j = {"": estimate.energy_j, "_low": estimate.energy_high_j, "_high": estimate.energy_low_j}
        steps = {f"steps{end}": int(self.energy_j // step_j) for end, step_j in needs_j.items()}
        found: dict[str, Any] = {"budget_j": self.energy_j, **steps}
        if self.epoch_examples is not None:
            epoch_steps = -(-self.epoch_examples // max(1, estimate.work.examples))
            epochs = {f"epochs{end}": self.energy_j / step_j / epoch_steps for end, step_j in needs_j.items()}
            found |= {"epoch_examples": self.epoch_examples, **epochs}
        return found


def parse_budget(energy: str | None, epoch_examples: int | None) -> Budget | None:
    """Read a budget as a user types it.

    Raises:
        UsageError: The energy cannot be read or is not positive, or examples are given without one.
    """
    if energy is None:
        if epoch_examples is not None:
            raise UsageError("--epoch counts the epochs that fit in a budget; give --budget 50kJ too")
        return None
    return Budget(energy_j=joules(energy), epoch_examples=epoch_examples)
