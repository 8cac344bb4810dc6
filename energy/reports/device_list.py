"""Shows device profiles: the list with what each rests on at a glance, and one with its coefficients and provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from budjoule.energy.coefficients import COEFFICIENTS
from budjoule.energy.device import DeviceProfile, load_profile, profile_paths, user_profile_folder
from budjoule.energy.errors import BudjouleError
from budjoule.energy.predict import HALF_WIDTH_SCALES, predict
from budjoule.energy.reports.console import table
from budjoule.energy.reports.words import clean
from budjoule.energy.units import show
from budjoule.energy.workload import OpCost, Workload

STYLES = {"fitted": "bold green", "few-shot": "green", "forecast": "yellow", "literature": "red"}
MEANINGS = {
    "fitted": "many measured runs",
    "few-shot": "a few measured runs and a similar device",
    "forecast": "a similar device and the datasheet, no run",
    "literature": "the datasheet and assumed coefficients, no run",
}
# A plain fp32 product of 2048 x 2048 matrices: what the width of an interval is shown for.
REFERENCE = Workload(
    model="2048 x 2048 product",
    mode="inference",
    precision="fp32",
    optimizer=None,
    ops=(
        OpCost(
            name="aten.mm",
            kind="matmul",
            precision="fp32",
            flop=2 * 2048**3,
            product=(1, 2048, 2048, 2048),
            activation_bytes=3 * 4 * 2048**2,
        ),
    ),
)


def profile_rows() -> list[dict[str, Any]]:
    """One row a profile, as JSON has it; a profile that cannot be read is a row with its `error`."""
    rows = []
    for name, path in profile_paths():
        row: dict[str, Any] = {"name": name, "path": str(path), "calibrated_here": path.parent == user_profile_folder()}
        try:
            rows.append({**row, **_row(load_profile(path))})
        except BudjouleError as error:
            rows.append({**row, "error": str(error)})
    return rows


def _row(profile: DeviceProfile) -> dict[str, Any]:
    spec = profile.spec
    reference = predict(REFERENCE, device=profile)
    return {
        "title": profile.title,
        "status": profile.status,
        "kind": spec.kind,
        "fp32_flop_per_s": spec.units * spec.flop_per_clock["fp32"] * spec.clock_hz,
        "dram_bytes_per_s": spec.dram_bytes_per_s,
        "memory_bytes": spec.memory_bytes,
        "power_limit_w": spec.power_limit_w,
        "idle_w": spec.idle_w,
        "clock_hz": spec.clock_hz,
        "runs": profile.provenance.get("in_sample", {}).get("runs", 0),
        "unseen_energy_error_frac": _unseen_error(profile.provenance),
        "interval_factor": reference.energy_high_j / reference.energy_j,
        "date": str(profile.provenance.get("date", "")),
    }


def _unseen_error(provenance: Mapping[str, Any]) -> float | None:
    """Mean energy error on runs the fit had not seen, if any were held out."""
    for value in provenance.values():
        if isinstance(value, Mapping) and "energy_error_frac" in value and value is not provenance.get("in_sample"):
            return float(value["energy_error_frac"])
    return None


def render_profiles(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the list, the best founded first."""
    made = table("device", "rests on", "runs", "unseen", "interval", "fp32 peak", "limit")
    order = list(STYLES)
    for row in sorted(
        rows, key=lambda row: (order.index(row["status"]) if "status" in row else len(order), row["name"])
    ):
        if "error" in row:
            made.add_row(clean(row["name"]), Text("broken", style="red"), *[""] * 5)
            continue
        error = row["unseen_energy_error_frac"]
        made.add_row(
            clean(row["name"]) + (" (calibrated here)" if row["calibrated_here"] else ""),
            Text(row["status"], style=STYLES[row["status"]]),
            str(row["runs"] or "-"),
            f"{100 * error:.1f} %" if error is not None else "-",
            f"×÷ {row['interval_factor']:.2f}",
            show(row["fp32_flop_per_s"], "FLOP/s"),
            show(row["power_limit_w"], "W"),
        )
    console.print(made)
    console.print()
    for status, style in STYLES.items():
        console.print(Text.assemble((f"{status:10s}", style), f" {MEANINGS[status]}"))
    console.print("unseen: mean energy error on runs that the fit had not seen")
    console.print("interval: the factor of the 90 % interval of the energy of a 2048 x 2048 fp32 product")
    for row in rows:
        if "error" in row:
            console.print(Text(clean(row["error"]), style="red"))


