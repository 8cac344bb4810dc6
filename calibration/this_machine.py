"""This machine's datasheet: what `/proc`, `/sys` and psutil say of its processor, with what they do not say named as assumed."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from budjoule.energy.device import DeviceSpec
from budjoule.energy.meters.rapl import thermal_design_power_w
from budjoule.energy.meters.sysfs import read_number, read_text, sysfs_root

# fp32 FLOP a clock of one core: vector width x 2 (multiply and add) x 2 pipes. Vendors' optimisation manuals.
FLOP_PER_CLOCK = (("avx512f", 64), ("fma", 32), ("avx", 16), ("asimd", 16), ("neon", 16))
# Zen 4 splits each 512-bit multiply-add over its 256-bit pipes: Software Optimization Guide for the AMD Zen4 Microarchitecture, 57647.
HALF_AVX512 = ("AuthenticAMD", "25")
# bf16 FLOP over fp32 FLOP a clock: AMX tiles do 1024; pairs of bf16 in each lane. Intel's optimization manual, 248966.
BF16_OVER_FP32 = (("amx_bf16", 16), ("avx512_bf16", 2))
ASSUMED_W_PER_CORE = 8.0
ASSUMED_IDLE_FRAC = 0.12
BEST_FRAC = 0.95  # share of the peak that no large product passes
HEADROOM = 1.1  # an unknown power limit over the most that was drawn, at full clock
ASSUMED_LIMIT = f"power limit {ASSUMED_W_PER_CORE:g} W a core, or what the heaviest microbenchmark draws"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisMachine:
    """The processor's datasheet figures and how sure they are.

    Args:
        title: The processor's name.
        spec: Its figures.
        assumed: Figures that no file on this machine gave.
    """

    title: str
    spec: DeviceSpec
    assumed: tuple[str, ...]


def this_machine(
    *,
    threads: int,
    dram_bytes_per_s: float,
    idle_w: float | None = None,
    drawn_w: float | None = None,
    product_flop_per_s: Mapping[str, float] | None = None,
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> ThisMachine:
    """Describe the processor.

    Args:
        threads: Cores that PyTorch uses.
        dram_bytes_per_s: Bandwidth that a large copy reached. [B/s]
        idle_w: Power at rest, where a counter told it. [W]
        drawn_w: The most it drew, where a counter told it: its limit is no lower. [W]
        product_flop_per_s: Rate that a large product reached, by precision: virtual machines tell a clock that is too low.
        cpuinfo: Where the processor's flags are listed.
    """
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    flags = _field(text, "flags", "Features").split()
    per_clock = next((flop for flag, flop in FLOP_PER_CLOCK if flag in flags), 8)
    if (_field(text, "vendor_id"), _field(text, "cpu family")) == HALF_AVX512:
        per_clock = min(per_clock, 32)
    assumed = []
    clock_hz = _clock_hz(text)
    if clock_hz is None:
        clock_hz = 3e9
        assumed.append("clock 3 GHz")
    bf16 = next((factor for flag, factor in BF16_OVER_FP32 if flag in flags), 1)
    flop_per_clock = {
        "fp32": per_clock,
        "bf16": bf16 * per_clock,
        "fp16": per_clock,
        "int8": 2 * per_clock,
        "fp64": per_clock / 2,
    }
    rates = product_flop_per_s or {}
    # of bf16 only what a flag told is known
    reached = (rates[p] / flop_per_clock[p] for p in ("fp32", "bf16") if p in rates and (p == "fp32" or bf16 > 1))
    least_hz = max(reached, default=0.0) / threads / BEST_FRAC
    if least_hz > clock_hz:
        assumed.append(f"clock {least_hz / 1e9:.2f} GHz, without which its products would pass their peak")
        clock_hz = least_hz
    cache_bytes = _last_cache_bytes()
    if cache_bytes is None:
        cache_bytes = 2e6 * threads
        assumed.append("last-level cache 2 MB a core")
    told_w = thermal_design_power_w()
    if told_w is None:
        limit_w = max(ASSUMED_W_PER_CORE * threads, HEADROOM * (drawn_w or 0.0))
        assumed.append(ASSUMED_LIMIT)
    else:
        limit_w = max(told_w, drawn_w or 0.0)  # boards that let the processor draw more than it is made for are common
    if idle_w is None:
        idle_w = ASSUMED_IDLE_FRAC * limit_w
        assumed.append(f"idle power {100 * ASSUMED_IDLE_FRAC:.0f} % of the limit")
    spec = DeviceSpec(
        kind="cpu",
        units=threads,
        lanes=max(1, per_clock // 4),
        clock_hz=clock_hz,
        flop_per_clock=flop_per_clock,
        dram_bytes_per_s=dram_bytes_per_s,
        cache_bytes=cache_bytes,
        memory_bytes=float(psutil.virtual_memory().total),
        power_limit_w=limit_w,
        idle_w=idle_w,
    )
    title = _field(text, "model name", "Model") or platform.processor() or platform.machine()
    return ThisMachine(title=title, spec=spec, assumed=tuple(assumed))


def _field(text: str, *names: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def _clock_hz(text: str) -> float | None:
    top = read_number(sysfs_root() / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if top:
        return top * 1e3
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    if frequency and (frequency.max or frequency.current):
        return float(frequency.max or frequency.current) * 1e6
    listed = _field(text, "cpu MHz")
    return float(listed) * 1e6 if listed else None


def _last_cache_bytes() -> float | None:
    folder = sysfs_root() / "devices/system/cpu/cpu0/cache"
    sizes = [read_text(path / "size") for path in sorted(folder.glob("index*"))]
    found = [float(size.rstrip("K")) * 1024 for size in sizes if size and size.rstrip("K").isdigit()]
    return max(found, default=None)
