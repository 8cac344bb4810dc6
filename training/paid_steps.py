"""Steps of anyone's training, paid for by a ledger block by block: reserve before a block, commit what it cost after it."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from budjoule.energy.errors import BudgetExhausted, UsageError
from budjoule.energy.units import joules
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.ledger.reservation import Reservation

if TYPE_CHECKING:
    from budjoule.energy.meters import Meter
    from budjoule.energy.windows.window import Window

BLOCK_S = 1.0  # a commit that is safe from power cuts takes about 4 ms; a block this long makes that 0.4 %
COUNTER_STEPS = 20  # a block this many counter steps long is measured to about 5 %
_GROWTH = 4  # a block may be so many times the last one, whose steps may have been slow from warming up


class Costs(Protocol):
    """What is expected, as an `Estimate` says it."""

    @property
    def energy_j(self) -> float: ...
    @property
    def energy_high_j(self) -> float: ...
    @property
    def duration_s(self) -> float: ...


class PaidSteps:
    """Pays for one step after the other, a block of them at a time.

    Before each step `pay` sets its joules aside, or says that the budget cannot; as it begins, `step` counts it. `settle`
    commits what ran since the block began, however the steps ended: it belongs into a `finally`. What nobody settles
    stays reserved, and so counts as spent.

    Args:
        ledger: Pays for the steps.
        step_cost: What one step costs: an `Estimate`, whose upper end is reserved and whose expected value is booked
            where nothing is measured; or joules, which are both.
        block_steps: Steps a reservation; the default makes a block last about a second, and 20 counter steps.
        meter: `auto` books what this machine's counters say, where it has any; a row of `METERS` or an open meter
            books that meter's reading; None books the estimate.
        idle_w: The machine's idle floor, taken off what a counter says where it would be on anyway. [W]
        cause: What the ledger files the steps under.

    Raises:
        UsageError: The step's cost, the block's length or the idle floor cannot be used.
        MeterError: The named meter cannot be had.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        step_cost: "Costs | float | str",
        block_steps: int | None = None,
        meter: "str | Meter | None" = "auto",
        idle_w: float = 0.0,
        cause: str = "compute",
    ) -> None:
        self._cost = _StepCost.of(step_cost)
        if block_steps is not None and block_steps < 1:
            raise UsageError(f"block_steps is {block_steps}; give at least 1, or None")
        if not 0 <= idle_w < float("inf"):
            raise UsageError(f"idle_w is {idle_w}; give watts of at least 0")
        self._ledger = ledger
        self._cause = cause
        self._counter = _Counter(meter, idle_w)
        self._fixed = block_steps is not None
        duration_s = self._cost.duration_s
        self._steps = block_steps or max(1, int(self._counter.block_s / duration_s) if duration_s else 1)
        self._reservation: Reservation | None = None
        self._window: Window | None = None
        self._held = self._ran = 0
        self._began_s = 0.0

    def pay(self) -> bool:
        """Set the joules of one more step aside; False if the budget cannot pay for it.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        if self._reservation is not None and self._ran < self._held:
            return True
        if self._reservation is not None:
            self._settle_block()
        upper_j = self._ledger.widened_j(self._cost.upper_j, self._cost.expected_j, self._cause)
        try:
            self._reservation = self._ledger.reserve(self._steps * upper_j, self._cause, least_j=upper_j)
        except BudgetExhausted:
            return False
        fitting = int(self._reservation.upper_j / upper_j * (1 + 1e-9)) if upper_j else self._steps
        self._held = min(fitting, self._steps)
        self._ran, self._began_s = 0, time.monotonic()
        self._window = self._counter.begin()
        return True

    def step(self) -> None:
        """A step begins; it is booked in full, also if it breaks off.

        Raises:
            BudgetExhausted: It was not paid for, and the budget cannot.
        """
        if not self.pay():
            raise BudgetExhausted(
                f"the budget cannot pay for another step: {self._ledger.remaining_j:.3g} J remain and a step may cost "
                f"{self._cost.upper_j:.3g} J"
            )
        self._ran += 1

    def settle(self) -> None:
        """Commit what ran of the last block, and give the rest back; nothing if that was done."""
        reservation, window = self._reservation, self._window
        self._reservation = self._window = None
        if reservation is None:
            return
        measurement = window.end() if window is not None else None
        expected_j = self._ran * self._cost.expected_j
        if self._ran == 0:
            reservation.release()
        elif measurement is not None and measurement.source == "measured":
            reservation.commit(measurement.net_energy_j or 0.0, measured=True, expected_j=expected_j)
        else:
            reservation.commit(expected_j)

    def _settle_block(self) -> None:
        self.settle()
        if not self._fixed:
            each_s = (time.monotonic() - self._began_s) / self._ran
            most = _GROWTH * self._steps
            self._steps = max(1, min(most, int(self._counter.block_s / each_s) if each_s > 0 else most))


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepCost:
    expected_j: float
    upper_j: float
    duration_s: float | None = None

    @classmethod
    def of(cls, cost: "Costs | float | str") -> "_StepCost":
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


class _Counter:
    """The machine's counter, if the caller wants one and there is one."""

    def __init__(self, meter: "str | Meter | None", idle_w: float) -> None:
        self.block_s = BLOCK_S
        self._meter = meter
        self._auto = meter == "auto"
        self._idle_w = idle_w
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

        return Window("block", meter=None if self._auto else self._meter, idle=self._idle_w).begin()
