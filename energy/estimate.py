"""The `Estimate` noun: joules, seconds and an interval for one workload on one device, split by op and by module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from budjoule.energy.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from budjoule.energy.device import DeviceProfile

SCHEMA = "budjoule.estimate/1"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one run of a workload costs on a device: a model's number, never a counter's.

    Args:
        energy_j: Expected energy of one step. [J]
        energy_low_j: Lower end of the central 90 % interval. [J]
        energy_high_j: Upper end of the central 90 % interval. [J]
        idle_energy_j: The part of `energy_j` that the device would draw idle in the same time. [J]
        duration_s: Expected time of one step. [s]
        duration_low_s: Lower end of the central 90 % interval. [s]
        duration_high_s: Upper end of the central 90 % interval. [s]
        clock_hz: Clock the estimate holds for, after the power limit. [Hz]
        unruled_energy_frac: Share of the energy that rests on ops without a rule of their own.
        notes: What the reader should know: assumptions, coefficients that no run exercised.
    """

    work: Workload
    device: str
    status: str
    energy_j: float
    energy_low_j: float
    energy_high_j: float
    idle_energy_j: float
    duration_s: float
    duration_low_s: float
    duration_high_s: float
    clock_hz: float
    power_limited: bool
    unruled_energy_frac: float
    notes: tuple[str, ...]
    row_energy_j: np.ndarray = field(repr=False)
    row_duration_s: np.ndarray = field(repr=False)
    source: str = "estimated"

    @property
    def power_w(self) -> float:
        """Mean power of the step. [W]"""
        return self.energy_j / self.duration_s

    @property
    def flop(self) -> int:
        """Floating-point operations of the step."""
        return self.work.flop

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written by the step's ops, before any cache. [B]"""
        return self.work.moved_bytes

    @property
    def peak_memory_bytes(self) -> int:
        """The most that the step's tensors occupy at once; 0 where it is not known. [B]"""
        return self.work.peak_memory_bytes

    @property
    def mode(self) -> str:
        """`inference` or `training`."""
        return self.work.mode

    @property
    def precision(self) -> str:
        """The precision the model was typed to."""
        return self.work.precision

    @cached_property
    def by_op(self) -> list[dict[str, Any]]:
        """Rows `{name, calls, energy_j, duration_s, flop, moved_bytes}`, one an aten op, largest energy first."""
        return self._rows([op.name for op in self.work.ops])

    @cached_property
    def by_module(self) -> list[dict[str, Any]]:
        """The same rows, one a module that ran ops of its own; they add up to the total."""
        return self._rows([op.module for op in self.work.ops])

    def _rows(self, names: list[str]) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for name, op, energy_j, duration_s in zip(
            names, self.work.ops, self.row_energy_j, self.row_duration_s, strict=True
        ):
            row = rows.setdefault(
                name, {"name": name, "calls": 0, "energy_j": 0.0, "duration_s": 0.0, "flop": 0, "moved_bytes": 0}
            )
            row["calls"] += op.calls
            row["energy_j"] += float(energy_j)
            row["duration_s"] += float(duration_s)
            row["flop"] += op.flop * op.calls
            row["moved_bytes"] += op.moved_bytes * op.calls
        return sorted(rows.values(), key=lambda row: -row["energy_j"])

    def _repr_html_(self) -> str:
        from budjoule.energy.reports.notebook import estimate_fragment

        return estimate_fragment(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain data, ready for JSON."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "status": self.status,
            "model": self.work.model,
            "mode": self.mode,
            "precision": self.precision,
            "optimizer": self.work.optimizer,
            "clock_hz": self.clock_hz,
            "power_limited": self.power_limited,
            "source": self.source,
            "energy_j": self.energy_j,
            "energy_low_j": self.energy_low_j,
            "energy_high_j": self.energy_high_j,
            "idle_energy_j": self.idle_energy_j,
            "duration_s": self.duration_s,
            "duration_low_s": self.duration_low_s,
            "duration_high_s": self.duration_high_s,
            "power_w": self.power_w,
            "flop": self.flop,
            "moved_bytes": self.moved_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "unruled_energy_frac": self.unruled_energy_frac,
            "notes": list(self.notes),
            "by_op": self.by_op,
            "by_module": self.by_module,
        }


def estimate(
    model: "nn.Module | Callable[..., Any]",
    inputs: "Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]",
    *,
    device: "str | Path | DeviceProfile",
    mode: str = "inference",
    optimizer: str = "adamw",
    precision: str = "fp32",
    loss: "Callable[[Any], Tensor] | None" = None,
    fused: bool = False,
    clock_hz: float | None = None,
    power_limit_w: float | None = None,
) -> Estimate:
    """Trace a model and predict its cost: `predict(trace(model, inputs), device)`.

    Args:
        model: Any module, on the CPU, on a GPU or on the meta device, or a callable step that uses modules; it is not run for real.
        inputs: A tensor, a tuple or a dict of tensors (real, fake or meta), shapes as the model takes them.
        device: A profile's name, the path of a profile, or a `DeviceProfile`.
        mode: `inference`, or `training` for forward, backward and optimizer.
        optimizer: Name of the optimizer that a training step runs.
        precision: fp32, tf32, fp16, bf16, or bf16-mixed and fp16-mixed for autocast.
        loss: From the model's output to a scalar, in training; the default is the output's own loss.
        fused: As `torch.compile` runs it: element-wise chains in one kernel.
        clock_hz: Locked clock; the default leaves it to the governor, up to the profile's highest. [Hz]
        power_limit_w: Board power limit, instead of the device's own. [W]

    Raises:
        UsageError: The model, the inputs or the device cannot be used as given.
    """
    from budjoule.energy.predict import predict
    from budjoule.energy.trace import trace

    work = trace(model, inputs, mode=mode, optimizer=optimizer, precision=precision, loss=loss, fused=fused)
    return predict(work, device=device, clock_hz=clock_hz, power_limit_w=power_limit_w)
