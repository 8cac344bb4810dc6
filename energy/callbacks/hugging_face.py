"""Energy in the log of a Hugging Face `Trainer`. Needs transformers."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from budjoule.energy.callbacks.training_log import TrainingLog
from budjoule.energy.errors import UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters import Meter

try:
    from transformers import TrainerCallback
except ImportError:
    raise UsageError(
        "TrainerEnergy needs transformers; install it with: pip install 'budjoule[transformers]'"
    ) from None


class TrainerEnergy(TrainerCallback):  # type: ignore[misc]
    """Measures what a `Trainer` spends and adds it to what it logs.

    ``Trainer(..., callbacks=[bj.TrainerEnergy()])`` puts `measured_energy_j` (the run so far), `measured_step_energy_j` and
    `measured_power_w` (since the last log) and, after an epoch, `measured_epoch_energy_j` into every log; where no counter
    can be read the names begin with `estimated_`. They are in `trainer.state.log_history` and on the console; `first(trainer)`
    puts the callback before those that report elsewhere (TensorBoard, ...), so that they see them too.

    The whole machine is measured, evaluation included, by the first process of each machine. `measurement` and `epochs` hold
    the finished windows with their intervals. A `Trainer` tells nobody that training broke off: `close` then ends them, and
    so does the block of ``with bj.TrainerEnergy() as energy: ...``.

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

    def first(self, trainer: Any) -> "TrainerEnergy":
        """Stand before the trainer's other callbacks, added to them if it is not yet there."""
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(each for each in callbacks if each is not self)]
        return self

    @property
    def measurement(self) -> Measurement | None:
        """The finished run."""
        return self._log.measurement

    @property
    def epochs(self) -> list[Measurement]:
        """The finished epochs."""
        return self._log.epochs

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the run's window."""
        if state.is_local_process_zero:
            self._log.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open an epoch's window."""
        if state.is_local_process_zero:
            self._log.begin_epoch()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        self._log.step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the epoch's window."""
        self._log.end_epoch()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Add the energy to what is logged."""
        figures = self._log.figures()
        if logs is not None:
            logs.update(figures)
        if state.log_history:  # the trainer has put its copy there already
            state.log_history[-1].update(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close what is open."""
        self.close()

    def close(self) -> None:
        """End what is open, such as after an exception: `measurement` and `epochs` hold it as far as it came. May be repeated."""
        self._log.end()

    def __enter__(self) -> "TrainerEnergy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
