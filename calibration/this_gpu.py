"""This machine's GPU: what PyTorch and NVML say of it; what neither says is a similar GPU's figure, and named as assumed."""

from dataclasses import replace
from typing import Any

from budjoule.calibration.this_machine import ThisMachine
from budjoule.energy.device import DeviceSpec

CORES_PER_UNIT = 8  # how many cores' work a streaming multiprocessor gets: enough to fill it


def this_gpu(
    properties: Any,
    *,
    like: DeviceSpec,
    dram_bytes_per_s: float,
    idle_w: float | None = None,
    power_limit_w: float | None = None,
) -> ThisMachine:
    """Describe the GPU.

    Args:
        properties: `torch.cuda.get_device_properties` of it.
        like: A similar GPU's datasheet, for what PyTorch does not tell.
        dram_bytes_per_s: Bandwidth that a large copy reached, where PyTorch does not tell the memory's clock. [B/s]
        idle_w: Power at rest, where a counter told it. [W]
        power_limit_w: The board's limit, where NVML told it. [W]
    """
    assumed = ["lanes and FLOP a clock of a unit are the starting profile's"]
    memory_khz = getattr(properties, "memory_clock_rate", 0)
    bus_bits = getattr(properties, "memory_bus_width", 0)
    if memory_khz and bus_bits:
        dram_bytes_per_s = 2 * memory_khz * 1e3 * bus_bits / 8  # two transfers a clock
    clock_khz = getattr(properties, "clock_rate", 0)
    if not clock_khz:
        assumed.append(f"clock {like.clock_hz / 1e6:.0f} MHz")
    cache_bytes = getattr(properties, "L2_cache_size", 0)
    if not cache_bytes:
        assumed.append(f"last-level cache {like.cache_bytes / 1e6:.0f} MB")
    if power_limit_w is None:
        assumed.append(f"power limit {like.power_limit_w:g} W")
    if idle_w is None:
        assumed.append(f"idle power {like.idle_w:g} W")
    spec = replace(
        like,
        units=properties.multi_processor_count,
        clock_hz=clock_khz * 1e3 or like.clock_hz,
        dram_bytes_per_s=dram_bytes_per_s,
        cache_bytes=float(cache_bytes or like.cache_bytes),
        memory_bytes=float(properties.total_memory),
        power_limit_w=power_limit_w or like.power_limit_w,
        idle_w=like.idle_w if idle_w is None else idle_w,
    )
    return ThisMachine(title=properties.name, spec=spec, assumed=tuple(assumed))


def power_limit_w(nvml: Any) -> float | None:
    """The power limit of the machine's only GPU; None where NVML does not tell, or sees several. [W]"""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        if nvml.nvmlDeviceGetCount() != 1:
            return None
        return float(nvml.nvmlDeviceGetEnforcedPowerLimit(nvml.nvmlDeviceGetHandleByIndex(0))) * 1e-3  # mW
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
