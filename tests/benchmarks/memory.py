"""Accuracy against the peak memory of a training step, on Fashion-MNIST from scratch; and predicted peaks against true ones.

Every peak in the first table is the allocator's on a real step; joules and time of a batch are the estimator's. Weights that
are frozen stay as they were drawn, so methods made for fine-tuning (last layers, biases, TinyTL's biases with the last
layer, here without its extra modules) do worse than in their papers.

    python tests/benchmarks/memory.py [--examples 20000] [--seeds 2] [--rate 0.1]     # accuracy against memory
    python tests/benchmarks/memory.py --predict                                       # predicted against true
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from memory_models import MODELS
from torch import nn

from budjoule.training.clients.cost import BlockCosts
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.config.config import Training, load_config
from budjoule.training.memory.allocator import allocator_peak_bytes
from budjoule.training.memory.choose import plan
from budjoule.training.memory.lean_model import lean
from budjoule.training.memory.memory_plan import LayerPlan, MemoryPlan, signs_scale
from budjoule.training.memory.predict import footprint, mean_loss
from budjoule.training.memory.step import Step
from budjoule.training.memory.structure import owners
from budjoule.training.task.data import Data, load_data
from budjoule.training.task.models import build_model

BATCH = 16
BLOCKS = 8
DEVICE = "raspberry-pi-5"
Method = Callable[[nn.Module, Data, float], MemoryPlan]


def true_peak(model: nn.Module, batch: object, *, optimizer: str = "sgd", **keys: object) -> int:
    """The allocator's peak of a step. [B]"""
    model = copy.deepcopy(model).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = Step(
        parameters, lambda part: mean_loss(model, *part, loss=None), optimizer=optimizer, learning_rate=0.01, **keys
    )
    with one_thread():
        step(batch)
        return allocator_peak_bytes(lambda: step(batch), [*model.parameters(), *model.buffers(), *step.state()])


def predict() -> None:
    """Print predicted beside true peaks."""
    print(f"{'model':16}{'step':34}{'predicted':>14}{'true':>14}{'off':>8}{'CPU s':>8}")
    errors = []
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model, inputs, labels = build()
        for keys in ({}, {"optimizer": "adam"}, {"micro_batch": 1}, {"in_backward": True}):
            begun = time.process_time()
            guess = footprint(model, inputs, labels, **keys).peak_bytes
            spent = time.process_time() - begun
            true = true_peak(model, (inputs, labels), **keys)
            errors.append(guess / true - 1)
            how = ", ".join(f"{key}={value}" for key, value in keys.items()) or "sgd"
            print(f"{name:16}{how:34}{guess:>14,}{true:>14,}{errors[-1]:>8.1%}{spent:>8.2f}", flush=True)
    worst = max(errors, key=abs)
    print(
        f"\n{len(MODELS)} models, {len(errors)} steps: mean error {statistics.mean(map(abs, errors)):.1%}, worst {worst:.1%}"
    )


def fixed(
    model: nn.Module,
    *,
    weights: Iterable[str],
    biases: Iterable[str],
    micro_batch: int = 1,
    signs: Iterable[str] = (),
    seed: int = 0,
) -> MemoryPlan:
    """A plan by hand."""
    weights, biases, signs = {*weights}, {*biases}, {*signs}
    layers = {
        name: LayerPlan(
            channels=tuple(range(owner.inputs)) if name in weights else (),
            inputs=owner.inputs,
            bias=name in biases,
            storage="signs" if name in signs else "floats",
            scale=signs_scale(owner.module.weight) if name in signs else 0.0,
        )
        for name, owner in owners(model).items()
    }
    size = footprint(model, torch.empty(BATCH, 1, 28, 28), torch.zeros(BATCH, dtype=torch.long))
    return MemoryPlan(
        layers=layers,
        batch_size=BATCH,
        micro_batch=micro_batch,
        in_backward=False,
        optimizer="sgd",
        seed=seed,
        block_bytes=12_288,
        memory_bytes=float("inf"),
        footprint=size,
        full=size,
        contribution_frac=1.0,
    )


