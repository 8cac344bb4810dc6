"""Fit profiles of small boards' CPUs on whole-board energy per inference, from MLCommons' inference results (Apache-2.0).

`python -m budjoule.calibration.evidence.boards MEASUREMENTS.csv` prints each board's errors on model families that its fit has not
seen; `--write` saves the profiles. Derived from MLPerf logs v1.0 to v3.0, not an MLPerf result; the data are not part of this project.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from budjoule.calibration.evidence.scores import by_model, errors, report_line, summary
from budjoule.calibration.fit import covering
from budjoule.calibration.observation import Observation
from budjoule.calibration.population import fit_population
from budjoule.calibration.prior import prior_for
from budjoule.energy.device import DeviceProfile, DeviceSpec
from budjoule.energy.trace import trace
from budjoule.energy.workload import Workload

PRECISIONS = ("fp32", "int8")
REPEAT_FACTOR = 1.3
OTHER_SETTINGS = ", other threads or power mode"
GENERIC = "arm-board-generic"
RUNTIME = "tflite"  # one runtime a profile: Arm NN takes half the time of TFLite on ResNet-50 on a Raspberry Pi 4
SPEAKS_FOR = (
    f"{RUNTIME}, fp32 and int8: not PyTorch, and not other runtimes, which differ up to twofold on the same board"
)


def _arm(
    cores: int,
    clock_hz: float,
    fp32: float,
    int8: float,
    bandwidth: float,
    cache_bytes: float,
    memory: float,
    limit_w: float,
    idle_w: float,
) -> DeviceSpec:
    return DeviceSpec(
        kind="cpu",
        units=cores,
        lanes=4,
        clock_hz=clock_hz,
        flop_per_clock={"fp32": fp32, "int8": int8},
        dram_bytes_per_s=bandwidth,
        cache_bytes=cache_bytes,
        memory_bytes=memory,
        power_limit_w=limit_w,
        idle_w=idle_w,
    )


# Boards' and cores' data sheets; FLOP a clock of a core from Arm's optimisation guides (A72 and A73 have no int8 dot product).
# Idle power as the logs show it around the runs; the limit is the supply's, which no run reached.
SPECS = {
    "raspberry-pi-4b": _arm(4, 1.5e9, 8, 16, 12.8e9, 1e6, 4e9, 10.0, 2.9),
    "odroid-n2-plus": _arm(4, 2.4e9, 8, 16, 10.6e9, 1e6, 4e9, 12.0, 2.3),
    "rk3588s": _arm(4, 2.4e9, 16, 64, 34e9, 3e6, 8e9, 18.0, 2.1),
    "jetson-agx-orin-cpu": _arm(12, 2.2e9, 16, 64, 204.8e9, 6e6, 32e9, 60.0, 14.0),
}
TITLES = {
    "raspberry-pi-4b": "Raspberry Pi 4 B (4 x Cortex-A72)",
    "odroid-n2-plus": "Odroid N2+ (4 x Cortex-A73)",
    "rk3588s": "Rockchip RK3588S (4 x Cortex-A76)",
    "jetson-agx-orin-cpu": "NVIDIA Jetson AGX Orin, CPU (12 x Cortex-A78AE)",
}
SOURCE = "whole-board energy of single-image inference on the CPU, AC wall analyser, derived from MLCommons inference logs v1.0 to v3.0 (Apache-2.0)"


@cache
def workload(model: str, precision: str) -> Workload:
    """Trace one of the data set's models."""
    import transformers as hf

    with torch.device("meta"):
        if model.startswith("resnet50"):
            net, size = hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)), 224
        else:
            _, version, width, image = model.split("_")
            size = int(image)
            made = {
                "v1": (hf.MobileNetV1Config, hf.MobileNetV1Model),
                "v2": (hf.MobileNetV2Config, hf.MobileNetV2Model),
            }[version]
            net = made[1](made[0](depth_multiplier=float(width), image_size=size))
        return trace(net, torch.empty(1, 3, size, size), precision=precision)


