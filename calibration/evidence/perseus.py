"""Training steps of billion-parameter models on A100 80 GB and A40 boards under power limits, from the artifact of Perseus (Apache-2.0).

A row is one GPU of a pipeline: its share of the layers, one microbatch forward and backward with activation checkpointing.
Source of the data: Chung, Gu, Jang, Meng, Bansal, Chowdhury, Reducing energy bloat in large model training, SOSP 2024.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from budjoule.calibration.observation import Observation
from budjoule.energy.device import TYPICAL_VOLTAGE
from budjoule.energy.trace import trace
from budjoule.energy.workload import Workload

# Where each stage's layers start; the embedding is layer 0 and the head the last, as the data set counts them. Of GPT-3 XL it says
# 0, 8, 14, 21 of 27, which are a layer more than the model has: forward passes of its first two stages take equally long, six sevenths of
# the third's, which has seven blocks.
STARTS = {
    ("gpt3-xl", 4): (0, 7, 13, 20, 26),
    ("bert-huge-uncased", 4): (0, 8, 14, 20, 26),
    ("bloom-3b", 4): (0, 10, 18, 26, 32),
    ("gpt3-2.7b", 8): (0, 5, 9, 13, 17, 21, 25, 29, 34),
    ("bert-huge-uncased", 8): (0, 4, 7, 10, 13, 16, 19, 22, 26),
    ("bloom-3b", 8): (0, 6, 10, 14, 18, 22, 26, 30, 32),
}
FLAT_FRAC = 0.6  # share of the top clock up to which the voltage stays at its lowest on every GPU looked at
LAYERS = {"gpt3-xl": 24, "gpt3-2.7b": 32, "bert-huge-uncased": 24, "bloom-3b": 30}


def _built(model: str) -> Any:
    import transformers as hf

    eager = {"attn_implementation": "eager"}
    if model.startswith("gpt3"):
        width, layers, heads = (2048, 24, 16) if model == "gpt3-xl" else (2560, 32, 32)
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, use_cache=False, **eager))
    if model == "bloom-3b":
        return hf.BloomForCausalLM(
            hf.BloomConfig(
                hidden_size=2560,
                n_layer=30,
                n_head=32,
                vocab_size=250880,
                hidden_dropout=0.1,
                attention_dropout=0.1,
                use_cache=False,
                **eager,
            )
        )
    return hf.BertForMaskedLM(
        hf.BertConfig(hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192, **eager)
    )


@cache
def step(model: str, microbatch: int, length: int) -> Workload:
    """One microbatch of the whole model, forward and backward with activation checkpointing; fp32 weights, TF32 products."""
    with torch.device("meta"):
        net = _built(model)
    net.activation_checkpointing_enable()
    ids = torch.zeros(microbatch, length, dtype=torch.int64)
    return trace(net, {"input_ids": ids, "labels": ids}, mode="training", precision="tf32")


def layer(module: str, layers: int) -> int:
    """The layer that a module belongs to: 0 for the embedding, `layers + 1` for what follows the last block."""
    parts = module.split(".")
    for name, number in pairwise(parts):
        if name in ("h", "layer") and number.isdigit():
            return int(number) + 1
    return 0 if any("embed" in part or part in ("wte", "wpe") for part in parts) else layers + 1


@cache
def stage(model: str, stages: int, rank: int, microbatch: int, length: int) -> Workload:
    """One GPU's share of a microbatch, without the optimizer."""
    whole = step(model, microbatch, length)
    low, high = STARTS[model, stages][rank : rank + 2]
    ops = tuple(op for op in whole.ops if op.phase != "optimizer" and low <= layer(op.module, LAYERS[model]) < high)
    share = (high - low) / STARTS[model, stages][-1]
    return replace(whole, ops=ops, module_calls=round(share * whole.module_calls))


def read(path: Path) -> dict[str, list[Observation]]:
    """Each device's stages; the group is the model."""
    together: dict[tuple[str, float], list[dict[str, str]]] = defaultdict(list)
    for row in _ranks(path):
        together[row["device"], float(row["power_limit_w"])].append(row)
    result: dict[str, list[Observation]] = defaultdict(list)
    for (device, limit_w), rows in together.items():
        waiting_w = _waiting_w(rows)
        for row in rows:
            count, busy_s = float(row["num_microbatches"]), _busy_s(row)
            waiting_s = float(row["duration_s"]) - busy_s
            work = stage(
                row["model"],
                int(row["pp"]),
                int(row["stage"][4:]),
                int(float(row["microbatch"])),
                int(row["seq_or_image"]),
            )
            result[device].append(
                Observation(
                    workload=work,
                    energy_j=(float(row["energy_j"]) - waiting_s * waiting_w) / count,
                    duration_s=busy_s / count,
                    power_limit_w=limit_w,
                    group=row["model"],
                )
            )
    return dict(result)


def voltage(path: Path, top_clock_hz: float) -> list[tuple[float, float]]:
    """Core voltage over its lowest value against the share of the top clock, from power at locked clocks on the A40.

    While the voltage stays at its lowest a stage's power is a line in the clock. What it draws beyond that line's power at rest grows as
    ``f V^2``, so ``V^2 ~ (P - P_rest) / f``, here the median over the stages; where the power limit lowered the clock, the typical curve of
    GPUs goes on from there.
    """
    with path.open(newline="") as file:
        locked = [row for row in csv.DictReader(file) if row["clock_mhz"]]
    limit_w = max(float(row["power_limit_w"]) for row in _ranks(path) if row["device"] == locked[0]["device"])
    squared: dict[float, list[float]] = defaultdict(list)
    for stage_rows in _by_stage(locked).values():
        flat = [f for f in stage_rows if f < FLAT_FRAC * top_clock_hz]
        slope, rest_w = np.polyfit(flat, [stage_rows[f] for f in flat], 1)
        for f, w in stage_rows.items():
            if w < 0.93 * limit_w:
                squared[f].append((w - rest_w) / (f * slope))
    curve = [(f / top_clock_hz, max(1.0, float(median(v)) ** 0.5)) for f, v in sorted(squared.items()) if len(v) >= 4]
    last = curve[-1][0]
    return [*curve[::3], curve[-1], *((share, ratio) for share, ratio in TYPICAL_VOLTAGE if share > last + 0.05)]


def _ranks(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["stage"].startswith("rank")]


def _by_stage(rows: Sequence[dict[str, str]]) -> dict[tuple[str, str], dict[float, float]]:
    """Mean power against clock of each stage's forward or backward. [Hz] -> [W]"""
    result: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for row in rows:
        result[row["model"], row["stage"]][float(row["clock_mhz"]) * 1e6] = _mean_w(row)
    return result


def _mean_w(row: dict[str, str]) -> float:
    """Mean power over a row's duration. [W]"""
    return float(row["energy_j"]) / float(row["duration_s"])


def _busy_s(row: dict[str, str]) -> float:
    """Time that a GPU works in a step. [s]"""
    return float(row["num_microbatches"]) * (float(row["forward_s"]) + float(row["backward_s"]))


def _waiting_w(rows: Sequence[dict[str, str]]) -> float:
    """Power of a GPU that waits for its neighbours, from all GPUs under one limit. [W]

    Their mean power is a line in the share of the time that they work, within 2 to 4 W: at no work it is the waiting's, and at
    work alone it comes out at the limit, which was not asked of it.
    """
    share = [_busy_s(row) / float(row["duration_s"]) for row in rows]
    return float(np.polyfit(share, [_mean_w(row) for row in rows], 1)[1])