def chosen(share: float) -> Method:
    """Ours under a share of full training."""

    def choose(model: nn.Module, data: Data, rate: float) -> MemoryPlan:
        probe = [(data.inputs[i : i + BATCH], data.labels[i : i + BATCH]) for i in range(0, 200 * BATCH, BATCH)]
        full = footprint(model, *probe[0]).peak_bytes
        return plan(model, *probe[0], memory_bytes=share * full, learning_rate=rate, probe=probe, seed=1)

    return choose


def methods() -> dict[str, Method]:
    """What is compared; the net's layers are 0, 2, 4 (convolutions), 7 (nine tenths of the weights) and 9."""
    every = ("0", "2", "4", "7", "9")

    def by_hand(weights: Iterable[str], biases: Iterable[str], **keys: object) -> Method:
        return lambda model, data, rate: fixed(model, weights=weights, biases=biases, **keys)

    return {
        "full": by_hand(every, every, micro_batch=BATCH),
        "full, micro-batches of 1": by_hand(every, every),
        "last layer": by_hand(("9",), ("9",), micro_batch=BATCH),
        "last two layers": by_hand(("7", "9"), ("7", "9"), micro_batch=BATCH),
        "biases": by_hand((), every, micro_batch=BATCH),
        "biases, micro-batches of 1": by_hand((), every),
        "TinyTL-like, micro-batches of 1": by_hand(("9",), every),
        "all but the dense layer, micro 1": by_hand(("0", "2", "4", "9"), every, signs=("7",)),
        "ours, 15 %": chosen(0.15),
        "ours, 10 %": chosen(0.10),
        "ours, 7 %": chosen(0.07),
    }


def accuracy(model: nn.Module, made: MemoryPlan, data: Data, training: Training, seed: int) -> float:
    """Accuracy on the test set after training as planned. Micro-batches that add up are taken at once."""
    bench = Workbench(copy.deepcopy(model), training, memory=made)
    with one_thread():
        end = bench.values()
        for block in range(BLOCKS):  # the rate falls, so that accuracy at the end is no matter of luck
            rate = 1 - block / BLOCKS
            end = bench.block(end, data.inputs, data.labels, seed=(seed, block), rate_frac=rate)
        return bench.evaluate(end, data.test_inputs, data.test_labels)[0]


def compare(examples: int, seeds: int, rate: float) -> None:
    """Print accuracy, peak and cost of each method."""
    data = load_data("fashion-mnist", 0)
    data = replace(data, inputs=data.inputs[:examples], labels=data.labels[:examples])
    keys = {"learning_rate": rate, "batch_size": BATCH, "local_steps": examples // BATCH // BLOCKS}
    training = load_config({"training": keys}).training
    print(f"{examples} examples, as many shown, batches of {BATCH}, rate from {rate} down, mean of {seeds} seeds\n")
    print(
        "| method | accuracy | against full | peak of a step | less | trained entries | a batch on a Raspberry Pi 5 |"
    )
    print("|---|---|---|---|---|---|---|")
    best, most = 0.0, 0
    for name, method in methods().items():
        scores = []
        for seed in range(seeds):
            model = build_model("conv", data.inputs[:2], 10, seed)
            made = method(model, data, rate)
            scores.append(accuracy(model, made, data, training, seed))
        batch = (data.inputs[:BATCH].clone(), data.labels[:BATCH].clone())
        small = lean(model, made)
        micro = made.micro_batch if made.micro_batch < BATCH else None
        peak = true_peak(small, batch, micro_batch=micro, in_backward=made.in_backward)
        costs = BlockCosts(small, data.inputs[:1], optimizer="sgd", local_steps=1, micro_batch=made.micro_batch)
        cost = costs.cost(DEVICE, BATCH)
        trained = sum(p.numel() for p in small.parameters() if p.requires_grad)
        mean = statistics.mean(scores)
        best, most = best or mean, most or peak
        print(
            f"| {name} | {mean:.1%} | {100 * (mean - best):+.1f} | {peak / 1e3:.0f} kB | {1 - peak / most:.1%} | {trained:,} "
            f"| {1e3 * cost.energy_j:.1f} mJ, {1e3 * cost.duration_s:.1f} ms |",
            flush=True,
        )


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.1)
    arguments = parser.parse_args()
    if arguments.predict:
        predict()
    else:
        compare(arguments.examples, arguments.seeds, arguments.rate)


if __name__ == "__main__":
    main()
