"""Fit the GPUs' profiles together, on every public measurement at hand, and what they have in common: the profile `gpu-generic`.

`python -m budjoule.calibration.evidence.gpus --data FOLDER` prints each device's errors on model families that its fit has
not seen on any device; `--write` saves the profiles among those that ship. The folder holds `energaizer`, `gpu-training`
(Zeus) and `gpu-large-training` (Perseus), each with its `measurements.csv`; the data themselves are not part of this project.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from budjoule.calibration.evidence import energaizer, perseus, zeus
from budjoule.calibration.evidence.gpu_specs import SPECS, TITLES
from budjoule.calibration.evidence.scores import by_model, errors, report_line, summary
from budjoule.calibration.fit import GROUP_RUNS, covering
from budjoule.calibration.observation import Observation
from budjoule.calibration.population import fit_population
from budjoule.calibration.prior import prior_for
from budjoule.energy.device import DeviceProfile

GENERIC = "gpu-generic"
GOLDEN = (5**0.5 - 1) / 2
GENERIC_SPEC = SPECS["a100-pcie-40gb"]
SOURCES = {
    "energaizer": "forward passes, NVML, data of arXiv 2604.20105 (MIT licence, copyright 2026 Kyungmi Lee)",
    "gpu-training": "training steps over batch sizes and power limits, optimizers as loops (PyTorch before 2.0), NVML, Zeus repository (Apache-2.0; NSDI 2023)",
    "gpu-large-training": "stages of large-model training over power limits, NVML, Perseus artifact in the Zeus repository (Apache-2.0; SOSP 2024)",
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Measured runs of each device, what was read at its locked clocks, and the data sets that they come from."""

    runs: Mapping[str, Sequence[Observation]]
    tables: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Sequence[str]]

    def without_family(self, name: str) -> "Evidence":
        """The same without a model family, on any device."""
        return replace(self, runs={d: [o for o in rows if family(o) != name] for d, rows in self.runs.items()})

    def of(self, devices: Sequence[str]) -> "Evidence":
        """The same of some devices."""
        return replace(self, runs={d: self.runs[d] for d in devices})


def family(o: Observation) -> str:
    """The model family that a run's model belongs to: `bert` of `bert-large`."""
    return o.group.split(",")[0].split("-")[0]


def read(folder: Path) -> Evidence:
    """The measurements under a folder; data sets that are not there are left out."""
    runs: dict[str, list[Observation]] = defaultdict(list)
    sources: dict[str, list[str]] = defaultdict(list)
    tables: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, reader in (("energaizer", energaizer), ("gpu-training", zeus), ("gpu-large-training", perseus)):
        path = folder / name / "measurements.csv"
        if not path.is_file():
            continue
        for device, rows in reader.read(path).items():
            runs[device] += rows
            sources[device].append(name)
    for device in runs:
        tables[device] = energaizer.clock_tables(folder / "energaizer" / "clock_tables.json", device)
    large = folder / "gpu-large-training" / "measurements.csv"
    if large.is_file():
        curve = perseus.voltage(large, SPECS["a40-pcie-48gb"].clock_hz)
        for device in ("a40-pcie-48gb", "a10-pcie-24gb"):  # the same chip
            top = SPECS[device].clock_hz
            tables[device]["voltage"] = [(share * top, ratio) for share, ratio in curve]
    return Evidence(runs=dict(runs), tables=dict(tables), sources=dict(sources))


def thinned(runs: Sequence[Observation]) -> list[Observation]:
    """Of each group under power limits about four times `GROUP_RUNS` at most, over all its limits: it counts for fewer, whatever its size."""
    groups: dict[str, list[Observation]] = defaultdict(list)
    for o in runs:
        groups[o.group if o.power_limit_w is not None else ""].append(o)
    kept = []
    for name, rows in groups.items():
        share = 4 * GROUP_RUNS / len(rows) if name else 1.0
        # every n-th row can meet the same limits again and again; multiples of the golden ratio fall evenly and come near every one
        kept += [o for i, o in enumerate(rows) if i * GOLDEN % 1 < share]
    return kept


def fit_all(evidence: Evidence, provenance: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, DeviceProfile]:
    """Fit all devices together; beside theirs the profile of `gpu-generic`, which any other GPU can start from."""
    priors = {d: prior_for(SPECS[d], None, name=d, title=TITLES[d], **evidence.tables[d]) for d in evidence.runs}
    common = prior_for(GENERIC_SPEC, None, name=GENERIC, title="What the fitted data-centre GPUs have in common")
    return fit_population({d: thinned(rows) for d, rows in evidence.runs.items()}, priors, common, provenance)


def leave_one_family_out(evidence: Evidence) -> dict[str, dict[str, np.ndarray]]:
    """Errors of each device on each model by profiles fitted without the model's family on any device."""
    result: dict[str, dict[str, np.ndarray]] = {d: {} for d in evidence.runs}
    for name in sorted({family(o) for rows in evidence.runs.values() for o in rows}):
        profiles = fit_all(evidence.without_family(name))
        for d, rows in evidence.runs.items():
            for model in sorted({o.group for o in rows if family(o) == name}):
                result[d][model] = errors([o for o in rows if o.group == model], profiles[d])
    return result


def at_work_only(models: Mapping[str, np.ndarray]) -> np.ndarray:
    """The errors of steps that did not wait for the host: what a host takes that no fitted run waited for says nothing of the GPU. `(run, 5)`"""
    return np.vstack([rows for name, rows in models.items() if not name.endswith(zeus.HOST_BOUND)])


def main() -> None:
    """Fit, print the errors, and write the profiles where asked to."""
    parser = argparse.ArgumentParser(description="Fit the GPUs' profiles on the public measurements.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--write", action="store_true", help="save the profiles among those that ship")
    options = parser.parse_args()
    evidence = read(options.data)
    unseen = leave_one_family_out(evidence)
    provenance = {}
    for d, models in unseen.items():
        print(f"{d}: each model predicted by a fit that has not seen its family")
        everything, at_work = np.vstack(list(models.values())), at_work_only(models)
        groups = models if len(at_work) == len(everything) else {**models, "all but host-bound": at_work}
        for name, rows in [*groups.items(), ("all", everything)]:
            print(report_line(name, rows))
        provenance[d] = {
            "source": "; ".join(SOURCES[name] for name in evidence.sources[d]),
            "meter": "NVML, whole board",
            "modes": sorted({o.workload.mode for o in evidence.runs[d]}),
            "precisions": sorted({o.workload.precision for o in evidence.runs[d]}),
            "models": list(models),
            "leave_one_family_out": {**summary(everything), "energy_error_frac_by_model": by_model(groups)},
        }
    for d, fitted in fit_all(evidence, provenance).items():
        profile = fitted
        if d != GENERIC:
            host_bound = [o for o in evidence.runs[d] if o.group.endswith(zeus.HOST_BOUND)]
            profile = covering(fitted, np.vstack([at_work_only(unseen[d]), errors(host_bound, fitted)]))
            print(f"{d}: {profile.status} on {len(thinned(evidence.runs[d]))} of {len(evidence.runs[d])} runs")
            print(report_line("seen", errors(evidence.runs[d], profile)))
        if options.write:
            print(f"  wrote {profile.save(Path(__file__).parents[1] / 'profiles' / f'{d}.toml').name}")


if __name__ == "__main__":
    main()
