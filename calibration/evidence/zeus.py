"""Training steps measured over batch sizes and power limits, from the Zeus repository (Apache-2.0), as observations.

Source of the data: You, Chung, Chowdhury, Zeus: understanding and optimizing GPU energy consumption of DNN training, NSDI 2023.
"""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from budjoule.calibration.evidence.reference_models import shufflenet_v2
from budjoule.calibration.observation import Observation
from budjoule.energy.trace import trace
from budjoule.energy.tracing.optimizers import OPTIMIZERS
from budjoule.energy.workload import Workload


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


def read(path: Path) -> dict[str, list[Observation]]:
    """Each device's training steps; the group is the model, and whether the row is host-bound.

    Rows that only say an epoch's total are left out.
    """
    rows: dict[str, list[Observation]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["energy_per"] != "step":
                continue
            model = "resnet50" if "resnet50" in row["workload_id"] else "shufflenetv2"
            rows.setdefault(row["device"], []).append(
                Observation(
                    workload=workload(model, int(float(row["batch"])), row["optimizer"]),
                    energy_j=float(row["energy_j"]),
                    duration_s=float(row["duration_s"]),
                    power_limit_w=float(row["power_limit_w"]),
                    group=f"{model}, host-bound" if "waiting" in row["notes"] else model,
                )
            )
    return rows
