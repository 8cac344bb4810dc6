"""Samples of a running window add up to it; the CSV keeps what was measured."""

import csv
import io
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from budjoule.energy.errors import RunError, UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.windows.live import CsvLog, Live, Sample


def so_far(duration_s: float, package_j: float, dram_j: float) -> Measurement:
    total_j = package_j + dram_j
    return Measurement(
        energy_j=total_j,
        energy_low_j=total_j,
        energy_high_j=total_j,
        duration_s=duration_s,
        domains={"package-0": package_j, "dram-0": dram_j},
        source="measured",
        method="test",
    )


def full(sample: Sample) -> None:
    raise RunError("no space left")


def samples(failing: Callable[[Sample], object] = lambda sample: None) -> list[Sample]:
    """Three readings in the thread, then the finished measurement; beside a receiver that may fail."""
    readings = [so_far(1.0, 10.0, 1.0), so_far(2.0, 25.0, 2.0), so_far(3.0, 30.0, 3.0)]
    taken: list[Sample] = []
    all_read = threading.Event()

    def read() -> Measurement:
        reading = readings.pop(0)
        if not readings:
            all_read.set()
            live._stop.set()
        return reading

    failures: list[RunError] = []
    live = Live(read, interval_s=0.01, on_sample=[failing, taken.append], on_failure=failures.append)
    with live:
        assert all_read.wait(10)
    live.finish(so_far(3.5, 31.0, 3.25))
    assert len(failures) == (failing is full)
    return taken


def test_samples_of_a_window_add_up_to_it() -> None:
    taken = samples()
    assert sum(sample.energy_j for sample in taken) == pytest.approx(34.25)
    assert sum(sample.duration_s for sample in taken) == pytest.approx(3.5)
    assert [sample.energy_j for sample in taken] == pytest.approx([11.0, 16.0, 6.0, 1.25])
    assert taken[1].power_w == pytest.approx(16.0)
    assert taken[-1].power_w == pytest.approx(2.5)
    assert taken[1].domains == {"package-0": pytest.approx(15.0), "dram-0": pytest.approx(1.0)}


def test_csv_has_a_row_a_sample_as_soon_as_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    with CsvLog(path, force=False) as log:
        for number, sample in enumerate(samples(), start=1):
            log(sample)
            assert len(list(csv.DictReader(path.read_text().splitlines()))) == number
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == [
        "elapsed_s",
        "duration_s",
        "energy_j",
        "power_w",
        "total_j",
        "source",
        "package-0_j",
        "dram-0_j",
    ]
    assert sum(float(row["package-0_j"]) for row in rows) == pytest.approx(31.0)
    assert rows[-1]["source"] == "measured"


def test_a_receiver_that_fails_is_told_once_and_the_others_go_on() -> None:
    assert sum(sample.energy_j for sample in samples(full)) == pytest.approx(34.25)


def test_csv_never_overwrites_unasked(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text("mine")
    sample = samples()[0]
    with pytest.raises(RunError, match="--force"), CsvLog(path, force=False) as log:
        log(sample)
    assert path.read_text() == "mine"
    with pytest.raises(RunError, match="cannot write"), CsvLog(tmp_path / "no" / "power.csv", force=False) as log:
        log(sample)


def test_csv_leaves_the_old_file_until_there_is_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text("mine")
    with CsvLog(path, force=True):
        pass
    assert path.read_text() == "mine"


def test_csv_that_cannot_be_written_says_so_and_is_left_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            super().close()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_, **__: Full())
    sample = samples()[0]
    with CsvLog(tmp_path / "power.csv", force=False) as log, pytest.raises(RunError, match="No space left"):
        log(sample)


def test_interval_shorter_than_a_reading_makes_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="too short"):
        Live(lambda: so_far(1, 1, 1), interval_s=0.001, on_sample=[], on_failure=print)