def render_profile(profile: DeviceProfile, console: Console) -> None:
    """Print one profile: datasheet, provenance, coefficients with their uncertainty."""
    spec = profile.spec
    console.print(
        Text.assemble(
            (clean(profile.name), "bold"),
            f"  {clean(profile.title)}, ",
            (profile.status, STYLES[profile.status]),
            f": {MEANINGS[profile.status]}",
        )
    )
    facts = _texts("datasheet", "")
    facts.add_row("units", f"{spec.units} x {spec.lanes} fp32 lanes at {show(spec.clock_hz, 'Hz')}")
    facts.add_row(
        "peak",
        ", ".join(
            f"{name} {show(spec.units * each * spec.clock_hz, 'FLOP/s')}" for name, each in spec.flop_per_clock.items()
        ),
    )
    facts.add_row(
        "memory",
        f"{show(spec.memory_bytes, 'B')} at {show(spec.dram_bytes_per_s, 'B/s')}, last-level cache {show(spec.cache_bytes, 'B')}",
    )
    lowest = (
        f", under which the clock falls to {show(spec.min_clock_hz, 'Hz')} at the lowest" if spec.min_clock_hz else ""
    )
    facts.add_row("power", f"idle {show(spec.idle_w, 'W')}, limit {show(spec.power_limit_w, 'W')}{lowest}")
    console.print(facts)
    console.print()
    origin = _texts("provenance", "")
    for key, value in profile.provenance.items():
        if not isinstance(value, Mapping):
            origin.add_row(clean(key), clean(", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    if unseen := _never_seen(profile):
        origin.add_row("never seen there", unseen)
    console.print(origin)
    console.print()
    if errors := _error_rows(profile.provenance):
        wrong = _texts("mean error", "energy", "time", "power", "inside", "runs")
        for error_row in errors:
            wrong.add_row(*map(clean, error_row))
        console.print(wrong)
        if any(row[4] for row in errors):
            console.print("inside: runs within the 90 % interval of the fit that had not seen them")
        console.print()
    made = _texts("coefficient", "value", "90 %", "unit", "pinned", "meaning")
    for row, mean, sd in zip(COEFFICIENTS, profile.log_mean, np.sqrt(np.diag(profile.log_cov)), strict=True):
        half = np.exp(HALF_WIDTH_SCALES * sd)
        made.add_row(
            row.name,
            f"{np.exp(mean):.3g}",
            f"×÷ {half:.2f}",
            row.unit,
            "yes" if row.name in profile.exercised else "no",
            row.meaning,
        )
    console.print(made)
    console.print(
        f"the model's own error beside that: time {100 * profile.residual_time:.1f} %, energy {100 * profile.residual_energy:.1f} % (one scale)"
    )


def _never_seen(profile: DeviceProfile) -> str:
    """Modes and precisions that the device has and no run stands behind; empty where the profile does not say what ran."""
    if not profile.has_runs:
        return "anything: no run on this device stands behind it"
    seen = profile.provenance
    modes = {"inference", "training"} - set(seen.get("modes", ("inference", "training")))
    precisions = set(profile.spec.flop_per_clock) - set(seen.get("precisions", profile.spec.flop_per_clock))
    return ", ".join([*sorted(modes), *sorted(precisions)])


def _texts(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        made.add_column(name, overflow="fold", no_wrap=name != columns[-1])
    return made


def _error_rows(provenance: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """How wrong the profile was, on its own runs, on runs that its fit had not seen, and of those on each model."""
    rows: list[tuple[str, ...]] = []
    for key, value in provenance.items():
        if not isinstance(value, Mapping) or "energy_error_frac" not in value:
            continue
        each = [_percent(value.get(f"{name}_error_frac")) for name in ("energy", "time", "power")]
        inside = _percent(value.get("coverage_frac"))
        rows.append((key.replace("_", " "), *each, inside, str(value.get("runs", ""))))
        by_model = value.get("energy_error_frac_by_model", {})
        rows += [(f"  {model}", _percent(error), "", "", "", "") for model, error in by_model.items()]
    return rows


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f} %"
