"""Under what conditions a microbenchmark ran: the processor's clock and how often heat held it back, where the kernel tells."""

from budjoule.energy.meters.sysfs import read_number, sysfs_root


def clock_hz() -> float | None:
    """The fastest core's clock now, which is that of a core at work; None where the kernel does not tell. [Hz]"""
    clocks = [
        read_number(path) for path in (sysfs_root() / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    ]
    return max((clock * 1e3 for clock in clocks if clock), default=None)


def throttle_count() -> int | None:
    """How often heat has held a core or its package back since boot; None where the kernel does not count it."""
    folders = (sysfs_root() / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    counts = [
        read_number(folder / name) for folder in folders for name in ("core_throttle_count", "package_throttle_count")
    ]
    known = [count for count in counts if count is not None]
    return int(sum(known)) if known else None
