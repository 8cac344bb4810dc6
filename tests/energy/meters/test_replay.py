"""Recordings as meters: row after row, or a file of `measure --csv` in its own time."""

from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.replay import RECORDING, ReplayMeter, open_replay
from budjoule.energy.windows.choose import Choice
from budjoule.energy.windows.live import CsvLog, between
from budjoule.energy.windows.result import result
from budjoule.energy.windows.watch import Watch

RECORDED = [[0.0, 0.0], [10.0, 4.0], [40.0, 10.0]]


def test_replay_refuses_rows_that_do_not_fit() -> None:
    with pytest.raises(MeterError, match="row 1"):
        ReplayMeter([Domain(name="a")], [[1.0], [1.0, 2.0]])
    with pytest.raises(MeterError, match="empty"):
        ReplayMeter([Domain(name="a")], [])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """10 J, then 30 J, as `measure --csv` writes them."""
    domains = [Domain(name="package-0"), Domain(name="core-0", parent="package-0", counts=False)]
    window = bj.measure(meter=ReplayMeter(domains, RECORDED)).begin()
    readings = [window.read(), window.end()]
    with CsvLog(tmp_path / "power.csv", force=False) as log:
        for before, now in zip([None, readings[0]], readings, strict=True):
            log(between(before, now))
    return tmp_path / "power.csv"


def test_recording_plays_in_its_own_time_and_stands_still_after(recording: Path, clock: Any) -> None:
    meter = open_replay(recording, clock=clock)
    assert [domain.name for domain in meter.domains] == ["recording", "package-0", "core-0"]
    first_s, last_s = meter._times_s[1:]
    assert meter.read() == [0.0, 0.0, 0.0]
    clock.now_s += first_s / 2
    assert meter.read() == pytest.approx([5.0, 5.0, 2.0])
    clock.now_s += first_s / 2
    assert meter.read() == pytest.approx([10.0, 10.0, 4.0], rel=1e-6)
    clock.now_s += last_s
    assert meter.read() == pytest.approx([40.0, 40.0, 10.0])


def test_recording_is_a_meter_that_says_what_it_is(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECORDING, str(recording))
    with bj.measure(meter="replay") as m:
        pass
    assert (m.method, m.summed, m.source) == (f"replay of {recording}", ("recording",), "measured")
    assert any("not what this machine drew" in note for note in m.notes)


@pytest.mark.parametrize(("source", "low_j", "high_j"), [("measured", 80.0, 120.0), ("estimated", 20.0, 500.0)])
def test_recording_has_the_interval_of_the_worst_meter_since_it_keeps_none(
    source: str, low_j: float, high_j: float, tmp_path: Path, clock: Any
) -> None:
    (tmp_path / "x.csv").write_text(f"elapsed_s,energy_j,source\n1,100,{source}\n")
    watch = Watch(open_replay(tmp_path / "x.csv", clock=clock), clock=clock, attended=False)
    begin = watch.begin()
    clock.now_s += 2.0
    m = result("", Choice(watch, (), 0.0), begin, watch.end())
    assert (m.energy_low_j, m.energy_j, m.energy_high_j) == pytest.approx((low_j, 100.0, high_j))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "elapsed_s,energy_j,source\nx,1,measured\n"])
def test_recording_that_is_none_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(MeterError, match=r"cannot replay .*x.csv"):
        open_replay(tmp_path / "x.csv")
    with pytest.raises(MeterError, match="cannot replay"):
        open_replay(tmp_path / "none.csv")
    monkeypatch.delenv(RECORDING, raising=False)
    with pytest.raises(MeterError, match=r"set BUDJOULE_REPLAY to a file of 'budjoule measure --csv'"):
        open_replay()
