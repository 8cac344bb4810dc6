"""`within`: a joule budget on anyone's loop. It hands out batches while the ledger can pay for the step each one feeds."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from budjoule.energy.errors import BudgetExhausted, UsageError
from budjoule.energy.units import joules
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.ledger.reservation import Reservation

if TYPE_CHECKING:
    from budjoule.energy.estimate import Estimate
    from budjoule.energy.meters import Meter
    from budjoule.energy.windows.window import Window

T = TypeVar("T")

BLOCK_S = 1.0  # a commit that is safe from power cuts takes about 4 ms; a block this long makes that 0.4 %
COUNTER_STEPS = 20  # a block this many counter steps long is measured to about 5 %
_GROWTH = 4  # a block may be so many times the last one, whose steps may have been slow from warming up


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
    cost = _StepCost.of(step_cost)
    if block_steps is not None and block_steps < 1:
        raise UsageError(f"block_steps is {block_steps}; give at least 1, or None")
    if not 0 <= idle_w < float("inf"):
        raise UsageError(f"idle_w is {idle_w}; give watts of at least 0")
    # A generator of its own, so that bad arguments raise here and not at the first batch.
    return _blocks(ledger, loader, cost, block_steps, meter, idle_w, cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepCost:
    expected_j: float
    upper_j: float
    duration_s: float | None = None

    @classmethod
    def of(cls, cost: "Estimate | float | str") -> "_StepCost":
        if isinstance(cost, int | float | str):
            energy_j = joules(cost)
            step = cls(expected_j=energy_j, upper_j=energy_j)
        elif hasattr(cost, "energy_j") and hasattr(cost, "energy_high_j"):
            step = cls(
                expected_j=cost.energy_j, upper_j=max(cost.energy_j, cost.energy_high_j), duration_s=cost.duration_s
            )
        else:
            raise UsageError(
                f"step_cost is a {type(cost).__name__}; give joules or an Estimate, as from bj.estimate(...)"
            )
        if not 0 <= step.expected_j <= step.upper_j < float("inf"):
            raise UsageError(
                f"step_cost is {step.expected_j} J, up to {step.upper_j} J; give finite joules of at least 0"
            )
        return step


def _blocks(
    ledger: Ledger,
    loader: Iterable[T],
    cost: _StepCost,
    block_steps: int | None,
    meter: "str | Meter | None",
    idle_w: float,
    cause: str,
) -> Iterator[T]:
    counter = _Counter(meter)
    steps = block_steps or max(1, int(counter.block_s / cost.duration_s) if cost.duration_s else 1)
    batches = iter(loader)
    while True:
        upper_j = ledger.widened_j(cost.upper_j, cost.expected_j, cause)
        try:
            reservation = ledger.reserve(steps * upper_j, cause, least_j=upper_j)
        except BudgetExhausted:
            return
        steps_held = min(steps, int(reservation.upper_j / upper_j * (1 + 1e-9))) if upper_j else steps
        ran, began_s = 0, time.monotonic()
        window = counter.begin()
        try:
            for _ in range(steps_held):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                ran += 1
                yield batch
        finally:
            # Reached from the block's end, the loader's end, `break` and any exception alike.
            _commit(reservation, ran, cost.expected_j, window, idle_w)
        if block_steps is None:
            each_s = (time.monotonic() - began_s) / ran
            steps = max(1, min(_GROWTH * steps, int(counter.block_s / each_s) if each_s > 0 else _GROWTH * steps))


def _commit(reservation: Reservation, ran: int, expected_j: float, window: "Window | None", idle_w: float) -> None:
    measurement = window.end() if window is not None else None
    if ran == 0:
        reservation.release()
    elif measurement is not None and measurement.source == "measured":
        above_idle_j = measurement.energy_j - idle_w * measurement.duration_s
        reservation.commit(max(above_idle_j, 0.0), measured=True, expected_j=ran * expected_j)
    else:
        reservation.commit(ran * expected_j)


class _Counter:
    """The machine's counter, if the caller wants one and there is one."""

    def __init__(self, meter: "str | Meter | None") -> None:
        self.block_s = BLOCK_S
        self._meter = meter
        self._auto = meter == "auto"
        if meter is None:
            return
        from budjoule.energy.windows.choose import choose

        choice = choose(None if self._auto else meter)
        if self._auto and choice.watch.meter.source != "measured":
            self._meter = None
            return
        slowest_s = max((domain.update_s for domain in choice.watch.meter.domains), default=0.0)
        self.block_s = max(BLOCK_S, COUNTER_STEPS * slowest_s)

    def begin(self) -> "Window | None":
        """An open window; None where nothing measures."""
        if self._meter is None:
            return None
        from budjoule.energy.windows.window import Window

        return Window("block", meter=None if self._auto else self._meter).begin()
