"""What does a choice made without running cost? Regret: measured energy at the batch size and power limit that `predict` names, over the measured optimum.

`python tests/benchmarks/regret.py --data FOLDER` with the folder of the data sets. Every model is chosen for by a fit that has
not seen its family on any device, then by a forecast from the other devices alone; beside them the default (largest limit, middle batch size)
and a rule of thumb (55 % of the largest limit, largest batch size: the best such rule for these very rows, found in hindsight).
Zeus finds its choice by trying, each limit for a few seconds of the running job and each batch size in trainings of its own, from which its paper reports 15.3 to 75.8 % less energy than the default; nothing runs here. Rows that give an epoch's total serve too: energies of one
epoch compare as energies an item do. A last table says how often the interval of a saving held the measured one: of each limit against the largest at the same
batch size, of each batch size against the middle one under the same limit, and of what is chosen against the default; with the model's own error
that the shipped profile states, which is widened until nine in ten runs of families never seen lie within. BERT's tweets are taken as 40 tokens long and NeuMF's sizes as the MLPerf reference's (both unknown).
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from budjoule.calibration.evidence import gpus, zeus
from budjoule.calibration.evidence.gpu_specs import SPECS
from budjoule.calibration.evidence.reference_models import NeuMF
from budjoule.calibration.prior import prior_for
from budjoule.energy.device import DeviceProfile, load_profile
from budjoule.energy.predict import predict
from budjoule.energy.trace import trace
from budjoule.energy.tracing.optimizers import LOOP
from budjoule.energy.whatif.choice import parse_goal, saving
from budjoule.energy.whatif.sweep import Point
from budjoule.energy.workload import Workload

TWEET_TOKENS = 40  # assumed
RULE_FRAC = 0.55
Setting = tuple[int, float]  # batch size, power limit [W]
ENERGY = parse_goal("energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model's measured settings on one device: joules an item, or an epoch's."""

    device: str
    model: str
    optimizer: str
    energy_j: Mapping[Setting, float]
    duration_s: Mapping[Setting, float]

    @property
    def batches(self) -> list[int]:
        """Batch sizes, ascending."""
        return sorted({batch for batch, _ in self.energy_j})

    def default(self) -> Setting:
        """The largest limit and the middle batch size."""
        batch = self.batches[len(self.batches) // 2]
        return batch, max(limit for b, limit in self.energy_j if b == batch)

    def by_rule(self, batch: int) -> Setting:
        """The limit nearest to a share of the largest, at a batch size."""
        wanted = RULE_FRAC * max(limit for _, limit in self.energy_j)
        return min((s for s in self.energy_j if s[0] == batch), key=lambda s: abs(s[1] - wanted))


def jobs(path: Path) -> list[Job]:
    """All of the table's jobs."""
    energy: dict[tuple[str, str, str], dict[Setting, float]] = defaultdict(dict)
    time: dict[tuple[str, str, str], dict[Setting, float]] = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            batch = int(float(row["batch"]))
            key = (row["device"], row["workload_id"].split("_")[1], row["optimizer"])
            items = batch if row["energy_per"] == "step" else 1
            energy[key][batch, float(row["power_limit_w"])] = float(row["energy_j"]) / items
            time[key][batch, float(row["power_limit_w"])] = float(row["duration_s"]) / items
    return [
        Job(device=d, model=m, optimizer=o, energy_j=joules, duration_s=time[d, m, o])
        for (d, m, o), joules in energy.items()
    ]


@cache
def workload(model: str, batch: int, optimizer: str) -> Workload:
    """The training step of one of the table's models."""
    import transformers as hf

    if model in ("resnet50", "shufflenetv2"):
        return zeus.workload(model, batch, optimizer)
    with torch.device("meta"):
        if model == "bert":
            inputs = {
                "input_ids": torch.ones(batch, TWEET_TOKENS, dtype=torch.int64, device="cpu"),
                "labels": torch.zeros(batch, dtype=torch.int64, device="cpu"),
            }
            net = hf.BertForSequenceClassification(hf.BertConfig(attn_implementation="eager"))
            return trace(net, inputs, mode="training", optimizer=optimizer + LOOP)
        scores = torch.zeros(batch)
        return trace(
            NeuMF(),
            torch.zeros(batch, 2, dtype=torch.int64, device="cpu"),
            mode="training",
            optimizer=optimizer + LOOP,
            loss=lambda out: F.binary_cross_entropy_with_logits(out, scores),
        )


Scored = tuple[str, Job, dict[str, float], dict[str, list[bool]]]  # protocol, job, regrets, whether savings were inside


def predicted(job: Job, profile: DeviceProfile) -> dict[Setting, Point]:
    """What is predicted at each measured setting."""
    return {
        (batch, limit_w): Point(
            batch=batch,
            wanted_clock_hz=None,
            power_limit_w=limit_w,
            estimate=predict(workload(job.model, batch, job.optimizer), device=profile, power_limit_w=limit_w),
        )
        for batch, limit_w in job.energy_j
    }


def inside(job: Job, profile: DeviceProfile, points: Mapping[Setting, Point]) -> dict[str, list[bool]]:
    """Whether each saving's interval holds the measured saving: between limits, between batch sizes, and of the choice."""

    def holds(setting: Setting, default: Setting) -> bool:
        said = saving(points[setting], points[default], profile, ENERGY)
        measured = 1 - job.energy_j[setting] / job.energy_j[default]
        return said.saving_low_frac <= measured <= said.saving_high_frac

    found: dict[str, list[bool]] = {"another limit": [], "another batch size": [], "the choice": []}
    middle = job.batches[len(job.batches) // 2]
    for batch, limit_w in job.energy_j:
        largest = max(s for s in job.energy_j if s[0] == batch)
        if (batch, limit_w) != largest:
            found["another limit"].append(holds((batch, limit_w), largest))
        if batch != middle and (middle, limit_w) in job.energy_j:
            found["another batch size"].append(holds((batch, limit_w), (middle, limit_w)))
    chosen = min(points, key=lambda s: points[s].example_energy_j)
    found["the choice"].append(holds(chosen, job.default()))
    return found


def regrets(job: Job, points: Mapping[Setting, Point]) -> dict[str, float]:
    """Regrets as fractions: of the limit at each batch size (mean and worst), of both together, and of the defaults."""
    guess = {setting: point.example_energy_j for setting, point in points.items()}
    guess_s = {setting: point.example_duration_s for setting, point in points.items()}
    at_batch, default_at_batch, rule_at_batch = [], [], []
    for batch in job.batches:
        settings = [s for s in job.energy_j if s[0] == batch]
        least = min(job.energy_j[s] for s in settings)
        at_batch.append(job.energy_j[min(settings, key=guess.__getitem__)] / least - 1)
        default_at_batch.append(job.energy_j[max(settings)] / least - 1)
        rule_at_batch.append(job.energy_j[job.by_rule(batch)] / least - 1)
    least = min(job.energy_j.values())
    slow = 1.1 * min(guess_s.values())
    allowed = [s for s in guess if guess_s[s] <= slow]
    within = min(allowed, key=guess.__getitem__)
    least_edp = min(job.energy_j[s] * job.duration_s[s] for s in job.energy_j)
    edp = min(guess, key=lambda s: guess[s] * guess_s[s])
    return {
        "limit": float(np.mean(at_batch)),
        "limit, worst": max(at_batch),
        "limit, default": float(np.mean(default_at_batch)),
        "limit, rule": float(np.mean(rule_at_batch)),
        "both": job.energy_j[min(guess, key=guess.__getitem__)] / least - 1,
        "both, default": job.energy_j[job.default()] / least - 1,
        "both, rule": job.energy_j[job.by_rule(max(job.batches))] / least - 1,
        "edp": job.energy_j[edp] * job.duration_s[edp] / least_edp - 1,
        "edp, default": job.energy_j[job.default()] * job.duration_s[job.default()] / least_edp - 1,
        "within 1.1x: saving": 1 - job.energy_j[within] / job.energy_j[job.default()],
        "within 1.1x: time": job.duration_s[within] / min(job.duration_s.values()) - 1,
    }


def protocols(folder: Path) -> Iterator[Scored]:
    """Every job by a fit without its model's family, and by a forecast from the other devices."""

    def scored(protocol: str, job: Job, profile: DeviceProfile) -> Scored:
        points = predicted(job, profile)
        return protocol, job, regrets(job, points), inside(job, profile, points)

    evidence = gpus.read(folder)
    found = jobs(folder / "gpu-training" / "measurements.csv")
    for left_out in ("resnet50", "shufflenetv2", "bert", ""):  # no fit has seen the recommender
        profiles = gpus.fit_all(evidence.without_family(left_out))
        for job in found:
            if job.model == left_out or (not left_out and job.model == "neumf"):
                wide = load_profile(job.device).residual_energy  # which the shipped profile states
                yield scored("model left out", job, replace(profiles[job.device], residual_energy=wide))
    for device in sorted({job.device for job in found}):
        base = gpus.fit_all(evidence.of([d for d in evidence.runs if d != device]))[gpus.GENERIC]
        profile = prior_for(SPECS[device], base, name=device, **evidence.tables[device])
        for job in found:
            if job.device == device:
                yield scored("device left out", job, profile)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    options = parser.parse_args()
    results = list(protocols(options.data))
    columns = list(results[0][2])
    table = Table("protocol", "device", "model, optimizer", *[f"{name} %" for name in columns])
    for protocol in ("model left out", "device left out"):
        part = [(job, row) for name, job, row, _ in results if name == protocol]
        for job, row in part:
            cells = [f"{100 * row[c]:.1f}" for c in columns]
            table.add_row(protocol, job.device, f"{job.model}, {job.optimizer}", *cells)
        # NeuMF keeps the GPU waiting: its energies hardly depend on the limit, and which is least is noise
        for name, kept in (("mean", part), ("mean without neumf", [p for p in part if p[0].model != "neumf"])):
            means = [f"{100 * np.mean([row[c] for _, row in kept]):.1f}" for c in columns]
            table.add_row(f"{protocol}: {name}", "", "", *means)
        table.add_section()
    console = Console(width=190)
    console.print(table)
    kinds = list(results[0][3])
    held = Table("protocol", "device", *kinds, title="measured savings inside the interval")
    for protocol in ("model left out", "device left out"):
        for device in [*sorted({job.device for _, job, *_ in results}), ""]:
            cells = []
            for kind in kinds:
                each = [
                    one
                    for name, job, _, found in results
                    if name == protocol and job.model != "neumf" and device in ("", job.device)
                    for one in found[kind]
                ]
                cells.append(f"{100 * np.mean(each):.0f} % of {len(each)}")
            held.add_row(protocol, device or "all, without neumf", *cells)
    console.print(held)


if __name__ == "__main__":
    main()
