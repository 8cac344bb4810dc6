"""Interchange with pyJoules: our measurements as its `EnergyTrace`, for its handlers; its `Device` as one of our meters.

pyJoules counts in microjoules and names domains `package_0`, `nvidia_gpu_0`. It is imported inside the functions.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import MeterError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.rapl import find_zones
from budjoule.energy.meters.sysfs import read_number, sysfs_path

if TYPE_CHECKING:
    from pyJoules.energy_trace import EnergyTrace

_MICRO, _MILLI = 1e-6, 1e-3
_RAPL_ERROR_FRAC = 0.1
_GPU_LIMIT_W = 2000.0


def to_trace(measurements: Iterable[Measurement]) -> "EnergyTrace":
    """Measurements as a pyJoules trace, one sample each: label as tag, domains in microjoules.

    All domains are there, those inside another one included, as in pyJoules; `Measurement.summed` says which to add up.

    Args:
        measurements: In the order in which the samples shall stand.
    """
    from pyJoules.energy_trace import EnergySample, EnergyTrace

    return EnergyTrace(
        [
            EnergySample(
                each.begin_unix_s or 0.0,
                each.label,
                each.duration_s,
                {_their_name(name): energy_j / _MICRO for name, energy_j in each.domains.items()},
            )
            for each in measurements
        ]
    )


class PyJoulesMeter:
    """A pyJoules device, its raw numbers kept by our books: wraps followed, NVML's millijoules not taken for microjoules.

    Args:
        device: A device of pyJoules or of a user's own; configured for all its domains if it is not yet.
        unit_j: Joules in one unit of a device that is neither RAPL nor NVML; pyJoules' convention is 1e-6. [J]

    Raises:
        MeterError: The device has no domain.
    """

    name = "pyjoules"
    source = "measured"
    notes: tuple[str, ...] = ()

    def __init__(self, device: Any, *, unit_j: float = _MICRO) -> None:
        if getattr(device, "_configured_domains", None) is None:
            device.configure()
        domains = device.get_configured_domains()
        if not domains:
            raise MeterError(
                f"pyJoules device {type(device).__name__} has no domain; configure it with those to measure"
            )
        names = [str(domain) for domain in domains]
        ours = {_our_name(name) for name in names}
        self.domains = tuple(_domain(_our_name(name), ours) for name in names)
        self.method = f"pyJoules device {type(device).__name__}, all processes of the machine"
        self._device = device
        self._units_j = [
            _MILLI if name.startswith("nvidia_gpu_") else _MICRO if _is_rapl(name) else unit_j for name in names
        ]

    def read(self) -> Sequence[float | None]:
        """Raw joules of each domain. [J]"""
        readings = self._device.get_energy()
        return [float(reading) * unit_j for reading, unit_j in zip(readings, self._units_j, strict=True)]

    def close(self) -> None:
        """pyJoules has nothing to close."""


def _is_rapl(name: str) -> bool:
    return re.fullmatch(r"(package|core|uncore|dram)_\d+", name) is not None


def _our_name(name: str) -> str:
    if _is_rapl(name):
        return name.replace("_", "-")
    return name.replace("nvidia_gpu_", "gpu-")


def _their_name(name: str) -> str:
    return name.replace("gpu-", "nvidia_gpu_") if name.startswith("gpu-") else name.replace("-", "_")


def _domain(name: str, names: set[str]) -> Domain:
    kind, _, number = name.partition("-")
    if kind == "gpu":
        return Domain(name=name, limit_w=_GPU_LIMIT_W, update_s=0.1, error_low_frac=0.05, error_high_frac=0.05)
    if kind not in ("package", "core", "uncore", "dram"):
        return Domain(name=name)
    inside = kind in ("core", "uncore")
    return Domain(
        name=name,
        parent=f"package-{number}" if inside and f"package-{number}" in names else None,
        counts=not inside,
        range_j=_range_j(kind, f"package-{number}"),
        update_s=0.001,
        error_low_frac=_RAPL_ERROR_FRAC,
        error_high_frac=_RAPL_ERROR_FRAC,
    )


def _range_j(kind: str, package: str) -> float | None:
    """Where the counter wraps, which pyJoules does not tell: from the zone it reads."""
    zones = find_zones(sysfs_path())
    packages = {zone.identity for zone in zones if zone.name == package}
    for zone in zones:
        if (kind == "package" and zone.identity in packages) or (zone.name == kind and zone.parent in packages):
            range_uj = read_number(f"{zone.path}/max_energy_range_uj")
            return range_uj * _MICRO if range_uj else None
    return None
