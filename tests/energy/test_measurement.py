"""The `Measurement` noun holds together: interval around the value, source named, plain data."""

import json
import math

import pytest

from budjoule.energy.measurement import SCHEMA, Measurement

GOOD = {
    "energy_j": 5.0,
    "energy_low_j": 4.0,
    "energy_high_j": 6.5,
    "duration_s": 2.0,
    "domains": {"package-0": 4.5, "dram-0": 0.5, "core-0": 3.0},
    "summed": ("package-0", "dram-0"),
    "source": "measured",
    "method": "RAPL",
}


def test_measurement_as_data_survives_json() -> None:
    document = Measurement(**GOOD, label="epoch", notes=("a note",)).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == SCHEMA
    assert document["power_w"] == 2.5
    assert document["summed"] == ["package-0", "dram-0"]


def test_measurement_without_length_has_no_power() -> None:
    assert Measurement(**GOOD | {"duration_s": 0.0}).power_w == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"energy_low_j": 5.1},
        {"energy_high_j": 4.9},
        {"energy_j": math.nan},
        {"energy_high_j": math.inf},
        {"energy_low_j": -1.0},
        {"duration_s": -1.0},
        {"duration_s": math.inf},
        {"source": "guessed"},
    ],
)
def test_measurement_refuses_numbers_that_contradict_each_other(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"interval|window|source"):
        Measurement(**GOOD | change)
