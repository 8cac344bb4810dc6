"""Optimizer steps in closed form: what PyTorch's multi-tensor (`foreach`) implementations read, write and launch for a list of parameters.

Running them without data would cost a third of the tracing time and give the same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from budjoule.energy.errors import UsageError
from budjoule.energy.tracing.memory import Memory
from budjoule.energy.workload import OpCost

CHUNK = 65536  # elements a thread block takes, and ...
BLOCKS = 320  # ... blocks a launch takes: aten/src/ATen/native/cuda/MultiTensorApply.cuh
TENSORS = 48  # tensors a launch takes, between 110 for one list and 30 for five
LOOP = "-loop"  # after an optimizer's name: one parameter after the other, foreach=False, PyTorch's default before 2.0
STEP_CALLS = 8  # launches' worth of host time on a processor to call backward, step and zero_grad (assumed)


@dataclass(frozen=True, slots=True)
class OptimizerCost:
    """One optimizer: accesses of each parameter's element, foreach calls, state and square roots or divisions an element."""

    accesses: int
    calls: int
    state: int
    heavy: int


# As PyTorch 2.13 dispatches them with foreach=True and default arguments; a test counts along, but for adafactor, whose states are
# sums over rows and columns. sgd-momentum has momentum and no nesterov.
OPTIMIZERS: dict[str, OptimizerCost] = {
    "none": OptimizerCost(0, 0, 0, 0),
    "sgd": OptimizerCost(3, 1, 0, 0),
    "sgd-momentum": OptimizerCost(8, 3, 1, 0),
    "adam": OptimizerCost(18, 7, 2, 2),
    "adamw": OptimizerCost(20, 8, 2, 2),
    "adamax": OptimizerCost(16, 6, 2, 1),
    "nadam": OptimizerCost(22, 8, 2, 2),
    "radam": OptimizerCost(22, 9, 2, 2),
    "adagrad": OptimizerCost(13, 5, 1, 2),
    "adadelta": OptimizerCost(27, 11, 2, 3),
    "rmsprop": OptimizerCost(13, 5, 1, 2),
    "rprop": OptimizerCost(38, 16, 2, 0),
    "asgd": OptimizerCost(12, 4, 1, 0),
    "adafactor": OptimizerCost(18, 12, 0, 2),
    # one kernel reads parameter, gradient and states and writes parameter and states
    "sgd-fused": OptimizerCost(3, 1, 0, 0),
    "sgd-momentum-fused": OptimizerCost(5, 1, 1, 0),
    "adam-fused": OptimizerCost(7, 1, 2, 2),
    "adamw-fused": OptimizerCost(7, 1, 2, 2),
    "adagrad-fused": OptimizerCost(5, 1, 1, 2),
}


def optimizer_cost(name: str) -> OptimizerCost:
    """Look up an optimizer; `adam-loop` is `adam` without foreach.

    Raises:
        UsageError: It is not in the table, or never runs as a loop.
    """
    row = OPTIMIZERS.get(name.removesuffix(LOOP))
    if row is None or (name.endswith(LOOP) and not loops(name.removesuffix(LOOP))):
        raise UsageError(
            f"unknown optimizer {name!r}; the table has {', '.join(OPTIMIZERS)}, and adam{LOOP} and the like"
        )
    return row


def loops(row: str) -> bool:
    """Whether a row of `OPTIMIZERS` can run one parameter after the other instead."""
    return row != "none" and not row.endswith("-fused")


def row_of(optimizer: torch.optim.Optimizer) -> str | None:
    """The row of `OPTIMIZERS` that one of PyTorch's optimizers runs as, or None for another's."""
    if not type(optimizer).__module__.startswith("torch.optim"):
        return None
    name = type(optimizer).__name__.lower()
    groups = optimizer.param_groups
    if name == "sgd" and any(group.get("momentum") for group in groups):
        name = "sgd-momentum"
    if any(group.get("fused") for group in groups):
        name += "-fused"
    if name not in OPTIMIZERS:
        return None
    return name + LOOP if loops(name) and all(group.get("foreach") is False for group in groups) else name


def optimizer_memory(name: str, parameters: Mapping[str, torch.Tensor], memory: Memory) -> None:
    """Add what an optimizer keeps for its parameters, and the copy of them that its step works on.

    The copy: PyTorch says of its `foreach` implementations that they use about the parameters' size more than a loop would.
    """
    row = optimizer_cost(name)
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    memory.kept_bytes += row.state * size
    if row.calls > 1 and not name.endswith(LOOP):
        memory.pass_through(size)


def optimizer_ops(name: str, parameters: Mapping[str, torch.Tensor], *, precision: str) -> list[OpCost]:
    """The op costs of one optimizer step, the bytes with each parameter's module, the launches with the model.

    Args:
        name: A row of `OPTIMIZERS`.
        parameters: Those that received a gradient, by dotted name.
        precision: Precision of the vector unit that does the maths.
    """
    row = optimizer_cost(name)
    if not row.calls or not parameters:
        return []
    chunks = sum(-(-p.numel() // CHUNK) for p in parameters.values())
    together = row.calls * max(-(-len(parameters) // TENSORS), -(-chunks // BLOCKS))
    alone = row.calls * len(parameters)
    label = f"optimizer.{name}"
    ops = [
        OpCost(
            name=label,
            phase="optimizer",
            kind="copy",
            precision=precision,
            launches=alone if name.endswith(LOOP) else together,
            cpu_launches=alone + STEP_CALLS,  # on a processor PyTorch takes one parameter after the other
        )
    ]
    modules: dict[str, list[torch.Tensor]] = {}
    for path, parameter in parameters.items():
        modules.setdefault(path.rpartition(".")[0], []).append(parameter)
    for module, owned in modules.items():
        elements = sum(p.numel() for p in owned)
        ops.append(
            OpCost(
                name=label,
                module=module,
                phase="optimizer",
                kind="elementwise",
                precision=precision,
                elements=max(row.calls, 2 * row.heavy) * elements,
                heavy_elements=row.heavy * elements,
                weight_bytes=sum(row.accesses * p.numel() * p.element_size() for p in owned),
                launches=0,
            )
        )
    return ops
