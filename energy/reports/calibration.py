"""Prints a calibration: coefficients before and after with their uncertainty, and the held-out training steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from budjoule.energy.coefficients import COEFFICIENTS
from budjoule.energy.device import DeviceProfile
from budjoule.energy.predict import HALF_WIDTH_SCALES
from budjoule.energy.reports.console import table
from budjoule.energy.reports.words import clean
from budjoule.energy.units import show


def render_calibration(
    before: DeviceProfile,
    after: DeviceProfile,
    validation: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    console: Console,
) -> None:
    """Print what the runs pinned, what stayed at its prior, and how wrong the profile is on steps it has not seen."""
    console.print(Text.assemble((clean(after.title), "bold"), f"  {after.status}"))
    made = table("coefficient", "before", "after", "unit")
    for row in COEFFICIENTS:
        if row.name in after.exercised:
            made.add_row(
                row.name,
                *(
                    f"{p.coef_[row.name]:.3g} ×÷ {np.exp(HALF_WIDTH_SCALES * p.log_sd_[row.name]):.2f}"
                    for p in (before, after)
                ),
                row.unit,
            )
    console.print(made)
    left = [row.name for row in COEFFICIENTS if row.name not in after.exercised]
    console.print(f"{len(left)} others stayed near their prior: {', '.join(left)}")
    console.print()
    checks = table("held-out training step", "took", "estimated", "error", "energy error")
    for step in validation:
        energy = step["energy_error_frac"]
        checks.add_row(
            clean(step["name"]),
            show(step["duration_s"], "s"),
            show(step["estimated_duration_s"], "s"),
            f"{100 * step['time_error_frac']:+.0f} %",
            "not measured" if energy is None else f"{100 * energy:+.0f} %",
        )
    console.print(checks)
    for text in notes:
        console.print(f"note  {clean(text)}")
