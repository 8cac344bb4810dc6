"""A device's memory limit as a configuration writes it: `64 kB`, `10 %` of full training, or none; or a table of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from budjoule.energy.errors import UsageError
from budjoule.energy.units import size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """At most so many bytes, or such a share of what full training takes; infinite where there is no limit."""

    size_bytes: float = math.inf
    share_frac: float = math.inf

    @property
    def unlimited(self) -> bool:
        """Whether there is none."""
        return math.isinf(self.size_bytes) and math.isinf(self.share_frac)

    def bytes_of(self, full_bytes: float) -> float:
        """The limit of a model whose full training takes `full_bytes`. [B]"""
        return min(self.size_bytes, self.share_frac * full_bytes)


def memory_limits(value: Any) -> Mapping[str, MemoryLimit]:
    """Read one limit for all, under the name "", or a table of limits by device.

    Raises:
        UsageError: A limit is none.
    """
    if not isinstance(value, dict):
        return {"": memory_limit(value)}
    if not value:
        raise UsageError("no device's memory is given; write one limit for all, or one a device")
    return {str(device): memory_limit(limit) for device, limit in value.items()}


def limits_of(limits: Mapping[str, MemoryLimit], devices: Iterable[str]) -> dict[str, MemoryLimit]:
    """Each device's limit.

    Raises:
        UsageError: A device has none, or there is one for a device that is not in the fleet.
    """
    if "" in limits:
        return dict.fromkeys(devices, limits[""])
    devices = list(devices)
    for odd in sorted({*devices} ^ {*limits}):
        what = f"does not say what {odd!r} has" if odd in devices else f"names {odd!r}, which is not in fleet.device"
        raise UsageError(f"training.memory {what}; write a limit for each of {', '.join(devices)}")
    return {device: limits[device] for device in devices}


def memory_limit(value: Any) -> MemoryLimit:
    """Read a limit.

    Raises:
        UsageError: It is neither a size nor a share, or not positive.

    >>> memory_limit("10 %").bytes_of(690_000), memory_limit("64 kB").bytes_of(690_000), memory_limit("none").unlimited
    (69000.0, 64000.0, True)
    """
    if value == "none":
        return MemoryLimit()
    if isinstance(value, str) and value.rstrip().endswith("%"):
        try:
            share = float(value.rstrip()[:-1]) / 100
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise UsageError(f"{value!r} is no share of full training; write one such as '10 %'")
        return MemoryLimit(share_frac=share)
    size = size_bytes(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    if not 0 < size < math.inf:
        raise UsageError(
            f"{value!r} is no memory limit; write a size such as '64 kB', a share such as '10 %', or 'none'"
        )
    return MemoryLimit(size_bytes=size)
