"""`budjoule doctor`: what this machine can measure, what it cannot, and the exact fix."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from budjoule.cli.output import to_json

SCHEMA = "budjoule.doctor/1"
_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "psutil",
    "pyJoules",
    "nvidia-ml-py",
    "amdsmi",
    "prometheus-client",
    "transformers",
    "flwr",
)


def doctor(as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout.")) -> None:
    """Say which energy counters this machine has, which it has not, and how to get them."""
    findings = examine()
    print(to_json(findings) if as_json else _lines(findings))


def examine() -> dict[str, Any]:
    """What `budjoule doctor` found, as plain data. Opens every meter and closes it again; imports no torch."""
    import budjoule
    from budjoule.energy.meters.sysfs import sysfs_root
    from budjoule.energy.windows.choose import AUTOMATIC

    meters = meter_rows()
    ready = {row["meter"] for row in meters if row["available"]}
    chosen = next((group for group in AUTOMATIC if ready & set(group)), ())
    return {
        "schema": SCHEMA,
        "budjoule": budjoule.__version__,
        "measures": any(row["available"] and row["source"] == "measured" for row in meters),
        "chosen": [name for name in chosen if name in ready],
        "meters": meters,
        "sysfs_root": str(sysfs_root()),
        "machine": {"platform": platform.platform(), "processor": _processor(), "cpu_count": os.cpu_count()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "profiles": _profiles(),
    }


def meter_rows() -> list[dict[str, Any]]:
    """One row a meter of `METERS`: its domains where it opens, the reason and the fix where it does not."""
    from budjoule.energy.errors import MeterError
    from budjoule.energy.meters import METERS

    rows: list[dict[str, Any]] = []
    for name, opener in METERS.items():
        row: dict[str, Any] = {"meter": name, "available": False, "source": None, "method": None, "domains": []}
        try:
            meter = opener()
        except MeterError as error:
            rows.append({**row, "notes": [], **_reason(name, str(error))})
            continue
        readings = meter.read()
        row |= {"available": True, "source": meter.source, "method": meter.method, "notes": list(meter.notes)}
        row["domains"] = [
            {"name": domain.name, "inside": domain.parent, "counted": domain.counts, "readable": reading is not None}
            for domain, reading in zip(meter.domains, readings, strict=True)
        ]
        meter.close()
        rows.append({**row, "reason": None, "fixes": []})
    return rows


def _reason(name: str, message: str) -> dict[str, Any]:
    from budjoule.energy.meters.rapl import permission_fix
    from budjoule.energy.meters.sysfs import sysfs_root

    # What was left out, one piece after the other, comes without a remedy.
    whole = " left out: " in message or "; " not in message
    what, _, remedy = (message, "", "") if whole else message.rpartition("; ")
    fixes = list(permission_fix(sysfs_root())) if name == "rapl" and "permission denied" in message else [remedy]
    return {"reason": what, "fixes": [fix for fix in fixes if fix]}


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _profiles() -> dict[str, Any]:
    """The device profiles that estimates can name, and the user's folder that calibration writes to."""
    from budjoule.energy.device import profile_paths, user_profile_folder

    folder = user_profile_folder()
    return {
        "folder": str(folder),
        "writable": _writable(folder),
        "names": sorted({name for name, _ in profile_paths()}),
    }


def _writable(folder: Path) -> bool:
    """Whether the folder, or the nearest parent that exists and would hold it, can be written."""
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    return existing.is_dir() and os.access(existing, os.W_OK)


def _lines(findings: dict[str, Any]) -> str:
    rows = [f"budjoule {findings['budjoule']}, Python {findings['python']} at {sys.executable}"]
    machine = findings["machine"]
    rows.append(f"machine   {machine['processor']}, {machine['cpu_count']} threads, {machine['platform']}")
    rows.append(f"sysfs     {findings['sysfs_root']}")
    installed = [f"{name} {number}" for name, number in findings["packages"].items() if number]
    absent = [name for name, number in findings["packages"].items() if not number]
    rows.append(f"packages  {', '.join(installed)}" + (f"; not installed: {', '.join(absent)}" if absent else ""))
    profiles = findings["profiles"]
    rows.append(f"profiles  {', '.join(profiles['names']) or 'none'}")
    rows.append(
        f"yours     {profiles['folder']}" + ("" if profiles["writable"] else " (not writable: set XDG_DATA_HOME)")
    )
    rows.append("meters")
    for row in findings["meters"]:
        if row["available"]:
            domains = ", ".join(domain["name"] for domain in row["domains"])
            rows.append(f"  {row['meter']:<8} ready ({row['source']}): {domains}: {row['method']}")
        else:
            rows.append(f"  {row['meter']:<8} not here: {row['reason']}")
        rows += [f"           note: {note}" for note in row["notes"]]
        rows += [f"           fix: {fix}" for fix in row["fixes"]]
    if findings["measures"]:
        rows.append(
            f"energy is measured, by {' and '.join(findings['chosen'])}; next: budjoule measure -- python train.py"
        )
    else:
        rows.append(
            "energy is estimated from processor load until a counter is readable; next: budjoule measure -- python train.py"
        )
    return "\n".join(rows)
