"""Apple silicon: the energy counters of its processor, GPU, neural engine and memory, which need no root.

Needs the package zeus-apple-silicon (macOS only), which reads them through IOReport; it is imported when the meter is opened.
"""

import sys
from typing import Any

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain

# The field of each domain. Whether the GPU's counter holds its SRAM is not documented: it is shown, never summed.
_FIELDS = {
    "cpu": "cpu_total_mj",
    "gpu": "gpu_mj",
    "gpu-sram": "gpu_sram_mj",
    "ane": "ane_mj",
    "dram": "dram_mj",
}
_SHOWN = ("gpu-sram",)
_LIMIT_W = 500.0
_UNIT_J = 0.001
_UPDATE_S = 0.01
# Apple's powermetrics says of the same counters that they are estimated and may be inaccurate, without a figure; 20 % is
# what the worst of RAPL's modelled domains was found to be off by.
_ERROR_FRAC = 0.2


class AppleMeter:
    """Reads the counters of one Apple processor. Open it with `open_apple`."""

    name = "apple"
    source = "measured"
    method = "energy counters of the Apple processor (IOReport), all processes of the machine, without its screen"
    notes = ("Apple's counters are models of its own, not sensors: the interval is wide",)

    def __init__(self, monitor: Any, names: tuple[str, ...]) -> None:
        self.domains = tuple(_domain(name) for name in names)
        self._monitor = monitor
        self._names = names

    def read(self) -> list[float | None]:
        """Raw joules of each domain. [J]"""
        metrics = self._monitor.get_cumulative_energy()
        return [_energy_j(metrics, name) for name in self._names]

    def close(self) -> None:
        """Nothing is open."""


def open_apple(library: Any = None) -> AppleMeter:
    """Open the processor's counters.

    Args:
        library: The module to read through; default `zeus_apple_silicon`.

    Raises:
        MeterError: This is no Apple silicon, the package is missing, or it finds no counter.
    """
    if library is None:
        if sys.platform != "darwin":
            raise MeterError("this is not a Mac")
        try:
            import zeus_apple_silicon as library  # type: ignore[import-not-found, no-redef, unused-ignore]
        except ImportError:
            raise MeterError("the package zeus-apple-silicon is not installed; pip install 'budjoule[apple]'") from None
    try:
        monitor = library.AppleEnergyMonitor()
        metrics = monitor.get_cumulative_energy()
    except RuntimeError as error:
        raise MeterError(f"the Apple processor's counters cannot be read ({error}); is this Apple silicon?") from None
    names = tuple(name for name in _FIELDS if _energy_j(metrics, name) is not None)
    if not set(names) - set(_SHOWN):
        raise MeterError("the Apple processor tells no energy that zeus-apple-silicon knows; try a newer version of it")
    return AppleMeter(monitor, names)


def _domain(name: str) -> Domain:
    return Domain(
        name=name,
        counts=name not in _SHOWN,
        limit_w=_LIMIT_W,
        unit_j=_UNIT_J,
        update_s=_UPDATE_S,
        error_low_frac=_ERROR_FRAC,
        error_high_frac=_ERROR_FRAC,
    )


def _energy_j(metrics: Any, name: str) -> float | None:
    energy_mj = getattr(metrics, _FIELDS[name])
    return None if energy_mj is None else float(energy_mj) * 1e-3
