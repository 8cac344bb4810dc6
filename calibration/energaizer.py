"""Fit GPU profiles together on the measured forward passes of the EnergAIzer data set (MIT licence, arXiv 2604.20105) and ship them.

`python -m budjoule.calibration.energaizer MEASUREMENTS.csv` prints the leave-one-family-out error of each device; with
`--write` it saves the profiles beside the others. The data themselves are not part of this project.
"""

import argparse
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from budjoule.calibration.fit import covering, fit_pooled, posterior, prior_for
from budjoule.calibration.observation import Observation
from budjoule.energy.device import DeviceProfile, DeviceSpec
from budjoule.energy.predict import predict
from budjoule.energy.trace import trace
from budjoule.energy.workload import Workload

# Datasheets: NVIDIA A100 (2021), A10 (2021), H100 (2023); FLOP a clock of a streaming multiprocessor from the architecture white papers.
SPECS = {
    "a100-pcie-40gb": DeviceSpec(
        kind="gpu",
        units=108,
        lanes=64,
        clock_hz=1.41e9,
        min_clock_hz=210e6,
        flop_per_clock={"fp32": 128, "tf32": 1024, "bf16": 2048, "fp16": 2048, "int8": 4096, "fp64": 64},
        dram_bytes_per_s=1555e9,
        cache_bytes=40e6,
        memory_bytes=40e9,
        power_limit_w=250.0,
        idle_w=45.0,
    ),
    "a10-pcie-24gb": DeviceSpec(
        kind="gpu",
        units=72,
        lanes=128,
        clock_hz=1.695e9,
        min_clock_hz=210e6,
        flop_per_clock={"fp32": 256, "tf32": 512, "bf16": 1024, "fp16": 1024, "int8": 2048, "fp64": 4},
        dram_bytes_per_s=600e9,
        cache_bytes=6e6,
        memory_bytes=24e9,
        power_limit_w=150.0,
        idle_w=30.0,
    ),
    "h100-sxm-80gb": DeviceSpec(
        kind="gpu",
        units=132,
        lanes=128,
        clock_hz=1.98e9,
        min_clock_hz=345e6,
        flop_per_clock={"fp32": 256, "tf32": 2048, "bf16": 4096, "fp16": 4096, "int8": 8192, "fp64": 128},
        dram_bytes_per_s=3352e9,
        cache_bytes=50e6,
        memory_bytes=80e9,
        power_limit_w=700.0,
        idle_w=72.0,
    ),
}
TITLES = {
    "a100-pcie-40gb": "NVIDIA A100 PCIe 40 GB",
    "a10-pcie-24gb": "NVIDIA A10 24 GB",
    "h100-sxm-80gb": "NVIDIA H100 SXM 80 GB",
}
SOURCE = "forward passes measured by NVML, data of arXiv 2604.20105 (MIT licence, copyright 2026 Kyungmi Lee)"


@cache
def workload(model: str, batch: int, length: int, precision: str) -> Workload:
    """Trace one of the data set's models, built from its published dimensions without weights."""
    with torch.device("meta"):
        return trace(*_built(model, batch, length), precision=precision)


def _built(model: str, batch: int, length: int) -> tuple[Any, Any]:
    import transformers as hf

    eager = {"attn_implementation": "eager"}
    ids = {"input_ids": torch.ones(batch, max(length, 1), dtype=torch.int64, device="cpu")}
    if model == "bert-large":
        config = hf.BertConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            vocab_size=30522,
            **eager,
        )
        return hf.BertModel(config), ids
    if model == "opt-1.3b":
        config = hf.OPTConfig(
            hidden_size=2048,
            num_hidden_layers=24,
            num_attention_heads=32,
            ffn_dim=8192,
            vocab_size=50272,
            max_position_embeddings=max(4096, length),
            **eager,
        )
        config.use_cache = False
        return hf.OPTModel(config), ids
    if model == "vit-large":
        config = hf.ViTConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            patch_size=16,
            image_size=224,
            **eager,
        )
        return hf.ViTModel(config), torch.empty(batch, 3, 224, 224)
    if model == "mobilevit-small":
        return hf.MobileViTModel(hf.MobileViTConfig()), torch.empty(batch, 3, 256, 256)
    raise ValueError(f"unknown model {model!r} in the data")


