"""Energy in the log of a Lightning `Trainer`. Needs lightning."""

from collections.abc import Callable
from typing import Any

from budjoule.energy.callbacks.training_log import TrainingLog
from budjoule.energy.errors import UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters import Meter

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    raise UsageError("LightningEnergy needs lightning; install it with: pip install 'budjoule[lightning]'") from None


class LightningEnergy(Callback):  # type: ignore[misc, unused-ignore]
    """Measures what a Lightning `Trainer` spends in `fit` and logs it.

    ``Trainer(..., callbacks=[bj.LightningEnergy()])`` logs `measured_energy_j` (the run so far), `measured_step_energy_j` and
    `measured_power_w` (the last `log_every_n_steps` batches) and, at its end, each epoch's `measured_epoch_energy_j`; where
    no counter can be read the names begin with `estimated_`.

    The whole machine is measured, validation included, by the first process of each machine. `measurement` and `epochs` hold
    the finished windows with their intervals.

    Args:
        meter: As in `bj.measure`.
        require_measured: Refuse an estimate.
        synchronize: Called before both ends of the run and of each epoch, such as `torch.cuda.synchronize`.
        idle: As in `bj.measure`.
    """

    def __init__(
        self,
        *,
        meter: str | Meter | None = None,
        require_measured: bool = False,
        synchronize: Callable[[], object] | None = None,
        idle: Measurement | float | None = None,
    ) -> None:
        self._log = TrainingLog(meter=meter, require_measured=require_measured, synchronize=synchronize, idle=idle)
        self._figures: dict[str, float] = {}

    @property
    def measurement(self) -> Measurement | None:
        """The finished run."""
        return self._log.measurement

    @property
    def epochs(self) -> list[Measurement]:
        """The finished epochs."""
        return self._log.epochs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the run's window."""
        if trainer.local_rank == 0:
            self._log.begin()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Open an epoch's window."""
        if trainer.local_rank == 0:
            self._log.begin_epoch()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step; the meter is read as often as the logger writes."""
        self._log.step()
        if self._log.steps >= trainer.log_every_n_steps:
            self._figures = self._log.figures()
        if self._figures:
            pl_module.log_dict(self._figures, on_step=True, on_epoch=False, rank_zero_only=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the epoch's window and log it."""
        self._log.end_epoch()
        if figures := self._log.epoch_figures():
            pl_module.log_dict(figures, on_step=False, on_epoch=True, rank_zero_only=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close what is open."""
        self._log.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close what is open, also when training breaks off."""
        self._log.end()
