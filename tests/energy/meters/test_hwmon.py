"""Power rails on trees of files: Jetson's layouts, other boards, ACPI power meters."""

import os
from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.hwmon import open_hwmon
from budjoule.energy.windows.watch import Watch


def chip(root: Path, number: int, name: str, **files: object) -> Path:
    folder = root / "class" / "hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    for key, value in ({"name": name} | files).items():
        (folder / key).write_text(f"{value}\n")
    return folder


def jetpack4(root: Path, device: str, folder: str, rails: dict[str, int]) -> Path:
    path = root / "bus" / "i2c" / "drivers" / "ina3221x" / device / folder
    path.mkdir(parents=True)
    for number, (label, milliwatts) in enumerate(rails.items()):
        (path / f"rail_name_{number}").write_text(f"{label}\n")
        (path / f"in_power{number}_input").write_text(f"{milliwatts}\n")
        (path / f"in_power{number}_trigger_input").write_text(f"{milliwatts}\n")
        (path / f"in_voltage{number}_input").write_text("5000\n")
    return path


def orin_nano(root: Path) -> Path:
    rails = {1: ("VDD_IN", 5000, 1000), 2: ("VDD_CPU_GPU_CV", 5000, 400), 3: ("VDD_SOC", 5000, 200)}
    files: dict[str, object] = {"in7_label": "sum of shunt voltages", "in7_input": 12}
    for number, (label, millivolts, milliamperes) in rails.items():
        files |= {f"in{number}_label": label, f"in{number}_input": millivolts, f"curr{number}_input": milliamperes}
    return chip(root, 3, "ina3221", **files)


def energies_j(root: Path, clock: Any, duration_s: float = 1.0) -> tuple[dict[str, float], tuple[str, ...]]:
    from budjoule.energy.windows.choose import Choice
    from budjoule.energy.windows.result import result

    watch = Watch(open_hwmon(root), clock=clock, attended=False)
    begin = watch.begin()
    clock.now_s += duration_s
    m = result("", Choice(watch, (), 0.0), begin, watch.end())
    assert m.energy_j == pytest.approx(sum(m.domains[name] for name in m.summed))
    return m.domains, m.summed


def test_hwmon_counts_the_rail_that_feeds_the_board_and_shows_those_inside(tree: Any, clock: Any) -> None:
    orin_nano(tree.root)
    domains, summed = energies_j(tree.root, clock)
    assert domains == {
        "VDD_IN": pytest.approx(5.0),
        "VDD_CPU_GPU_CV": pytest.approx(2.0),
        "VDD_SOC": pytest.approx(1.0),
    }
    assert summed == ("VDD_IN",)


