"""The `Observation` noun: a workload that ran on a device, and what it cost there."""

from dataclasses import dataclass

from budjoule.energy.errors import UsageError
from budjoule.energy.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measured run of a workload.

    Args:
        workload: What ran, as `trace` returns it.
        energy_j: Measured energy of one step; None if only time was measured. [J]
        duration_s: Measured time of one step. [s]
        clock_hz: Clock during the run; None for the device's top clock. [Hz]
        power_limit_w: Power limit during the run, where one was set. [W]
        group: Runs that share a group share errors, such as those of one model family.
    """

    workload: Workload
    duration_s: float
    energy_j: float | None = None
    clock_hz: float | None = None
    power_limit_w: float | None = None
    group: str = ""

    def __post_init__(self) -> None:
        for name in ("duration_s", "energy_j", "clock_hz", "power_limit_w"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(
                    f"{name} of an observation of {self.workload.model} is {value}; it must be a positive number"
                )
        if not self.workload.ops:
            raise UsageError(f"an observation's workload ({self.workload.model}) has no ops; trace the model again")
