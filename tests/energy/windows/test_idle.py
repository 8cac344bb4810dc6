"""Idle power: what a window added to the machine at rest, told beside what it cost in all."""

import math

import pytest

import budjoule as bj
from budjoule.energy.errors import UsageError
from budjoule.energy.measurement import Idle, Measurement
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.replay import ReplayMeter


def window(energy_j: float, *, idle: Idle | None, error_j: float = 2.0, duration_s: float = 10.0) -> Measurement:
    return Measurement(
        energy_j=energy_j,
        energy_low_j=max(0.0, energy_j - error_j),
        energy_high_j=energy_j + error_j,
        duration_s=duration_s,
        domains={"package-0": energy_j},
        summed=("package-0",),
        source="measured",
        method="test",
        idle=idle,
    )


def test_net_energy_is_gross_less_idle_and_both_are_told() -> None:
    m = window(100.0, idle=Idle(3.0, 2.5, 3.5))
    assert (m.energy_j, m.net_energy_j) == (100.0, 70.0)
    assert (m.net_energy_low_j, m.net_energy_high_j) == (98.0 - 35.0, 102.0 - 25.0)
    assert {
        "idle_w": 3.0,
        "net_energy_j": 70.0,
        "net_energy_low_j": 63.0,
        "net_energy_high_j": 77.0,
    }.items() <= m.to_dict().items()


def test_net_energy_is_never_negative_and_unknown_without_idle() -> None:
    assert window(10.0, idle=Idle(3.0, 2.5, 3.5)).net_energy_j == 0.0
    bare = window(10.0, idle=None)
    assert (bare.net_energy_j, bare.net_energy_low_j, bare.net_energy_high_j, bare.to_dict()["idle_w"]) == (
        None,
        None,
        None,
        None,
    )


def test_idle_measured_at_rest_is_taken_off_later_windows() -> None:
    meter = ReplayMeter([Domain(name="package-0")], [[0.0], [5.0], [5.0], [25.0]])
    idle = bj.measure_idle("20 ms", meter=meter)
    assert (idle.label, idle.energy_j) == ("idle", 5.0)
    with bj.measure(meter=meter, idle=idle) as m:
        pass
    assert m.energy_j == 20.0
    assert m.net_energy_j == pytest.approx(max(0.0, 20.0 - idle.power_w * m.duration_s))
    assert m.net_energy_low_j is not None
    assert m.net_energy_high_j is not None
    assert m.net_energy_low_j <= m.net_energy_j <= m.net_energy_high_j


def test_idle_in_watts_is_taken_off_too() -> None:
    with bj.measure(meter=ReplayMeter([Domain(name="a")], [[0.0], [9.0]]), idle=0.0) as m:
        pass
    assert m.net_energy_j == m.energy_j == 9.0


def test_idle_of_other_domains_gives_no_net_energy_and_says_why() -> None:
    idle = bj.measure_idle(0.01, meter=ReplayMeter([Domain(name="package-0")], [[0.0], [5.0]]))
    with bj.measure(meter=ReplayMeter([Domain(name="gpu-0")], [[0.0], [9.0]]), idle=idle) as m:
        pass
    assert m.energy_j == 9.0
    assert m.net_energy_j is None
    assert any("idle was measured on package-0 and this window on gpu-0" in note for note in m.notes)


def test_idle_of_a_busy_machine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([(0.0, 0.0), (5.0, 10.0)])
    monkeypatch.setattr("budjoule.energy.meters.load.Processor.busy_s", lambda self: next(busy))
    meter = ReplayMeter([Domain(name="package-0")], [[0.0], [5.0]])
    idle = bj.measure_idle(1.0, meter=meter, wait=lambda duration_s: None)
    assert idle.notes[0].startswith("the machine was 50% busy")


@pytest.mark.parametrize("idle", [-1.0, math.inf, math.nan])
def test_idle_power_that_is_none_is_refused(idle: float) -> None:
    with pytest.raises(UsageError, match="idle power"):
        bj.measure(idle=idle)


def test_idle_needs_a_length() -> None:
    with pytest.raises(UsageError, match="0"):
        bj.measure_idle(0)
    with pytest.raises(UsageError, match="no length"):
        bj.measure(idle=window(0.0, idle=None, error_j=0.0, duration_s=0.0))


def test_idle_waits_as_long_as_asked() -> None:
    waited: list[float] = []
    bj.measure_idle("2 min", meter=ReplayMeter([Domain(name="a")], [[0.0]]), wait=waited.append)
    assert waited == [120.0]
