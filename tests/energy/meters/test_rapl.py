"""RAPL on trees of files: which zones are found, what they are called, what they add up to."""

import os
from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.rapl import find_zones, open_rapl, thermal_design_power_w


def test_rapl_adds_packages_and_dram_and_shows_the_cores(tree: Any) -> None:
    for socket in (0, 1):
        tree.zone(f"intel-rapl:{socket}", f"package-{socket}", 1_000_000)
        tree.zone(f"intel-rapl:{socket}:0", "core", 0)
        tree.zone(f"intel-rapl:{socket}:1", "dram", 500)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 4_000_000)
        tree.set("intel-rapl:0:0", 2_500_000)
        tree.set("intel-rapl:0:1", 500_500)
        tree.set("intel-rapl:1", 2_000_000)
        tree.set("intel-rapl:1:1", 250_500)
    assert m.energy_j == pytest.approx(3.0 + 0.5 + 1.0 + 0.25)
    assert m.source == "measured"
    assert m.domains["core-0"] == pytest.approx(2.5)
    assert set(m.summed) == {"package-0", "package-1", "dram-0", "dram-1"}
    assert m.energy_low_j < m.energy_j < m.energy_high_j


@pytest.mark.parametrize("nested", [False, True])
def test_rapl_finds_zones_by_name_wherever_they_lie_and_whatever_their_number(tree: Any, nested: bool) -> None:
    tree.zone("intel-rapl:3", "package-0", 0, nested=nested)
    tree.zone("intel-rapl:3:7", "dram", 0, nested=nested)
    meter = open_rapl(tree.root)
    assert [domain.name for domain in meter.domains] == ["package-0", "dram-0"]
    meter.close()


def test_rapl_tells_the_dies_of_a_package_apart(tree: Any) -> None:
    for number, name in enumerate(["package-0-die-0", "package-0-die-1", "package-1-die-0"]):
        tree.zone(f"intel-rapl:{number}", name, 0)
        tree.zone(f"intel-rapl:{number}:0", "dram", 0)
    with bj.measure() as m:
        for number in range(3):
            tree.set(f"intel-rapl:{number}", 1_000_000)
            tree.set(f"intel-rapl:{number}:0", 100_000)
    assert m.energy_j == pytest.approx(3.3)
    assert {"package-0-die-1", "dram-0-die-1", "dram-1-die-0"} <= set(m.domains)


def test_rapl_counts_a_package_of_the_mmio_tree_once(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    tree.zone("intel-rapl-mmio:0", "package-0", 0)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 5_000_000)
        tree.set("intel-rapl-mmio:0", 5_000_100)
    assert m.energy_j == pytest.approx(5.0)
    assert list(m.domains) == ["package-0"]


def test_rapl_uses_the_mmio_tree_where_it_is_the_only_one(tree: Any) -> None:
    tree.zone("intel-rapl-mmio:0", "package-0", 0)
    with bj.measure() as m:
        tree.set("intel-rapl-mmio:0", 2_000_000)
    assert m.energy_j == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("psys_uj", "total_j", "summed"), [(9_000_000, 9.0, ("psys",)), (0, 6.0, ("package-0", "dram-0"))]
)
def test_rapl_adds_psys_only_where_it_moved_as_much_as_the_packages(
    tree: Any, psys_uj: int, total_j: float, summed: tuple[str, ...]
) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    tree.zone("intel-rapl:0:0", "dram", 0)
    tree.zone("intel-rapl:1", "psys", 0)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 5_000_000)
        tree.set("intel-rapl:0:0", 1_000_000)
        tree.set("intel-rapl:1", psys_uj)
    assert m.energy_j == pytest.approx(total_j)
    assert m.summed == summed
    assert m.domains["psys"] == pytest.approx(psys_uj * 1e-6)
    assert ("psys" in summed) or any("psys left out" in note for note in m.notes)


def test_rapl_window_across_a_wrap_is_exact(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 262_143_328_850 - 1_500_000)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 500_000)
    assert m.energy_j == pytest.approx(2.0)


