"""Joules to a target accuracy: blocks that are planned for their joules, beside every fixed batch size and number of steps.

Ten devices hold a tenth of the digits each, unevenly; in every round all of them train a block from the common weights and
the server takes the mean. Joules are the estimator's for a device profile, and those of an exchange.

    OMP_NUM_THREADS=1 python tests/benchmarks/local_plan.py [--device raspberry-pi-5] [--exchange-j 0.5] [--target 0.9]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from budjoule.energy.device_state import DeviceState
from budjoule.training.clients.cost import BlockCosts
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.clients.plan import Plan
from budjoule.training.config.config import load_config
from budjoule.training.device.trainer import Choices, DeviceTrainer
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.task.data import load_data
from budjoule.training.task.models import build_model
from budjoule.training.task.partition import partition

DEVICES = 10
ROUNDS = 120
FIXED = [(batch, steps) for batch in (1, 4, 16, 64) for steps in (1, 10, 100)]


def joules_to_target(
    plan: Plan | None, arguments: argparse.Namespace, costs: BlockCosts, seed: int
) -> tuple[float | None, float, str]:
    """Joules of all devices until the target, the best accuracy seen, and the last plans."""
    config = load_config({"task": {"data": "digits", "model": arguments.model}}, seed=seed)
    data = load_data("digits", seed)
    bench = Workbench(build_model(arguments.model, data.inputs[:2], data.classes, seed), config.training)
    parts = partition("dirichlet:0.5", data.labels.numpy(), DEVICES, seed, owners=None)
    choices = Choices(costs=costs, device=arguments.device, exchange_j=arguments.exchange_j, most_batch=64)
    weights, spent_j, best = bench.values(), 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        ledgers = [Ledger.open(Path(folder) / f"{number}.db", budget_j=1e6) for number in range(DEVICES)]
        devices = [
            DeviceTrainer(
                ledger, bench, data.inputs[part], data.labels[part], choices,
                seed=seed * DEVICES + number, plan=plan, meter=None, look=DeviceState,
            )
            for number, (ledger, part) in enumerate(zip(ledgers, parts, strict=True))
        ]  # fmt: skip
        for version in range(1, ROUNDS + 1):
            deltas = []
            for device in devices:
                device.take(version, weights)
                device.block()
                deltas.append(device.delta())
                device.settle(deltas[-1])
            sizes = np.asarray([len(part) for part in parts], np.float32)
            weights = weights + np.average(deltas, axis=0, weights=sizes).astype(np.float32)
            spent_j = sum(ledger.spent_j for ledger in ledgers) + version * DEVICES * arguments.exchange_j
            with one_thread():
                best = max(best, bench.evaluate(weights, data.test_inputs, data.test_labels)[0])
            if best >= arguments.target:
                break
        plans = sorted({(device.plan().batch_size, device.plan().local_steps) for device in devices})
        for ledger in ledgers:
            ledger.close()
    shown = ", ".join(f"{batch}x{steps}" for batch, steps in plans[:: max(1, len(plans) // 4)])
    return (spent_j if best >= arguments.target else None), best, shown


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="raspberry-pi-5")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--exchange-j", type=float, default=0.5)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    data = load_data("digits", 0)
    model = build_model(arguments.model, data.inputs[:2], data.classes, 0)
    costs = BlockCosts(model, data.inputs[:1], optimizer="sgd", local_steps=1)
    print(
        f"{arguments.model} on {arguments.device}, {arguments.exchange_j} J an exchange: joules to {arguments.target:.0%}"
    )
    plans: list[Plan | None] = [None, *(Plan(batch_size=batch, local_steps=steps) for batch, steps in FIXED)]
    for plan in plans:
        results = [joules_to_target(plan, arguments, costs, seed) for seed in range(arguments.seeds)]
        reached = [result[0] for result in results]
        shown = " ".join(f"{value:8.1f}" if value is not None else "   never" for value in reached)
        name = "planned" if plan is None else f"batch {plan.batch_size}, {plan.local_steps} steps"
        print(
            f"  {name:24} {shown} J   best accuracy {max(r[1] for r in results):.3f}   {results[0][2] if plan is None else ''}",
            flush=True,
        )


if __name__ == "__main__":
    main()
