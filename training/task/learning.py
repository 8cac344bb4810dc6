"""What a run's clients learn, from its configuration: the data, who holds which of them, and the model."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budjoule.training.compression.update import Vector
from budjoule.training.config.config import Config
from budjoule.training.task.data import Data, load_data
from budjoule.training.task.models import build_model
from budjoule.training.task.partition import partition
from budjoule.training.task.shards import Shards

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningTask:
    """What is learnt.

    Args:
        data: The data.
        shards: Who holds which.
        model: The initial model.
        batch: Examples of a step of the client with the most data.
    """

    data: Data
    shards: Shards
    model: "nn.Module"
    batch: int


def digest(data: Data, initial: Vector) -> str:
    """What tells a task from another whose configuration reads the same: its examples, whose they are, and the first weights.

    Args:
        data: The data.
        initial: The first weights. Shape (layout.size,).
    """
    found = hashlib.blake2b(digest_size=16)
    for part in (data.inputs, data.labels, data.test_inputs, data.test_labels):
        found.update(f"{part.dtype} {tuple(part.shape)}".encode())
        found.update(part.contiguous().numpy().data)
    found.update(b"" if data.owners is None else data.owners.tobytes())
    found.update(initial.tobytes())
    return found.hexdigest()


def load_task(config: Config) -> LearningTask:
    """Load the data, deal them out and build the model.

    Raises:
        UsageError: The data, the partition or the model cannot be used as given.
    """
    data = load_data(config.task.data, config.seed)
    parts = partition(config.task.partition, data.labels.numpy(), config.fleet.clients, config.seed, owners=data.owners)
    return LearningTask(
        data=data,
        shards=Shards(data, parts, priors=config.training.logit_adjustment),
        model=build_model(config.task.model, data.inputs[:2], data.classes, config.seed),
        batch=min(config.training.batch_size, max(len(part) for part in parts)),
    )
