"""Fit GPU profiles on measured training steps over batch sizes and power limits, from the Zeus repository (Apache-2.0).

`python -m budjoule.calibration.zeus MEASUREMENTS.csv` prints each device's errors on models that
its fit has not seen; `--write` saves the profiles. The data themselves are not part of this project.
Source of the data: You, Chung, Chowdhury, Zeus: understanding and optimizing GPU energy consumption of DNN training, NSDI 2023.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from budjoule.calibration.energaizer import errors, report_line
from budjoule.calibration.fit import covering, fit_pooled, posterior, prior_for
from budjoule.calibration.observation import Observation
from budjoule.calibration.reference_models import shufflenet_v2
from budjoule.energy.device import DeviceProfile, DeviceSpec
from budjoule.energy.trace import trace
from budjoule.energy.tracing.optimizers import OPTIMIZERS
from budjoule.energy.workload import Workload

# Datasheets: NVIDIA V100 (2020), P100 (2016), A40 (2021); FLOP a clock of a multiprocessor from the architecture white papers.
# Idle power of V100 and A40 as the host-bound rows approach it from above.
SPECS = {
    "v100-pcie-32gb": DeviceSpec(
        kind="gpu",
        units=80,
        lanes=64,
        clock_hz=1.38e9,
        min_clock_hz=135e6,
        flop_per_clock={"fp32": 128, "fp16": 1024, "fp64": 64},
        dram_bytes_per_s=900e9,
        cache_bytes=6e6,
        memory_bytes=32e9,
        power_limit_w=250.0,
        idle_w=30.0,
    ),
    "p100-pcie-16gb": DeviceSpec(
        kind="gpu",
        units=56,
        lanes=64,
        clock_hz=1.328e9,
        min_clock_hz=405e6,
        flop_per_clock={"fp32": 128, "fp16": 256, "fp64": 64},
        dram_bytes_per_s=732e9,
        cache_bytes=4e6,
        memory_bytes=16e9,
        power_limit_w=250.0,
        idle_w=28.0,
    ),
    "a40-pcie-48gb": DeviceSpec(
        kind="gpu",
        units=84,
        lanes=128,
        clock_hz=1.74e9,
        min_clock_hz=210e6,
        flop_per_clock={"fp32": 256, "tf32": 512, "bf16": 1024, "fp16": 1024, "int8": 2048, "fp64": 4},
        dram_bytes_per_s=696e9,
        cache_bytes=6e6,
        memory_bytes=48e9,
        power_limit_w=300.0,
        idle_w=30.0,
    ),
}
TITLES = {
    "v100-pcie-32gb": "NVIDIA V100 PCIe 32 GB",
    "p100-pcie-16gb": "NVIDIA P100 PCIe 16 GB",
    "a40-pcie-48gb": "NVIDIA A40 48 GB",
}
SOURCE = "training steps measured by NVML over batch sizes and power limits, Zeus repository (Apache-2.0; NSDI 2023)"


@cache
def workload(model: str, batch: int, optimizer: str) -> Workload:
    """Trace one of the data set's training steps."""
    return looped(_workload(model, batch, optimizer), optimizer)


def looped(work: Workload, optimizer: str) -> Workload:
    """The same step with its optimizer as a loop over the parameters, the default before PyTorch 2.0: a launch a call and tensor."""
    tensors = sum(op.calls for op in work.ops if op.phase == "backward" and op.name == "aten.detach")
    launches = OPTIMIZERS[optimizer].calls * tensors
    return replace(
        work,
        ops=tuple(replace(op, launches=launches) if op.phase == "optimizer" and op.launches else op for op in work.ops),
    )


def _workload(model: str, batch: int, optimizer: str) -> Workload:
    import transformers as hf

    labels = torch.zeros(batch, dtype=torch.int64)
    with torch.device("meta"):
        if model == "resnet50":
            return trace(
                hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)),
                torch.empty(batch, 3, 224, 224),
                mode="training",
                optimizer=optimizer,
                loss=lambda out: F.cross_entropy(out.logits, labels),
            )
        return trace(
            shufflenet_v2(),
            torch.empty(batch, 3, 32, 32),
            mode="training",
            optimizer=optimizer,
            loss=lambda out: F.cross_entropy(out, labels),
        )


def read(path: Path) -> dict[str, list[tuple[Observation, bool]]]:
    """Each device's training steps and whether the row is host-bound; rows that only say an epoch's total are left out."""
    rows: dict[str, list[tuple[Observation, bool]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["energy_per"] != "step":
                continue
            o = Observation(
                workload=workload(
                    "resnet50" if "resnet50" in row["workload_id"] else "shufflenet",
                    int(float(row["batch"])),
                    row["optimizer"],
                ),
                energy_j=float(row["energy_j"]),
                duration_s=float(row["duration_s"]),
                power_limit_w=float(row["power_limit_w"]),
                group="resnet50" if "resnet50" in row["workload_id"] else "shufflenetv2",
            )
            rows.setdefault(row["device"], []).append((o, "waiting" in row["notes"]))
    return rows


def fit_all(
    runs: Mapping[str, Sequence[Observation]], provenance: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, DeviceProfile]:
    """Fit the data set's devices together."""
    priors = {d: prior_for(SPECS[d], None, name=d, title=TITLES[d]) for d in runs}
    # a group counts for few runs whatever its size, so every third of its neighbouring batch sizes and limits is enough
    fits = fit_pooled({d: found[::3] for d, found in runs.items()}, priors)
    return {
        d: posterior(
            fits[d], priors[d], None, {"pooled_with": sorted(set(runs) - {d}), **(provenance or {}).get(d, {})}
        )
        for d in runs
    }


def main() -> None:
    """Fit, print the errors, and write the profiles where asked to."""
    parser = argparse.ArgumentParser(description="Fit GPU profiles on the Zeus measurements.")
    parser.add_argument("csv", type=Path, help="measurements.csv of the training steps")
    parser.add_argument("--write", action="store_true", help="save the profiles among those that ship")
    options = parser.parse_args()
    rows = read(options.csv)
    unseen: dict[str, dict[str, np.ndarray]] = {d: {} for d in rows}
    for model in ("resnet50", "shufflenetv2"):
        profiles = fit_all({d: [o for o, _ in found if o.group != model] for d, found in rows.items()})
        for d, found in rows.items():
            for name, waiting in ((model, False), (f"{model}, host-bound", True)):
                if left_out := [o for o, bound in found if o.group == model and bound == waiting]:
                    unseen[d][name] = errors(left_out, profiles[d])
    provenance = {}
    for d, models in unseen.items():
        print(f"{d}: each model's training step predicted by a fit that has not seen it")
        for name, part in models.items():
            print(report_line(name, part))
        everything = np.vstack(list(models.values()))
        energy, time, power = np.abs(everything[:, :3]).mean(axis=0).round(4).tolist()
        provenance[d] = {
            "source": SOURCE,
            "meter": "NVML, whole board; power limits from 100 W up",
            "mode": "training",
            "families": [name for name in models if "host" not in name],
            "leave_one_model_out": {"energy_error_frac": energy, "time_error_frac": time, "power_error_frac": power},
        }
    for d, fitted in fit_all({d: [o for o, _ in found] for d, found in rows.items()}, provenance).items():
        profile = covering(fitted, np.vstack(list(unseen[d].values())))
        print(f"{d}: {profile.status} on all {len(rows[d])} runs")
        print(report_line("seen", errors([o for o, _ in rows[d]], profile)))
        if options.write:
            print(f"  wrote {profile.save(Path(__file__).parent / 'profiles' / f'{d}.toml').name}")


if __name__ == "__main__":
    main()
