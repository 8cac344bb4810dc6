"""Recordings as meters: row after row, or a file of `measure --csv` in its own time."""

from pathlib import Path
from typing import Any

import pytest

import budjoule as bj
from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.replay import RECORDING, ReplayMeter, open_replay
from budjoule.energy.windows.live import CsvLog, between

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
