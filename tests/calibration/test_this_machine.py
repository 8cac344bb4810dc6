"""Laws of the datasheet: what the files say is taken, what they do not say is assumed and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from budjoule.calibration.this_machine import ASSUMED_LIMIT, ThisMachine, this_machine

CPUINFO = "model name\t: Example CPU\nvendor_id\t: {vendor}\ncpu family\t: {family}\ncpu MHz\t\t: 2500.0\nflags\t\t: {flags}\n"


@pytest.fixture
def describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ThisMachine]:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path / "sys"))

    def go(*, vendor: str = "Example", family: str = "1", flags: str = "fpu fma avx2", **options: Any) -> ThisMachine:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(CPUINFO.format(vendor=vendor, family=family, flags=flags))
        return this_machine(**{"threads": 4, "dram_bytes_per_s": 2e10, "cpuinfo": cpuinfo} | options)

    return go


def test_datasheet_comes_from_the_files(tmp_path: Path, describe: Callable[..., ThisMachine]) -> None:
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache/index3"
    cache.mkdir(parents=True)
    (cache / "size").write_text("8192K\n")
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "constraint_0_power_limit_uw").write_text("45000000\n")
    clock = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    clock.parent.mkdir()
    clock.write_text("4200000\n")
    machine = describe(idle_w=3.0)
    assert machine.title == "Example CPU"
    assert machine.spec.units == 4
    assert machine.spec.clock_hz == pytest.approx(4.2e9)
    assert machine.spec.cache_bytes == 8192 * 1024
    assert machine.spec.power_limit_w == pytest.approx(45.0)
    assert machine.spec.idle_w == 3.0
    assert machine.assumed == ()


@pytest.mark.parametrize(
    ("zone", "set_uw", "made_for_uw", "drawn_w", "limit_w"),
    [
        ("intel-rapl:0", 4_095_000_000, 65_000_000, None, 65.0),  # set to no limit
        ("intel-rapl:0", 4_095_000_000, 65_000_000, 90.0, 90.0),  # and drawing more, which that allows
        ("intel-rapl:0", 4_095_000_000, 0, None, None),
        ("intel-rapl-mmio:0", 15_000_000, 0, 9.0, 15.0),
    ],
)
def test_power_limit_is_one_that_the_processor_keeps(
    tmp_path: Path,
    describe: Callable[..., ThisMachine],
    zone: str,
    set_uw: int,
    made_for_uw: int,
    drawn_w: float | None,
    limit_w: float | None,
) -> None:
    folder = tmp_path / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "constraint_0_power_limit_uw").write_text(f"{set_uw}\n")
    (folder / "constraint_0_max_power_uw").write_text(f"{made_for_uw}\n")
    machine = describe(drawn_w=drawn_w)
    assert (ASSUMED_LIMIT in machine.assumed) == (limit_w is None)
    assert machine.spec.power_limit_w == pytest.approx(limit_w or 32.0)


def test_what_no_file_says_is_named(describe: Callable[..., ThisMachine]) -> None:
    machine = describe()
    for figure in ("last-level cache", "power limit", "idle power"):
        assert any(figure in text for text in machine.assumed), figure
    assert machine.spec.idle_w < machine.spec.power_limit_w


@pytest.mark.parametrize(
    ("flags", "vendor", "family", "flop"),
    [
        ("avx fma avx512f", "GenuineIntel", "6", 64),
        ("avx fma avx512f", "AuthenticAMD", "25", 32),
        ("avx fma avx512f", "AuthenticAMD", "26", 64),
        ("avx fma", "AuthenticAMD", "25", 32),
        ("avx", "GenuineIntel", "6", 16),
        ("asimd fp", "", "", 16),
        ("fpu", "", "", 8),
    ],
)
def test_flop_a_clock_follow_the_vector_unit(
    describe: Callable[..., ThisMachine], flags: str, vendor: str, family: str, flop: int
) -> None:
    assert describe(flags=flags, vendor=vendor, family=family).spec.flop_per_clock["fp32"] == flop


def test_real_machine_has_a_datasheet() -> None:
    machine = this_machine(threads=torch.get_num_threads(), dram_bytes_per_s=1e10)
    assert machine.spec.units == torch.get_num_threads()
    assert machine.title


@pytest.mark.parametrize(("drawn_w", "limit_w"), [(None, 32.0), (20.0, 32.0), (90.0, 99.0)])
def test_assumed_power_limit_allows_what_was_drawn(
    describe: Callable[..., ThisMachine], drawn_w: float | None, limit_w: float
) -> None:
    machine = describe(drawn_w=drawn_w)
    assert machine.spec.power_limit_w == pytest.approx(limit_w)
    assert ASSUMED_LIMIT in machine.assumed


@pytest.mark.parametrize(
    ("flags", "fp32", "bf16", "clock_hz"),
    [
        ("fma", 300e9, 300e9, 2.5e9),  # four threads of 32 FLOP a clock reach 320 GFLOP/s at most
        ("fma", 380e9, 300e9, 380e9 / 4 / 32 / 0.95),
        ("fma", 300e9, 900e9, 2.5e9),  # a unit that no flag names
        ("fma avx512_bf16", 300e9, 900e9, 900e9 / 4 / 64 / 0.95),
        ("avx512f amx_bf16 avx512_bf16", 300e9, 5e12, 2.5e9),
    ],
)
def test_a_clock_is_no_lower_than_its_products_need(
    tmp_path: Path, describe: Callable[..., ThisMachine], flags: str, fp32: float, bf16: float, clock_hz: float
) -> None:
    top = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    top.parent.mkdir(parents=True)
    top.write_text("2500000\n")
    machine = describe(flags=flags, product_flop_per_s={"fp32": fp32, "bf16": bf16})
    assert machine.spec.clock_hz == pytest.approx(clock_hz)
    assert any("pass their peak" in text for text in machine.assumed) == (clock_hz > 2.5e9)
