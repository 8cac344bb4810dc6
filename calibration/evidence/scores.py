"""How far a profile's predictions lie from measured runs, as rows and as a line of text."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from budjoule.calibration.observation import Observation
from budjoule.energy.device import DeviceProfile
from budjoule.energy.predict import predict


def errors(observations: Iterable[Observation], profile: DeviceProfile) -> np.ndarray:
    """Relative errors of energy, time and power, whether the interval held the energy, and its half-width. `(run, 5)`"""
    rows = []
    for o in observations:
        assert o.energy_j is not None
        e = predict(o.workload, device=profile, clock_hz=o.clock_hz, power_limit_w=o.power_limit_w)
        power_w = o.energy_j / o.duration_s
        rows.append(
            (
                e.energy_j / o.energy_j - 1,
                e.duration_s / o.duration_s - 1,
                e.power_w / power_w - 1,
                e.energy_low_j <= o.energy_j <= e.energy_high_j,
                (e.energy_high_j - e.energy_low_j) / (2 * e.energy_j),
            )
        )
    return np.array(rows, dtype=float).reshape(-1, 5)


def report_line(name: str, rows: np.ndarray) -> str:
    """One line of the table of errors: means of the absolute errors in %, and the share inside the interval."""
    energy, time, power = 100 * np.abs(rows[:, :3]).mean(axis=0)
    return f"  {name:30s} energy {energy:5.1f} %  time {time:5.1f} %  power {power:5.1f} %  inside the 90 % interval {100 * rows[:, 3].mean():3.0f} %  half-width {100 * np.median(rows[:, 4]):3.0f} %  ({len(rows)} runs)"


def summary(rows: np.ndarray) -> dict[str, Any]:
    """Mean absolute errors and coverage, as a profile's provenance holds them."""
    energy, time, power = np.abs(rows[:, :3]).mean(axis=0).round(4).tolist()
    return {
        "runs": len(rows),
        "energy_error_frac": energy,
        "time_error_frac": time,
        "power_error_frac": power,
        "coverage_frac": float(rows[:, 3].mean().round(3)),
    }


def by_model(groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean absolute energy error of each model, as a profile's provenance holds it."""
    return {name: float(np.abs(rows[:, 0]).mean().round(4)) for name, rows in groups.items()}
