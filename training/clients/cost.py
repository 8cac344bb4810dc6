"""What one local block costs on a device, from the estimator: the joules above the idle floor, their upper end, the time."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from budjoule.energy.device import DeviceProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """An estimate of one local block.

    A budget joule is above the floor that the device draws anyway, so the idle share of the estimate is taken off; what
    the floor costs while only training keeps the device awake is booked apart, under `idle`.

    Args:
        energy_j: Expected energy above the idle floor. [J]
        energy_high_j: Upper end of the estimate's central 90 % interval, above the expected floor. [J]
        idle_w: The idle floor. [W]
        duration_s: Expected time. [s]
    """

    energy_j: float
    energy_high_j: float
    idle_w: float
    duration_s: float


class BlockCosts:
    """Costs of a model's local block by batch size and device; each workload is traced once.

    Args:
        model: What is trained.
        example: One input and its label, from which batches are shaped. Shapes (1, ...) and (1,).
        optimizer: Name of the optimizer.
        local_steps: Steps in a block.
        micro_batch: Examples that go through the model at once; all of a batch by default. Adding their gradients up is
            charged like an optimizer's step each.
    """

    def __init__(
        self,
        model: "nn.Module",
        example: "Tensor",
        *,
        optimizer: str,
        local_steps: int,
        micro_batch: int | None = None,
    ) -> None:
        self._model = model
        self._example = example
        self._optimizer = optimizer
        self._local_steps = local_steps
        self._micro_batch = micro_batch
        self._workload = lru_cache(maxsize=None)(self._trace)
        self.cost = lru_cache(maxsize=None)(self._cost)

    def _trace(self, batch_size: int, precision: str) -> Any:
        import torch

        from budjoule.energy.trace import trace

        batch = self._example.new_empty((batch_size, *self._example.shape[1:]), device="meta")
        labels = torch.empty(batch_size, dtype=torch.int64, device="meta")
        return trace(
            self._model,
            batch,
            mode="training",
            optimizer=self._optimizer,
            precision=precision,
            loss=lambda scores: torch.nn.functional.cross_entropy(scores, labels),
        )

    def _cost(self, device: "str | DeviceProfile", batch_size: int, precision: str = "fp32") -> BlockCost:
        """The cost of a block of `batch_size` examples a step on a device, in a precision that `trace` knows.

        Raises:
            UsageError: The device is unknown.
        """
        from budjoule.energy.predict import predict

        size = min(self._micro_batch or batch_size, batch_size)
        passes = self._local_steps * -(-batch_size // size)
        step = predict(self._workload(size, precision), device=device)
        return BlockCost(
            energy_j=max(step.energy_j - step.idle_energy_j, 0.0) * passes,
            energy_high_j=max(step.energy_high_j - step.idle_energy_j, 0.0) * passes,
            idle_w=step.idle_energy_j / step.duration_s,
            duration_s=step.duration_s * passes,
        )