def test_rapl_window_that_ends_just_after_a_wrap_is_exact(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 262_143_328_850 - 3_000_000)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 0)
        at_the_wrap = m.read()
        tree.set("intel-rapl:0", 61)
    assert at_the_wrap.energy_j == pytest.approx(3.0)
    assert m.energy_j == pytest.approx(3.000061)
    assert m.energy_high_j < 100.0  # nothing hints at a wrap unseen


def test_rapl_core_of_amd_is_shown_and_never_summed(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from budjoule.energy.meters import rapl

    read = rapl.read_text
    monkeypatch.setattr(
        rapl, "read_text", lambda path: "vendor_id : AuthenticAMD" if path == "/proc/cpuinfo" else read(path)
    )
    tree.zone("intel-rapl:0", "package-0", 0)  # AMD's driver uses Intel's names
    tree.zone("intel-rapl:0:0", "core", 0)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 5_000_000)
        tree.set("intel-rapl:0:0", 300_000)
    assert (m.summed, m.energy_j) == (("package-0",), pytest.approx(5.0))
    assert m.domains["core-0"] == pytest.approx(0.3)
    assert m.energy_high_j >= 1.1 * m.energy_j  # its counters are partly modelled


def test_rapl_core_is_never_summed_where_its_package_is_missing(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    tree.zone("intel-rapl:1", "package-1", 0)
    tree.zone("intel-rapl:1:0", "core", 0)

    def opener(path: str, flags: int) -> int:
        return refuse(path, flags) if path.endswith("intel-rapl:1/energy_uj") else os.open(path, flags)

    meter = open_rapl(tree.root, opener=opener)
    assert [domain.name for domain in meter.domains if domain.counts] == ["package-0"]
    meter.close()


def test_rapl_follows_several_wraps_in_one_window(tree: Any, clock: Any) -> None:
    from budjoule.energy.windows.watch import Watch

    tree.zone("intel-rapl:0", "package-0", 0, range_uj=1_000_000_000)
    watch = Watch(open_rapl(tree.root), clock=clock, attended=False)
    begin, true_uj = watch.begin(), 0
    for _ in range(40):
        clock.now_s += watch.poll_s
        true_uj += 350_000_000
        tree.set("intel-rapl:0", true_uj % 1_000_000_000)
        watch.poll()
    end = watch.end()
    assert end.marks[0].total_j - begin.marks[0].total_j == pytest.approx(true_uj * 1e-6)
    assert end.marks[0].unsure_j == 0


def test_rapl_reset_is_a_lower_bound_with_a_wide_interval(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 90_000_000_000)
    with bj.measure() as m:
        tree.set("intel-rapl:0", 1_000)
    assert 0 <= m.energy_j <= 0.001
    assert m.energy_high_j > m.energy_j
    assert any("reset" in note for note in m.notes)


def test_rapl_counter_that_vanishes_without_a_reading_is_estimated_not_zero(tree: Any) -> None:
    folder = tree.zone("intel-rapl:0", "package-0", 90_000_000)
    with bj.measure() as m:
        (folder / "energy_uj").unlink()
    assert m.energy_j > 0
    assert m.source == "estimated"
    assert any("doctor" in note for note in m.notes)


def test_rapl_counter_that_vanishes_after_a_reading_is_a_lower_bound(tree: Any) -> None:
    folder = tree.zone("intel-rapl:0", "package-0", 90_000_000)
    window = bj.measure().begin()
    tree.set("intel-rapl:0", 95_000_000)
    assert window.read().energy_j == pytest.approx(5.0)
    (folder / "energy_uj").unlink()
    m = window.end()
    assert (m.source, m.energy_j) == ("measured", pytest.approx(5.0))
    assert m.energy_high_j > 5.0
    assert any("lower bound" in note for note in m.notes)


def test_rapl_file_replaced_by_a_rename_is_read_anew(tree: Any) -> None:
    folder = tree.zone("intel-rapl:0", "package-0", 1_000_000)
    with bj.measure() as m:
        (folder / "new").write_text("3000000\n")
        (folder / "new").replace(folder / "energy_uj")
    assert m.energy_j == pytest.approx(2.0)


def test_rapl_counter_that_does_not_step_says_so_in_the_interval(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    with bj.measure() as m:
        pass
    assert m.energy_j == 0
    assert m.energy_high_j >= 1000.0 * m.duration_s
    assert any("did not step" in note for note in m.notes)


def refuse(path: str, flags: int) -> int:
    raise PermissionError(13, "Permission denied", path)


def test_rapl_permission_denied_names_the_command_that_mends_it(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    with pytest.raises(MeterError, match=r"permission denied; run 'sudo chmod a\+r .*energy_uj'") as refused:
        open_rapl(tree.root, opener=refuse)
    assert str(tree.root) in str(refused.value)


def test_rapl_reads_what_it_may_and_names_what_it_may_not(tree: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    tree.zone("intel-rapl:0:0", "dram", 0)

    def opener(path: str, flags: int) -> int:
        return refuse(path, flags) if path.endswith("intel-rapl:0:0/energy_uj") else os.open(path, flags)

    meter = open_rapl(tree.root, opener=opener)
    assert [domain.name for domain in meter.domains] == ["package-0"]
    assert any("dram-0" in note and "chmod" in note for note in meter.notes)
    meter.close()


def test_rapl_without_a_tree_says_what_to_load(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="modprobe"):
        open_rapl(tmp_path)


def test_rapl_zones_reached_on_two_paths_are_one(tree: Any) -> None:
    real = tree.root / "devices" / "virtual" / "powercap" / "intel-rapl" / "intel-rapl:0"
    real.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "5"), ("max_energy_range_uj", "1000000")):
        (real / name).write_text(text)
    (real / "subsystem").symlink_to(tree.root / "class" / "powercap")
    folder = tree.root / "class" / "powercap"
    folder.mkdir(parents=True)
    (folder / "intel-rapl").symlink_to(real.parent)
    (folder / "intel-rapl:0").symlink_to(real)
    assert [zone.identity for zone in find_zones(tree.root)] == ["intel-rapl:0"]


def test_rapl_thermal_design_power_is_readable_without_the_counters(tree: Any) -> None:
    for socket in (0, 1):
        folder = tree.zone(f"intel-rapl:{socket}", f"package-{socket}", 0)
        (folder / "constraint_0_max_power_uw").write_text("85000000\n")
    assert thermal_design_power_w(tree.root) == pytest.approx(170.0)


@pytest.mark.parametrize(
    ("made_for_w", "set_to_w", "told_w"),
    [(28, 15, 15), (65, 4095, 65), (28, 45, 28), (None, 15, 15), (0, 15, 15), (None, 4095, None)],
)
def test_rapl_long_limit_is_the_lower_of_rating_and_setting(
    tree: Any, made_for_w: float | None, set_to_w: float, told_w: float | None
) -> None:
    folder = tree.zone("intel-rapl:0", "package-0", 0)
    for name, limit_w in (("max_power", made_for_w), ("power_limit", set_to_w)):
        if limit_w is not None:
            (folder / f"constraint_0_{name}_uw").write_text(f"{limit_w * 1_000_000}\n")
    assert thermal_design_power_w(tree.root) == told_w


@pytest.mark.parametrize("text", ["", "nonsense\n", "-\n"])
def test_rapl_counter_that_holds_no_number_is_left_out(tree: Any, text: str) -> None:
    tree.zone("intel-rapl:0", "package-0", 0)
    folder = tree.zone("intel-rapl:1", "package-1", 0)
    (folder / "energy_uj").write_text(text)
    meter = open_rapl(tree.root)
    assert [domain.name for domain in meter.domains] == ["package-0"]
    assert any("package-1" in note for note in meter.notes)
    meter.close()
