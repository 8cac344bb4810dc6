"""A budget on a command that knows nothing of it: joules are held ahead of what the meters say, and it is told when to stop.

The command is asked to end while what is left still pays for its ending, and has to end when that is spent. Reservations
roll over: the next is held before it is needed, so that others who share the ledger never spend what this command will.
"""

from dataclasses import dataclass

from budjoule.energy.errors import BudgetExhausted
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters.meter import LIMIT_W
from budjoule.energy.units import show
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.ledger.reservation import Reservation

SLICE_S = 5.0  # so much is held ahead: a commit that is safe from power cuts takes about 4 ms
GRACE_SHARE = 0.1  # the ending never holds back more of what there is to spend
_FIRST_SHARE = 0.2
_SHORTEST_S, _LONGEST_S = 0.02, 0.5  # between two looks
_REACT_S = 0.05  # from a look until a signal has done its work
_RATE_S = 0.015  # power is judged over at least so long, and two updates of the slowest counter
_FALL = 0.1  # power rises at once and falls by so much of the way a look


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the guard found.

    Args:
        wait_s: When to look again, at the latest. [s]
        stopping: The command must be asked to end, if it has not been.
        over: What its ending may cost or take is spent: it must end now.
        spent_j: What it has spent. [J]
        left_j: What it may still spend, its ending included; others may spend of it too. [J]
        power_w: Its power of late; None before it is known. [W]
    """

    wait_s: float
    stopping: bool
    over: bool
    spent_j: float
    left_j: float
    power_w: float | None


class Guard:
    """Holds a command to what a ledger can pay. `begin` before it starts, `look` while it runs, `finish` when it has ended.

    Args:
        ledger: Pays for it.
        grace_s: How long its ending may take, once it is asked to. [s]
        lag_s: How old a reading of the meter can be. [s]
        unit_j: The smallest change that the meter shows. [J]
        most_w: More than this the machine cannot draw: looks come so often that nothing held is overspent by a sudden load,
            down to 20 ms between two. [W]
    """

    def __init__(
        self, ledger: Ledger, *, grace_s: float, lag_s: float = 0.0, unit_j: float = 0.0, most_w: float = LIMIT_W
    ):
        self.reason = ""
        self._ledger = ledger
        self._grace_s = grace_s
        self._lag_s = lag_s
        self._unit_j = unit_j
        self._held: Reservation | None = None
        self._most_w = most_w
        self._most_j = 0.0
        self._spent_j = self._booked_j = 0.0
        self._power_w: float | None = None
        self._rated_s = self._rated_j = 0.0
        self._asked_s: float | None = None

    @property
    def spent_j(self) -> float:
        """What the command has spent, as far as was looked. [J]"""
        return self._spent_j

    def begin(self) -> None:
        """Hold the first joules.

        Raises:
            BudgetExhausted: There are none, or the battery is below its floor.
        """
        self._most_j = self._ledger.remaining_j
        if self._ledger.exhausted:
            raise BudgetExhausted(
                f"nothing is left of the budget of {show(self._ledger.budget_j, 'J')}; raise it, or wait until it comes back"
            )
        self._held = self._ledger.reserve(_FIRST_SHARE * self._most_j)

    def look(self, now: Measurement) -> Look:
        """Take a reading, and say what it means for the command."""
        held, power_w = self._note(now), self._power(now)
        ahead_j = power_w * (self._lag_s + _REACT_S) + self._unit_j
        ending_j = min(power_w * self._grace_s, GRACE_SHARE * self._most_j)
        if self._asked_s is None and self._spent_j - self._booked_j + ahead_j + ending_j > held.upper_j:
            held = self._go_on(held, now, ahead_j + ending_j)
        stopping = self._asked_s is not None
        free_j = held.upper_j - (self._spent_j - self._booked_j) - ahead_j
        grace_s = self._grace_s - (now.duration_s - self._asked_s) if self._asked_s is not None else _LONGEST_S
        ample_s = (free_j if stopping else free_j - ending_j) / self._most_w
        return Look(
            wait_s=max(min(ample_s, grace_s, _LONGEST_S), _SHORTEST_S),
            stopping=stopping,
            over=stopping and (free_j <= 0 or grace_s <= 0),
            spent_j=self._spent_j,
            left_j=max(free_j + ahead_j, 0.0) + (0.0 if stopping else self._ledger.remaining_j),
            power_w=self._power_w,
        )

    def finish(self, whole: Measurement) -> None:
        """Book what the command cost in all."""
        held = self._note(whole)
        held.commit(self._spent_j - self._booked_j, measured=whole.source == "measured")
        self._booked_j = self._spent_j

    def _note(self, now: Measurement) -> Reservation:
        if self._held is None:
            raise RuntimeError("the guard has not begun")
        energy_j = now.energy_j if now.net_energy_j is None else now.net_energy_j
        self._spent_j = max(self._spent_j, energy_j)
        length_s = now.duration_s - self._rated_s
        if length_s >= max(_RATE_S, 2 * self._lag_s):
            power_w = (self._spent_j - self._rated_j) / length_s
            before_w = self._power_w or 0.0
            self._power_w = max(power_w, before_w + _FALL * (power_w - before_w))
            self._rated_s, self._rated_j = now.duration_s, self._spent_j
        return self._held

    def _power(self, now: Measurement) -> float:
        """Its power of late, or since its beginning where it is younger than a rate. [W]"""
        if self._power_w is not None:
            return self._power_w
        return self._spent_j / now.duration_s if now.duration_s > 0 else 0.0

    def _go_on(self, held: Reservation, now: Measurement, least_j: float) -> Reservation:
        """Hold the next joules; where there are too few, hold what there is for its ending."""
        power_w = self._power(now)
        for least_here_j in (least_j, 0.0):
            try:
                self._held = self._ledger.roll_over(
                    held,
                    self._spent_j - self._booked_j,
                    least_j + SLICE_S * power_w,
                    measured=now.source == "measured",
                    least_j=least_here_j,
                )
            except BudgetExhausted as error:
                self._asked_s = now.duration_s
                self.reason = str(error)
            else:
                self._booked_j = self._spent_j
                break
        if self._asked_s is not None and self._held is not held:
            self.reason = f"what is left of the budget pays for its ending at {show(power_w, 'W')}, and no more"
        return self._held or held
