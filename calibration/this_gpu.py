"""This machine's GPU: what PyTorch and NVML say of it; what neither says is a similar GPU's figure, and named as assumed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from budjoule.calibration.this_machine import ThisMachine
from budjoule.energy.device import DeviceSpec

CORES_PER_UNIT = 8  # how many cores' work a streaming multiprocessor gets: enough to fill it
# nvmlClocksThrottleReasons: hardware slowdown (heat or power brake), software and hardware thermal slowdown.
HEAT = 0x08 | 0x20 | 0x40
SM_CLOCK = 1  # NVML_CLOCK_SM


class Board:
    """NVML's view of the GPU that PyTorch calls number 0. The two number GPUs differently, so that it is found by its UUID.

    Every answer is None where NVML is missing, does not know this GPU or does not know the question; no session stays open.

    Args:
        properties: `torch.cuda.get_device_properties` of the GPU.
        nvml: The module to ask; default `pynvml`, where it is installed.
    """

    def __init__(self, properties: Any, nvml: Any = None) -> None:
        if nvml is None:
            try:
                import pynvml as nvml  # type: ignore[import-untyped, no-redef, unused-ignore]
            except ImportError:
                nvml = None
        self._nvml = nvml
        self._uuid = f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else None
        self._times_hot = 0

    def power_limit_w(self) -> float | None:
        """The enforced power limit. [W]"""
        milliwatts = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else float(milliwatts) * 1e-3

    def top_clock_hz(self) -> float | None:
        """The highest clock of the streaming multiprocessors. [Hz]"""
        megahertz = self._ask("nvmlDeviceGetMaxClockInfo", SM_CLOCK)
        return float(megahertz) * 1e6 if megahertz else None

    def clock_hz(self) -> float | None:
        """Their clock now. [Hz]"""
        megahertz = self._ask("nvmlDeviceGetClockInfo", SM_CLOCK)
        return float(megahertz) * 1e6 if megahertz else None

    def throttle_count(self) -> int | None:
        """How often heat was seen to hold it back when this was asked."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if reasons is None:
            return None
        self._times_hot += bool(reasons & HEAT)
        return self._times_hot

    def processes(self) -> int | None:
        """How many processes compute on it, this one among them."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else len(found)

    def domain(self) -> str:
        """Its domain of the NVML meter; empty where NVML tells neither its energy nor its power."""
        told = [self._ask(f"nvmlDeviceGet{name}") for name in ("TotalEnergyConsumption", "PowerUsage")]
        number = self._ask("nvmlDeviceGetIndex")
        return "" if number is None or told == [None, None] else f"gpu-{number}"

    def driver(self) -> str:
        """The driver's version; empty where unknown."""
        version = self._session(lambda nvml: nvml.nvmlSystemGetDriverVersion())
        return version.decode() if isinstance(version, bytes) else str(version or "")

    def _ask(self, function: str, *arguments: Any) -> Any:
        return self._session(lambda nvml: getattr(nvml, function)(self._handle(nvml), *arguments))

    def _handle(self, nvml: Any) -> Any:
        if self._uuid is not None:
            return nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        if nvml.nvmlDeviceGetCount() != 1:
            raise LookupError("several GPUs, and PyTorch does not say which one it uses")
        return nvml.nvmlDeviceGetHandleByIndex(0)

    def _session(self, question: Callable[[Any], Any]) -> Any:
        nvml = self._nvml
        if nvml is None:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        try:
            return question(nvml)
        except (nvml.NVMLError, LookupError, AttributeError):
            return None
        finally:
            nvml.nvmlShutdown()


def this_gpu(
    properties: Any,
    *,
    like: DeviceSpec,
    dram_bytes_per_s: float,
    idle_w: float | None = None,
    board: Board | None = None,
) -> ThisMachine:
    """Describe the GPU.

    Args:
        properties: `torch.cuda.get_device_properties` of it.
        like: A similar GPU's datasheet, for what PyTorch does not tell.
        dram_bytes_per_s: Bandwidth that a large copy reached, where PyTorch does not tell the memory's clock. [B/s]
        idle_w: Power at rest, where a counter told it. [W]
        board: NVML's view of it.
    """
    assumed = ["lanes and FLOP a clock of a unit are the starting profile's"]
    memory_khz = getattr(properties, "memory_clock_rate", 0)
    bus_bits = getattr(properties, "memory_bus_width", 0)
    if memory_khz and bus_bits:
        dram_bytes_per_s = 2 * memory_khz * 1e3 * bus_bits / 8  # two transfers a clock
    clock_hz = getattr(properties, "clock_rate", 0) * 1e3 or (board.top_clock_hz() if board else None)
    if not clock_hz:
        assumed.append(f"clock {like.clock_hz / 1e6:.0f} MHz")
    cache_bytes = getattr(properties, "L2_cache_size", 0)
    if not cache_bytes:
        assumed.append(f"last-level cache {like.cache_bytes / 1e6:.0f} MB")
    limit_w = board.power_limit_w() if board else None
    if limit_w is None:
        assumed.append(f"power limit {like.power_limit_w:g} W")
    if idle_w is None:
        assumed.append(f"idle power {like.idle_w:g} W")
    spec = replace(
        like,
        units=properties.multi_processor_count,
        clock_hz=clock_hz or like.clock_hz,
        dram_bytes_per_s=dram_bytes_per_s,
        cache_bytes=float(cache_bytes or like.cache_bytes),
        memory_bytes=float(properties.total_memory),
        power_limit_w=limit_w or like.power_limit_w,
        idle_w=like.idle_w if idle_w is None else idle_w,
    )
    return ThisMachine(title=properties.name, spec=spec, assumed=tuple(assumed))