def read(path: Path) -> dict[str, list[Observation]]:
    """Observations of each device, in the file's order; the group is the model family."""
    rows: dict[str, list[Observation]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            work = workload(row["model"], int(row["batch"]), int(float(row["seq"] or 0)), row["precision"])
            rows.setdefault(row["device"], []).append(
                Observation(
                    workload=work,
                    energy_j=float(row["energy_j"]),
                    duration_s=float(row["time_s"]),
                    clock_hz=float(row["mean_clock_mhz"]) * 1e6,
                    group=row["model"],
                )
            )
    return rows


def clock_tables(path: Path, device: str) -> dict[str, list[tuple[float, float]]]:
    """Idle power and voltage ratio against clock, as `fit_profile` takes them, where the table has them."""
    table = json.loads(path.read_text()).get(device, {}) if path.is_file() else {}
    result = {}
    if idle := table.get("idle_power_w_by_clock_mhz"):
        # the lowest clock of some boards is read in another power state, above its neighbours
        result["idle_power_w"] = _thinned([(float(c) * 1e6, float(p)) for c, p in list(idle.items())[1:]])
    if voltage := table.get("core_voltage_mv_by_clock_mhz"):
        lowest = min(map(float, voltage.values()))
        result["voltage"] = _thinned([(float(c) * 1e6, float(v) / lowest) for c, v in voltage.items()])
    return result


def _thinned(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [*pairs[:-1:6], pairs[-1]]


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
    return np.array(rows, dtype=float)


def fit_all(
    runs: Mapping[str, Sequence[Observation]],
    tables: Mapping[str, dict[str, Any]],
    provenance: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, DeviceProfile]:
    """Fit the data set's devices together."""
    priors = {d: prior_for(SPECS[d], None, name=d, title=TITLES[d], **tables[d]) for d in runs}
    fits = fit_pooled(runs, priors)
    others = {d: sorted(set(runs) - {d}) for d in runs}
    return {
        d: posterior(fits[d], priors[d], None, {"pooled_with": others[d], **(provenance or {}).get(d, {})})
        for d in runs
    }


def leave_one_family_out(
    runs: Mapping[str, Sequence[Observation]], tables: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, np.ndarray]]:
    """Errors of each device on each family by profiles that were fitted without that family on any device."""
    result: dict[str, dict[str, np.ndarray]] = {d: {} for d in runs}
    for family in sorted({o.group for rows in runs.values() for o in rows}):
        kept = {d: [o for o in rows if o.group != family] for d, rows in runs.items()}
        profiles = fit_all({d: rows for d, rows in kept.items() if rows}, tables)
        for d, rows in runs.items():
            if left_out := [o for o in rows if o.group == family]:
                result[d][family] = errors(left_out, profiles[d])
    return result


def report_line(name: str, rows: np.ndarray) -> str:
    """One line of the table of errors: means of the absolute errors in %, and the share inside the interval."""
    energy, time, power = 100 * np.abs(rows[:, :3]).mean(axis=0)
    return f"  {name:18s} energy {energy:5.1f} %  time {time:5.1f} %  power {power:5.1f} %  inside the 90 % interval {100 * rows[:, 3].mean():3.0f} %  ({len(rows)} runs)"


def main() -> None:
    """Fit, print the errors, and write the profiles where asked to."""
    parser = argparse.ArgumentParser(description="Fit GPU profiles on the EnergAIzer measurements.")
    parser.add_argument("csv", type=Path, help="measurements.csv; clock_tables.json is read from beside it")
    parser.add_argument("--write", action="store_true", help="save the profiles among those that ship")
    options = parser.parse_args()
    runs = read(options.csv)
    tables = {d: clock_tables(options.csv.parent / "clock_tables.json", d) for d in runs}
    unseen = leave_one_family_out(runs, tables)
    provenance = {}
    for device, families in unseen.items():
        everything = np.vstack(list(families.values()))
        print(f"{device}: each model family predicted by a fit that has not seen it")
        for family, rows in [*families.items(), ("all", everything)]:
            print(report_line(family, rows))
        energy, time, power = np.abs(everything[:, :3]).mean(axis=0).round(4).tolist()
        provenance[device] = {
            "source": SOURCE,
            "meter": "NVML, whole board",
            "mode": "inference",
            "families": list(families),
            "leave_one_family_out": {
                "energy_error_frac": energy,
                "time_error_frac": time,
                "power_error_frac": power,
                "coverage_frac": float(everything[:, 3].mean().round(3)),
            },
        }
    for device, fitted in fit_all(runs, tables, provenance).items():
        profile = covering(fitted, np.vstack(list(unseen[device].values())))
        print(f"{device}: {profile.status} on all {len(runs[device])} runs")
        print(report_line("seen", errors(runs[device], profile)))
        if options.write:
            print(f"  wrote {profile.save(Path(__file__).parent / 'profiles' / f'{device}.toml').name}")


if __name__ == "__main__":
    main()
