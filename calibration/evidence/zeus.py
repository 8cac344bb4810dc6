"""Training steps measured over batch sizes and power limits, from the Zeus repository (Apache-2.0), as observations.

Source of the data: You, Chung, Chowdhury, Zeus: understanding and optimizing GPU energy consumption of DNN training, NSDI 2023.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F

from budjoule.calibration.evidence.reference_models import shufflenet_v2
from budjoule.calibration.observation import Observation
from budjoule.energy.trace import trace
from budjoule.energy.tracing.optimizers import LOOP
from budjoule.energy.workload import Workload

HOST_BOUND, NOT_KEPT = ", host-bound", ", limit not kept"  # what a group's name ends with
KEPT = 1.02  # a mean power of so many times the limit says that the board could not keep it
# A step's time grows by less than this power of the batch where it waits for the host: by a quarter when the batch doubles.
FLAT_EXPONENT = 1 / 3


@cache
def workload(model: str, batch: int, optimizer: str) -> Workload:
    """Trace one of the data set's training steps, with its optimizer as a loop over the parameters: the default before PyTorch 2.0."""
    import transformers as hf

    labels = torch.zeros(batch, dtype=torch.int64)
    with torch.device("meta"):
        if model == "resnet50":
            return trace(
                hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)),
                torch.empty(batch, 3, 224, 224),
                mode="training",
                optimizer=optimizer + LOOP,
                loss=lambda out: F.cross_entropy(out.logits, labels),
            )
        return trace(
            shufflenet_v2(),
            torch.empty(batch, 3, 32, 32),
            mode="training",
            optimizer=optimizer + LOOP,
            loss=lambda out: F.cross_entropy(out, labels),
        )


def read(path: Path) -> dict[str, list[Observation]]:
    """Each device's training steps; the group is the model, and whether the step waited for the host or drew more than its limit.

    Such rows count apart: all that they have in common with the model's others is the model. Rows that only say an epoch's total are left out.
    """
    with path.open(newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["energy_per"] == "step"]
    waited = _waited_for_host(steps)
    rows: dict[str, list[Observation]] = {}
    for row in steps:
        model, batch, limit_w = _model(row), int(float(row["batch"])), float(row["power_limit_w"])
        energy_j, duration_s = float(row["energy_j"]), float(row["duration_s"])
        apart = ""
        if batch <= waited.get(_series(row), 0):
            apart = HOST_BOUND
        elif energy_j / duration_s > KEPT * limit_w:
            apart = NOT_KEPT
        rows.setdefault(row["device"], []).append(
            Observation(
                workload=workload(model, batch, row["optimizer"]),
                energy_j=energy_j,
                duration_s=duration_s,
                power_limit_w=limit_w,
                group=model + apart,
            )
        )
    return rows


def _waited_for_host(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, ...], int]:
    """The largest batch of each series whose step took hardly longer than the next smaller one's: up to there the host decides.

    The data's own remark "GPU mostly waiting" goes by the mean power, which also marks steps under the lowest limits, and
    leaves out P100's and V100's batches of up to 128, whose time is that of a batch of 8.
    """
    found: dict[tuple[str, ...], int] = {}
    for series, part in groupby(sorted(rows, key=lambda row: (_series(row), float(row["batch"]))), key=_series):
        for before, after in pairwise(part):
            more = float(after["batch"]) / float(before["batch"])
            if float(after["duration_s"]) < more**FLAT_EXPONENT * float(before["duration_s"]):
                found[series] = int(float(after["batch"]))
    return found


def _series(row: Mapping[str, str]) -> tuple[str, ...]:
    """What stays the same while the batch grows."""
    return row["device"], row["workload_id"], row["optimizer"], row["power_limit_w"]


def _model(row: Mapping[str, str]) -> str:
    return "resnet50" if "resnet50" in row["workload_id"] else "shufflenetv2"
