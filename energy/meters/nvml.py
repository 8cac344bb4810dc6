"""NVML: the energy counters of NVIDIA's GPUs, or their power integrated where a GPU has no counter.

Needs the package nvidia-ml-py (module `pynvml`), which is imported when the meter is opened.
"""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain

_LIMIT_W = 2000.0
# The sensor is updated every 20 to 100 ms and is within 5 % on steady loads; on A100 and H100 it looks at only a quarter of
# the time, so that short or periodic loads can be further off: Yang, Adamek, Armour, Part-time power measurements,
# SC 2024, arXiv:2312.02741.
_UPDATE_S = 0.1
_ERROR_FRAC = 0.05
_PART_TIME = re.compile(r"\b(A100X?|H100|H200|GH200|A800|H800)\b")
_PART_TIME_FRAC = 0.25
_POLL_S = 0.05
_UNIT_J = 0.001
# Answers in mJ and in mW.
_READS: dict[Literal["energy", "power"], str] = {
    "energy": "nvmlDeviceGetTotalEnergyConsumption",
    "power": "nvmlDeviceGetPowerUsage",
}
# What the driver leaves on Linux, under WSL and on Jetson.
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")


class _Gpu(NamedTuple):
    domain: Domain
    number: int


class NvmlMeter:
    """Reads every GPU that answers. Open it with `open_nvml`."""

    name = "nvml"
    source = "measured"

    def __init__(self, nvml: Any, gpus: Sequence[_Gpu], notes: Sequence[str]) -> None:
        self.domains = tuple(gpu.domain for gpu in gpus)
        self.notes = tuple(notes)
        counted = all(gpu.domain.kind == "energy" for gpu in gpus)
        how = "NVML energy counters" if counted else "NVML, power integrated where a GPU has no energy counter"
        self.method = f"{how}, whole boards, all processes of the machine's NVIDIA GPUs"
        self._nvml = nvml
        self._gpus = tuple(gpus)
        self._connect()

    def read(self) -> list[float | None]:
        """Raw joules since the driver was loaded, or watts, of each GPU."""
        if os.getpid() != self._pid:  # the driver's session does not survive a fork
            _ask(self._nvml, "nvmlInit")
            self._connect()
        return [self._read(gpu, handle) for gpu, handle in zip(self._gpus, self._handles, strict=True)]

    def close(self) -> None:
        """End the session with the driver."""
        _ask(self._nvml, "nvmlShutdown")

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._handles = [_ask(self._nvml, "nvmlDeviceGetHandleByIndex", gpu.number) for gpu in self._gpus]

    def _read(self, gpu: _Gpu, handle: Any) -> float | None:
        milli = None if handle is None else _ask(self._nvml, _READS[gpu.domain.kind], handle)
        return None if milli is None else milli * 1e-3


def open_nvml(nvml: Any = None) -> NvmlMeter:
    """Open the GPUs' counters.

    Args:
        nvml: The module to read through; default `pynvml`.

    Raises:
        MeterError: The package or the driver is missing, or no GPU tells its energy or power.
    """
    nvml = nvml or _library()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise MeterError(
            f"NVML does not start ({error}); see whether 'nvidia-smi' works, and install the driver if not"
        ) from None
    try:
        gpus, notes = _find(nvml)
    except nvml.NVMLError as error:
        nvml.nvmlShutdown()
        raise MeterError(f"NVML cannot list the GPUs ({error}); see whether 'nvidia-smi' works") from None
    if not gpus:
        nvml.nvmlShutdown()
        raise MeterError("; ".join(notes) or "NVML finds no GPU; see whether 'nvidia-smi' lists one")
    return NvmlMeter(nvml, gpus, notes)


def _library() -> Any:
    """The module `pynvml`, which costs more to import than all of this package: only where there is a driver for it."""
    if sys.platform == "linux" and "pynvml" not in sys.modules and not any(map(os.path.exists, _DEVICES)):
        raise MeterError(f"there is no NVIDIA driver (none of {', '.join(_DEVICES)}); install it if there is a GPU")
    try:
        import pynvml
    except ImportError:
        raise MeterError(
            "the package nvidia-ml-py is not installed; 'pip install nvidia-ml-py' if there is an NVIDIA GPU"
        ) from None
    return pynvml


def _find(nvml: Any) -> tuple[list[_Gpu], list[str]]:
    gpus: list[_Gpu] = []
    notes: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            notes.append(f"gpu-{index} left out: it does not answer ({error}); see what 'nvidia-smi' says of it")
            continue
        name = _text(_ask(nvml, "nvmlDeviceGetName", handle) or "GPU")
        gpu = f"gpu-{index} ({name})"
        # Refused even where it answers: the number would be of a board that others share.
        if _virtual(nvml, handle):
            notes.append(f"{gpu} left out: a virtual GPU (vGPU) is not supported, only the host can read its board")
            continue
        kind, split = _kind(nvml, handle), _split(nvml, handle)
        if kind is None:
            instances = "; MIG is on, and an instance has no counter of its own: measure on the host" if split else ""
            notes.append(f"{gpu} left out: it tells neither energy nor power{instances}")
            continue
        if split:
            notes.append(
                f"{gpu} is split (MIG): its number covers the board, all instances together; one instance cannot be measured"
            )
        part_time = bool(_PART_TIME.search(name))
        if part_time:
            notes.append(f"the sensor of {gpu} looks at a part of the time only: repeat short or periodic work")
        gpus.append(_Gpu(_domain(index, kind, part_time), index))
    return gpus, notes


def _virtual(nvml: Any, handle: Any) -> bool:
    mode = _ask(nvml, "nvmlDeviceGetVirtualizationMode", handle)
    return mode is not None and mode == getattr(nvml, "NVML_GPU_VIRTUALIZATION_MODE_VGPU", 2)


def _split(nvml: Any, handle: Any) -> bool:
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)  # current, pending
    return mode is not None and bool(mode[0])


def _kind(nvml: Any, handle: Any) -> Literal["energy", "power"] | None:
    return next((kind for kind, function in _READS.items() if _ask(nvml, function, handle) is not None), None)


def _domain(index: int, kind: Literal["energy", "power"], part_time: bool) -> Domain:
    return Domain(
        name=f"gpu-{index}",
        kind=kind,
        limit_w=_LIMIT_W,
        unit_j=_UNIT_J,
        update_s=_UPDATE_S,
        poll_s=None if kind == "energy" else _POLL_S,
        sampled_frac=_PART_TIME_FRAC if part_time else 1.0,
        error_low_frac=_ERROR_FRAC,
        error_high_frac=_ERROR_FRAC,
    )


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """What NVML answers, None where this GPU or this driver does not know the question."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
