"""A process that trains local blocks for `blocks.Blocks`: a line of JSON says for which run, then tasks come in and weights go out.

It ends with its standard input, so that none outlives a run that was killed.
"""

import json
import os
import sys

import numpy as np

from budjoule.energy.errors import UsageError
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.config.config import load_config
from budjoule.training.memory.tiers import Tiers
from budjoule.training.simulation.blocks import Task, frozen_entries, run_tasks
from budjoule.training.task.learning import digest, load_task


def main() -> None:
    """Read tasks until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a task's own prints are no answers
    tasks = sys.stdin.buffer
    begin = json.loads(tasks.readline())
    config = load_config(begin["config"])
    tiers = None if begin["tiers"] is None else Tiers.from_dict(begin["tiers"])
    with one_thread():
        task = load_task(config)
        bench = Workbench(task.model, config.training, memory=None if tiers is None else tiers.together)
        if digest(task.data, bench.values()) != begin["task"]:
            raise UsageError(
                f"task.data {config.task.data!r} or task.model {config.task.model!r} gave something else when it was loaded "
                "again; let the seed alone decide what they give, or train without --workers"
            )
        frozen = frozen_entries(bench, config, tiers)
        size_bytes = 4 * bench.layout.size
        while len(numbers := tasks.read(24)) == 24:
            client, count, base_version = np.frombuffer(numbers, "<i8").tolist()
            start = np.frombuffer(tasks.read(size_bytes), np.float32).copy()  # writable, as torch wants it
            begun = Task(client=client, count=count, base_version=base_version, start=start)
            answers.write(run_tasks([begun], bench, task.shards, config, frozen)[0].tobytes())
            answers.flush()


if __name__ == "__main__":
    main()
