"""Forward passes of the EnergAIzer data set (MIT licence, arXiv 2604.20105; copyright 2026 Kyungmi Lee) as observations."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from budjoule.calibration.observation import Observation
from budjoule.energy.trace import trace
from budjoule.energy.workload import Workload


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
