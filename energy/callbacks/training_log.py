"""The energy of a training run as numbers for its log: in all, a step, an epoch. Knows no framework."""

from collections.abc import Callable

from budjoule.energy.measure import measure
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters import Meter
from budjoule.energy.windows.window import Window


class TrainingLog:
    """Windows around a run and its epochs. The names of its figures say whether they are measured or estimated.

    Args:
        meter: As in `measure`.
        require_measured: Refuse an estimate.
        synchronize: Called before both ends of the run and of each epoch, such as `torch.cuda.synchronize`.
        idle: As in `measure`: then the finished measurements know their net energy.
    """

    def __init__(
        self,
        *,
        meter: str | Meter | None = None,
        require_measured: bool = False,
        synchronize: Callable[[], object] | None = None,
        idle: Measurement | float | None = None,
    ) -> None:
        self.epochs: list[Measurement] = []
        self.measurement: Measurement | None = None
        self._new: Callable[[str], Window] = lambda label: measure(
            label, meter=meter, require_measured=require_measured, synchronize=synchronize, idle=idle
        )
        self._run: Window | None = None
        self._epoch: Window | None = None
        self._steps = 0
        self._last: Measurement | None = None
        self._told = 0

    @property
    def steps(self) -> int:
        """Steps since the figures were last taken."""
        return self._steps

    def begin(self) -> None:
        """The run begins; windows that one before it left open are given up.

        Raises:
            MeterError: The meter cannot be had.
        """
        self.epochs, self.measurement, self._last, self._steps, self._told = [], None, None, 0, 0
        self._run = self._epoch = None
        self._run = self._new("training").begin()

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self._epoch = self._new(f"epoch {len(self.epochs) + 1}").begin()

    def step(self) -> None:
        """A step has ended."""
        self._steps += 1

    def end_epoch(self) -> None:
        """The epoch ends; nothing if none is open."""
        if self._epoch is not None:
            self.epochs.append(self._epoch.end())
            self._epoch = None

    def end(self) -> None:
        """The run ends, also early; nothing if it has."""
        self.end_epoch()
        if self._run is not None:
            self.measurement, self._run = self._run.end(), None

    def figures(self) -> dict[str, float]:
        """What there is to log: the run so far, a step since these figures were last taken, an epoch that ended since.

        The keys are `measured_energy_j`, `measured_step_energy_j`, `measured_power_w` and `measured_epoch_energy_j`, or
        the same with `estimated_`.
        """
        if self._run is None:
            return {}
        now, last = self._run.read(), self._last
        energy_j = now.energy_j - (last.energy_j if last else 0.0)
        duration_s = now.duration_s - (last.duration_s if last else 0.0)
        figures = {f"{now.source}_energy_j": now.energy_j}
        if self._steps and duration_s > 0:
            figures[f"{now.source}_step_energy_j"] = energy_j / self._steps
            figures[f"{now.source}_power_w"] = energy_j / duration_s
        self._last, self._steps = now, 0
        return figures | self.epoch_figures()

    def epoch_figures(self) -> dict[str, float]:
        """The energy of the last epoch, once."""
        if self._told == len(self.epochs):
            return {}
        self._told = len(self.epochs)
        return {f"{self.epochs[-1].source}_epoch_energy_j": self.epochs[-1].energy_j}