def read(path: Path) -> dict[str, list[Observation]]:
    """Each board's runs, of one runtime, without those marked as outliers; the group is the model family and precision.

    The logs do not say threads and power mode: a run that took over `REPEAT_FACTOR` times as long as the quickest of the very same model
    and precision on the same board (up to five times) had others, and its group says so.
    """
    with path.open(newline="") as file:
        kept = [
            row
            for row in csv.DictReader(file)
            if row["outlier"] != "True" and row["device"] in SPECS and row["backend"] == RUNTIME
        ]
    least_s: dict[tuple[str, ...], float] = {}
    for row in kept:
        same = (row["device"], row["model"], row["precision"])
        least_s[same] = min(float(row["duration_s"]), least_s.get(same, float("inf")))
    rows: dict[str, list[Observation]] = {}
    for row in kept:
        family = "resnet50" if row["model"].startswith("resnet50") else row["model"][:12]
        slow = float(row["duration_s"]) > REPEAT_FACTOR * least_s[row["device"], row["model"], row["precision"]]
        o = Observation(
            workload=workload(row["model"], row["precision"]),
            energy_j=float(row["energy_j"]),
            duration_s=float(row["duration_s"]),
            clock_hz=SPECS[row["device"]].clock_hz,
            group=f"{family} {row['precision']}{OTHER_SETTINGS if slow else ''}",
        )
        rows.setdefault(row["device"], []).append(o)
    return rows


def all_cores(runs: Sequence[Observation]) -> list[Observation]:
    """The runs that took about the least time of their model: with all cores at work."""
    return [o for o in runs if not o.group.endswith(OTHER_SETTINGS)]


def fit_all(
    runs: Mapping[str, Sequence[Observation]], provenance: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, DeviceProfile]:
    """Fit the boards together, on the runs with all cores at work; beside theirs what any other board can start from."""
    priors = {d: prior_for(SPECS[d], None, name=d, title=TITLES[d]) for d in runs}
    common = prior_for(SPECS["raspberry-pi-4b"], None, name=GENERIC, title="What the fitted Arm boards have in common")
    return fit_population({d: all_cores(rows) for d, rows in runs.items()}, priors, common, provenance)


def leave_one_family_out(runs: Mapping[str, Sequence[Observation]]) -> dict[str, dict[str, np.ndarray]]:
    """Errors of each board on each group of runs by profiles fitted without the group's model family on any board."""
    result: dict[str, dict[str, np.ndarray]] = {d: {} for d in runs}
    for family in ("mobilenet_v1", "mobilenet_v2", "resnet50"):
        profiles = fit_all({d: [o for o in rows if not o.group.startswith(family)] for d, rows in runs.items()})
        for d, rows in runs.items():
            for group in sorted({o.group for o in rows if o.group.startswith(family)}):
                result[d][group] = errors([o for o in rows if o.group == group], profiles[d])
    return result


def main() -> None:
    """Fit, print the errors, and write the profiles where asked to."""
    parser = argparse.ArgumentParser(description="Fit board profiles on the MLCommons-derived measurements.")
    parser.add_argument("csv", type=Path, help="measurements.csv of the boards")
    parser.add_argument("--write", action="store_true", help="save the profiles among those that ship")
    options = parser.parse_args()
    runs = read(options.csv)
    unseen = leave_one_family_out(runs)
    provenance: dict[str, dict[str, Any]] = {GENERIC: {"runtime": SPEAKS_FOR, "modes": ["inference"]}}
    for d, groups in unseen.items():
        print(f"{d}: each model family predicted by a fit that has not seen it")
        for name, part in groups.items():
            print(report_line(name, part))
        whole = {name: part for name, part in groups.items() if not name.endswith(OTHER_SETTINGS)}
        by_precision = {
            precision: {name: part for name, part in whole.items() if precision in name} for precision in PRECISIONS
        }
        for precision, parts in by_precision.items():
            print(report_line(f"all {precision}", np.vstack(list(parts.values()))))
        provenance[d] = {
            "source": SOURCE,
            "meter": "AC wall analyser, whole board",
            "modes": ["inference"],
            "batch": "one image",
            "precisions": list(PRECISIONS),
            "runtime": SPEAKS_FOR,
            **{
                f"leave_one_family_out_{precision}": {
                    **summary(np.vstack(list(parts.values()))),
                    "energy_error_frac_by_model": by_model(parts),
                }
                for precision, parts in by_precision.items()
            },
        }
        if others := len(runs[d]) - len(all_cores(runs[d])):
            provenance[d]["left_out"] = (
                f"{others} runs over {REPEAT_FACTOR} times slower than the same model's quickest: threads or power mode unknown"
            )
    for d, fitted in fit_all(runs, provenance).items():
        profile = fitted
        if d != GENERIC:
            seen = all_cores(runs[d])
            clean = [part for name, part in unseen[d].items() if not name.endswith(OTHER_SETTINGS)]
            profile = covering(fitted, np.vstack(clean))
            print(f"{d}: {profile.status} on {len(seen)} runs")
            print(report_line("seen", errors(seen, profile)))
        if options.write:
            print(f"  wrote {profile.save(Path(__file__).parents[1] / 'profiles' / f'{d}.toml').name}")


if __name__ == "__main__":
    main()
