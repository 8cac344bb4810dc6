"""The plan that a whole cohort follows: chosen once, from the run's data, under the limit that the configuration sets."""

from typing import TYPE_CHECKING

import numpy as np

from budjoule.training.config.config import Training
from budjoule.training.memory.choose import plan
from budjoule.training.memory.limit import MemoryLimit
from budjoule.training.memory.memory_plan import MemoryPlan
from budjoule.training.memory.peak import Footprint
from budjoule.training.task.data import Data

if TYPE_CHECKING:
    from torch import nn

_PROBE_STEPS = 200


def cohort_plan(
    model: "nn.Module",
    data: Data,
    training: Training,
    limit: MemoryLimit,
    *,
    full: Footprint,
    batch: int,
    seed: int,
    random: bool = True,
) -> MemoryPlan | None:
    """What clients of a memory limit train and send; `None` where full training fits.

    The probe runs where the plan is made, on some examples of the run's data, as a server does that has a few of its own.
    The model is trained from scratch, so the seed may give a layer's weights.

    Args:
        model: The initial model, the same for all.
        data: What is learnt.
        training: The local block.
        limit: The memory of the devices: the smallest's for one plan for all, each tier's for one a tier.
        full: What full training takes.
        batch: Examples of one step.
        seed: Seed of the run.
        random: Whether a layer may stay random.

    Raises:
        UsageError: Nothing of the model can be trained within the limit.
    """
    memory_bytes = limit.bytes_of(full.peak_bytes)
    if memory_bytes >= full.peak_bytes:
        return None
    order = np.random.default_rng([seed, 0x3E3]).permutation(len(data.labels))
    picks = [np.take(order, range(at * batch, (at + 1) * batch), mode="wrap") for at in range(_PROBE_STEPS)]
    return plan(
        model,
        data.inputs[:batch],
        data.labels[:batch],
        memory_bytes=memory_bytes,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        probe=[(data.inputs[pick], data.labels[pick]) for pick in picks],
        seed=seed if random else None,
    )
