"""AMD GPUs: the energy counters of Instinct and Radeon boards, through AMD's library.

Needs the package amdsmi (as ROCm installs it) and the amdgpu driver; it is imported when the meter is opened. GPUs inside a
processor have no counter of their own here: their energy is in the processor's package.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain

_DRIVER = "/sys/module/amdgpu"
_LIMIT_W = 2000.0
# One count is 15.3 uJ. The board's own telemetry is taken to be as good as NVIDIA's; AMD publishes no error for it.
_UNIT_J = 16e-6
_UPDATE_S = 0.1
_ERROR_FRAC = 0.05
# Two dies, of which the first one's counter holds both.
_DUAL_DIE = "MI250"


class AmdMeter:
    """Reads every GPU that has an energy counter. Open it with `open_amd`."""

    name = "amd"
    source = "measured"
    method = "energy counters of the AMD GPUs (amdsmi), whole boards, all processes of the machine"

    def __init__(self, amdsmi: Any, gpus: dict[int, Any], notes: Sequence[str]) -> None:
        self.domains = tuple(_domain(number) for number in gpus)
        self.notes = tuple(notes)
        self._amdsmi = amdsmi
        self._handles = tuple(gpus.values())

    def read(self) -> list[float | None]:
        """Raw joules of each GPU since its driver was loaded. [J]"""
        return [_energy_j(self._amdsmi, handle) for handle in self._handles]

    def close(self) -> None:
        """End the session with the library."""
        self._amdsmi.amdsmi_shut_down()


def open_amd(amdsmi: Any = None) -> AmdMeter:
    """Open the GPUs' counters.

    Args:
        amdsmi: The module to read through; default `amdsmi`.

    Raises:
        MeterError: The driver or the package is missing, or no GPU tells its energy.
    """
    amdsmi = amdsmi or _library()
    try:
        amdsmi.amdsmi_init()
        handles = list(amdsmi.amdsmi_get_processor_handles())
    except amdsmi.AmdSmiException as error:
        raise MeterError(f"amdsmi does not start ({_line(error)}); see whether 'amd-smi list' works") from None
    gpus: dict[int, Any] = {}
    notes: list[str] = []
    for number, handle in enumerate(handles):
        name = _name(amdsmi, handle)
        if _DUAL_DIE in name and number % 2:
            notes.append(
                f"amd-gpu-{number} ({name}) is the second die of its board: its energy is in amd-gpu-{number - 1}"
            )
        elif _energy_j(amdsmi, handle) is None:
            notes.append(f"amd-gpu-{number} ({name}) left out: it has no energy counter")
        else:
            gpus[number] = handle
    if not gpus:
        amdsmi.amdsmi_shut_down()
        raise MeterError("; ".join(notes) or "amdsmi finds no GPU; see whether 'amd-smi list' lists one")
    return AmdMeter(amdsmi, gpus, notes)


def _library() -> Any:
    if "amdsmi" not in sys.modules and not os.path.exists(_DRIVER):  # noqa: PTH110 - not pathlib, which takes its time
        raise MeterError(f"there is no AMD GPU driver ({_DRIVER}); install it if there is an AMD GPU")
    try:
        with redirect_stdout(io.StringIO()):  # it prints where its shared library is missing
            import amdsmi
    except ImportError:
        raise MeterError(
            "the package amdsmi is not installed; 'pip install amdsmi' of the installed ROCm's version"
        ) from None
    except Exception as error:  # it raises what comes, from KeyError to OSError, where library and package do not fit
        raise MeterError(
            f"the package amdsmi does not load ({_line(error)}); install the one of the installed ROCm's version"
        ) from None
    return amdsmi


def _domain(number: int) -> Domain:
    return Domain(
        name=f"amd-gpu-{number}",
        limit_w=_LIMIT_W,
        unit_j=_UNIT_J,
        update_s=_UPDATE_S,
        error_low_frac=_ERROR_FRAC,
        error_high_frac=_ERROR_FRAC,
    )


def _energy_j(amdsmi: Any, handle: Any) -> float | None:
    try:
        count = amdsmi.amdsmi_get_energy_count(handle)
    except amdsmi.AmdSmiException:
        return None
    ticks = count.get("energy_accumulator", count.get("power"))  # the key's name before ROCm 6.2
    return float(ticks * count["counter_resolution"]) * 1e-6 if ticks else None  # uJ; a GPU without a counter reads 0


def _name(amdsmi: Any, handle: Any) -> str:
    try:
        return str(amdsmi.amdsmi_get_gpu_asic_info(handle)["market_name"])
    except amdsmi.AmdSmiException:
        return "GPU"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
