"""`within`: a joule budget on anyone's loop. It hands out batches while the ledger can pay for the step each one feeds."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from budjoule.training.ledger.ledger import Ledger
from budjoule.training.paid_steps import PaidSteps

if TYPE_CHECKING:
    from budjoule.energy.estimate import Estimate
    from budjoule.energy.meters import Meter

T = TypeVar("T")


def within(
    ledger: Ledger,
    loader: Iterable[T],
    *,
    step_cost: "Estimate | float | str",
    block_steps: int | None = None,
    meter: "str | Meter | None" = "auto",
    idle_w: float = 0.0,
    cause: str = "compute",
) -> Iterator[T]:
    """Hand out the loader's batches for as long as the budget pays for their steps.

    ``for batch in bj.within(ledger, loader, step_cost=est): ...`` reserves a block of steps before its first batch and
    commits it after its last: what a counter measured, else what was estimated. Leaving the loop by `break` or an
    exception commits what ran, the step in progress in full. When the budget cannot pay for another step, the loop
    ends as if the loader had.

    Args:
        ledger: Pays for the steps.
        loader: Any iterable of batches, such as a `DataLoader`.
        step_cost: What one step costs: an `Estimate`, whose upper end is reserved and whose expected value is booked
            where nothing is measured; or joules, which are both.
        block_steps: Steps a reservation; the default makes a block last about a second, and 20 counter steps.
        meter: `auto` books what this machine's counters say, where it has any; a row of `METERS` or an open meter
            books that meter's reading; None books the estimate.
        idle_w: The machine's idle floor, taken off what a counter says where it would be on anyway. [W]
        cause: What the ledger files the steps under.

    Raises:
        UsageError: The step's cost, the block's length or the idle floor cannot be used.
        LedgerError: The ledger cannot be read or written.
        MeterError: The named meter cannot be had.
    """
    steps = PaidSteps(ledger, step_cost=step_cost, block_steps=block_steps, meter=meter, idle_w=idle_w, cause=cause)
    # A generator of its own, so that bad arguments raise here and not at the first batch.
    return _paid(steps, loader)


def _paid(steps: PaidSteps, loader: Iterable[T]) -> Iterator[T]:
    batches = iter(loader)
    try:
        while steps.pay():
            try:
                batch = next(batches)
            except StopIteration:
                return
            steps.step()
            yield batch
    finally:
        # Reached from the budget's end, the loader's end, `break` and any exception alike.
        steps.settle()
