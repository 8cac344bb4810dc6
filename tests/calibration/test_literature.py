"""Laws of the profiles that no run stands behind: wide intervals, rates that the datasheet allows, and what they leave out is said."""

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.energy.device import profile_paths
from budjoule.energy.workload import Workload

LITERATURE = [name for name, _ in profile_paths() if bj.load_profile(name).status == "literature"]
HOSTS = [name for name in LITERATURE if name != "wise-rf"]


@pytest.fixture(scope="module")
def works() -> dict[str, Workload]:
    with torch.device("meta"):
        net = nn.Sequential(
            nn.Conv2d(16, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.GELU(),
            nn.Flatten(2),
            nn.Linear(1024, 1024),
            nn.Softmax(-1),
        )
        x = torch.empty(16, 16, 32, 32)
    return {
        "inference": bj.trace(net, x),
        "training": bj.trace(net, x, mode="training", optimizer="sgd"),
        "bf16": bj.trace(net, x, precision="bf16"),
    }


def test_every_class_of_device_of_the_field_is_there() -> None:
    assert {"xeon-platinum-8480", "ryzen-7-7840u", "raspberry-pi-5", "snapdragon-8-gen-2", "wise-rf"} <= set(LITERATURE)


@pytest.mark.parametrize("name", LITERATURE)
def test_interval_admits_that_no_run_was_seen(name: str, works: dict[str, Workload]) -> None:
    for work in works.values():
        e = bj.predict(work, device=name)
        assert e.energy_high_j / e.energy_j > 1.6
        assert e.duration_high_s / e.duration_s > 1.5
        assert any("no run on this device" in note for note in e.notes)


@pytest.mark.parametrize("name", HOSTS)
def test_rates_are_those_that_the_datasheet_allows(name: str, works: dict[str, Workload]) -> None:
    spec = bj.load_profile(name).spec
    for key, precision in (("inference", "fp32"), ("bf16", "bf16")):
        work = works[key]
        e = bj.predict(work, device=name)
        # an fp32 convolution may take the tf32 unit
        peak = max(spec.peak_flop_per_clock(p) for p in (precision, "tf32")) * spec.units * spec.clock_hz
        assert e.flop / e.duration_s < peak
        assert spec.idle_w < e.power_w <= 1.02 * spec.power_limit_w


def test_newer_process_needs_fewer_joules_a_flop(works: dict[str, Workload]) -> None:
    energy = {name: bj.predict(works["inference"], device=name).energy_j for name in HOSTS}
    assert energy["ryzen-7-7840u"] < energy["cpu-generic"]
    assert energy["snapdragon-8-gen-2"] < energy["raspberry-pi-5"]


def test_radio_inference_costs_three_femtojoules_a_flop_of_its_products(works: dict[str, Workload]) -> None:
    for key in ("inference", "bf16"):
        e = bj.predict(works[key], device="wise-rf")
        assert e.energy_j == pytest.approx(3.0e-15 * e.flop, rel=1e-6)
        left_out = {row["name"]: row["energy_j"] for row in e.by_op if not row["flop"]}
        assert left_out
        assert sum(left_out.values()) < 1e-6 * e.energy_j


def test_radio_inference_says_what_it_leaves_out(works: dict[str, Workload]) -> None:
    notes = " ".join(bj.predict(works["inference"], device="wise-rf").notes)
    assert "matrix products" in notes
    assert "leaves out" in notes
    assert "training" not in notes
    assert any("training is outside" in note for note in bj.predict(works["training"], device="wise-rf").notes)