def test_hwmon_adds_disjoint_rails_where_none_feeds_the_board(tree: Any, clock: Any) -> None:
    for number, labels in enumerate([("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("NC", "VDDQ_VDD2_1V8AO")]):
        files: dict[str, object] = {}
        for channel, label in enumerate(labels, start=1):
            files |= {f"in{channel}_label": label, f"in{channel}_input": 1000 * channel, f"curr{channel}_input": 1000}
        chip(tree.root, number, "ina3221", **files)
    domains, summed = energies_j(tree.root, clock)
    assert "NC" not in domains
    assert summed == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert domains["VDDQ_VDD2_1V8AO"] == pytest.approx(2.0)
    assert any("disjoint" in note for note in open_hwmon(tree.root).notes)


def test_hwmon_takes_the_sum_of_an_ina3221s_currents_for_no_rail(tree: Any, clock: Any) -> None:
    files: dict[str, object] = {"curr4_input": 1200, "in7_input": 12, "in7_label": "sum of shunt voltages"}
    for channel in (1, 2, 3):
        files |= {f"in{channel}_label": f"RAIL{channel}", f"in{channel}_input": 5000, f"curr{channel}_input": 400}
        files |= {f"in{channel + 3}_input": 5000}  # a shunt's; a high one, so that its product would show
    chip(tree.root, 0, "ina3221", **files)
    domains, summed = energies_j(tree.root, clock)
    assert domains == {f"RAIL{channel}": pytest.approx(2.0) for channel in (1, 2, 3)}
    assert summed == ("RAIL1", "RAIL2", "RAIL3")


@pytest.mark.parametrize("folder", ["iio:device0", "iio_device"])
def test_hwmon_reads_the_rails_of_jetpack_4_in_milliwatts(tree: Any, clock: Any, folder: str) -> None:
    jetpack4(tree.root, "6-0040", folder, {"POM_5V_IN": 2500, "POM_5V_GPU": 300, "POM_5V_CPU": 700})
    domains, summed = energies_j(tree.root, clock, 2.0)
    assert domains == {
        "POM_5V_IN": pytest.approx(5.0),
        "POM_5V_GPU": pytest.approx(0.6),
        "POM_5V_CPU": pytest.approx(1.4),
    }
    assert summed == ("POM_5V_IN",)


def test_hwmon_adds_the_rails_of_both_monitors_of_jetpack_4(tree: Any, clock: Any) -> None:
    path = jetpack4(tree.root, "1-0040", "iio:device0", {"GPU": 1000, "CPU": 2000, "NC": 9000})
    jetpack4(tree.root, "1-0041", "iio:device1", {"CV": 500, "CPU": 250})
    (path / "rail_name_0").unlink()
    domains, summed = energies_j(tree.root, clock)
    assert domains == {
        "ina3221-1-0040-0": pytest.approx(1.0),
        "CPU": pytest.approx(2.0),
        "CV": pytest.approx(0.5),
        "CPU@iio:device1": pytest.approx(0.25),
    }
    assert set(summed) == set(domains)


@pytest.mark.parametrize(("name", "file"), [("ina226", "power1_input"), ("power_meter", "power1_average")])
def test_hwmon_reads_power_in_microwatts(tree: Any, clock: Any, name: str, file: str) -> None:
    chip(tree.root, 0, name, **{file: 12_500_000})
    domains, summed = energies_j(tree.root, clock, 2.0)
    assert domains == {summed[0]: pytest.approx(25.0)}


def test_hwmon_integrates_by_the_trapezoid_between_polls(tree: Any, clock: Any) -> None:
    folder = chip(tree.root, 0, "ina226", power1_input=10_000_000)
    watch = Watch(open_hwmon(tree.root), clock=clock, attended=False)
    begin = watch.begin()
    clock.now_s += 1.0
    (folder / "power1_input").write_text("20000000\n")
    watch.poll()
    clock.now_s += 1.0
    end = watch.end()
    assert end.marks[0].total_j - begin.marks[0].total_j == pytest.approx(15.0 + 20.0)


def test_hwmon_leaves_chips_that_feed_no_board_alone(tree: Any) -> None:
    chip(tree.root, 0, "amdgpu", power1_average=30_000_000)
    chip(tree.root, 1, "coretemp", temp1_input=40_000)
    with pytest.raises(MeterError, match="no power rail"):
        open_hwmon(tree.root)


def test_hwmon_rails_of_one_name_stay_apart(tree: Any, clock: Any) -> None:
    for number in (0, 1):
        chip(tree.root, number, "ina226", power1_input=1_000_000, power1_label="RAIL")
    domains, _ = energies_j(tree.root, clock)
    assert sorted(domains) == ["RAIL", "RAIL@hwmon1"]


def test_hwmon_permission_denied_names_the_remedy(tree: Any) -> None:
    orin_nano(tree.root)

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(MeterError, match=r"sudo chmod a\+r .*curr1_input"):
        open_hwmon(tree.root, opener=refuse)

    def partly(path: str, flags: int) -> int:
        return refuse(path, flags) if path.endswith("curr3_input") else os.open(path, flags)

    meter = open_hwmon(tree.root, opener=partly)
    assert [domain.name for domain in meter.domains] == ["VDD_IN", "VDD_CPU_GPU_CV"]
    assert "chmod" in meter.notes[0]


def test_hwmon_stands_in_where_there_is_no_other_counter(tree: Any) -> None:
    orin_nano(tree.root)
    with bj.measure() as m:
        sum(range(100_000))
    assert (m.source, m.summed) == ("measured", ("VDD_IN",))
    assert m.power_w == pytest.approx(5.0, rel=0.2)
