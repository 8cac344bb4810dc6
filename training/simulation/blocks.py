"""Runs the clients' local blocks: here, when their time has come, or ahead of it in worker processes.

Blocks of a plain dense net that are under way at the same time are trained at once. A block is a function of where it
starts, its client's data and its seed alone, so a run ends in the same bits however many workers it has. The workers are
programs of our own, not forks: what another thread of this process holds cannot block them, and they end when this process
does, killed or not.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from budjoule.energy.errors import RunError
from budjoule.training.clients.dense import TOGETHER, DenseBlock, rows
from budjoule.training.clients.fleet import draw_fleet
from budjoule.training.clients.local import Workbench, batches, block_rng
from budjoule.training.clients.plan import Plan
from budjoule.training.compression.update import Vector
from budjoule.training.config.config import Config
from budjoule.training.memory.tiers import Tiers
from budjoule.training.task.partition import Indices
from budjoule.training.task.shards import Shards

_BLOCK = 1  # purpose of the random stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One local block.

    Args:
        client: Whose.
        count: How many blocks the client has trained before.
        base_version: The version it began from, which decides the learning rate.
        start: The weights it starts from. Shape (layout.size,).
    """

    client: int
    count: int
    base_version: int
    start: Vector


def frozen_entries(bench: Workbench, config: Config, tiers: Tiers | None) -> list[Indices | None]:
    """By client, the entries of the vector that its device does not train."""
    if tiers is None:
        return [None] * config.fleet.clients
    by_device = {device: tiers.frozen(bench.layout, len(bench.trained_names), device) for device in tiers.by_device}
    return [by_device[member.device] for member in draw_fleet(config)]


def run_tasks(
    tasks: Sequence[Task], bench: Workbench, shards: Shards, config: Config, frozen: Sequence[Indices | None]
) -> list[Vector]:
    """The weights that blocks end with, each of shape (layout.size,); of a dense net, all with steps of as many rows."""
    if bench.dense is None:
        return [_run(task, bench, shards, config, frozen[task.client]) for task in tasks]
    blocks = []
    for task in tasks:
        rng, _ = block_rng(_seed(task, config))
        order = batches(shards.size(task.client), Plan.of(config.training), rng)
        blocks.append(
            DenseBlock(
                start=task.start,
                examples=shards.indices(task.client)[order],
                prior=shards.prior(task.client),
                rate_frac=_rate_frac(task, config),
            )
        )
    return bench.dense.train(blocks, shards.data.inputs, shards.data.labels)


def _run(task: Task, bench: Workbench, shards: Shards, config: Config, frozen: Indices | None) -> Vector:
    shard = shards.of(task.client)
    return bench.block(
        task.start,
        shard.inputs,
        shard.labels,
        seed=_seed(task, config),
        prior=shard.prior,
        rate_frac=_rate_frac(task, config),
        frozen=frozen,
    )


def _seed(task: Task, config: Config) -> tuple[int, ...]:
    return (config.seed, task.client, _BLOCK, task.count)


def _rate_frac(task: Task, config: Config) -> float:
    return config.training.learning_rate_decay**task.base_version


class Blocks:
    """Where blocks are trained.

    Args:
        bench: Trains them in this process.
        shards: Gives a client's data.
        config: The run's configuration.
        task: Its task's digest, which a worker compares with what it has loaded.
        tiers: What each device trains under its memory limit.
        workers: How many processes train; with one it is this one.
    """

    def __init__(
        self,
        bench: Workbench,
        shards: Shards,
        config: Config,
        *,
        task: str,
        tiers: Tiers | None = None,
        workers: int = 1,
    ) -> None:
        self._bench, self._shards, self._config = bench, shards, config
        self._frozen = frozen_entries(bench, config, tiers)
        self._workers: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._begun: dict[int, Task] = {}
        self._ahead: dict[int, Future[Vector] | Vector] = {}
        if workers > 1:
            self._workers = [_Worker(config, tiers, bench.layout.size, task) for _ in range(workers)]
            self._threads = ThreadPoolExecutor(workers)
            for worker in self._workers:
                self._idle.put(worker)

    def begin(self, task: Task) -> None:
        """A client begins a block; ask for its result when its time has come."""
        self._begun[task.client] = task
        self._ahead.pop(task.client, None)
        if self._workers:
            self._ahead[task.client] = self._threads.submit(self._ask, task)

    def result(self, task: Task) -> Vector:
        """The weights that a block ends with, which was the last to be begun by its client. Shape (layout.size,).

        Raises:
            RunError: A worker ended; its own words are on stderr.
        """
        if task.client not in self._ahead:
            alike = self._alike(task) if self._bench.dense is not None else [task]
            found = run_tasks(alike, self._bench, self._shards, self._config, self._frozen)
            self._ahead.update(zip((one.client for one in alike), found, strict=True))
        self._begun.pop(task.client, None)
        ahead = self._ahead.pop(task.client)
        return ahead.result() if isinstance(ahead, Future) else ahead

    def _alike(self, task: Task) -> list[Task]:
        """The task, and others that are under way with steps of as many rows."""
        most = self._config.training.batch_size

        def height(one: Task) -> int:
            return rows(min(most, self._shards.size(one.client)))

        wanted = height(task)
        others = (
            one
            for one in self._begun.values()
            if one.client != task.client and one.client not in self._ahead and height(one) == wanted
        )
        return [task, *islice(others, TOGETHER - 1)]

    def close(self) -> None:
        """End the workers."""
        if self._workers:
            self._threads.shutdown(wait=False, cancel_futures=True)
            for worker in self._workers:
                worker.kill()
            self._threads.shutdown()
            for worker in self._workers:
                worker.close()

    def _ask(self, task: Task) -> Vector:
        worker = self._idle.get()
        try:
            return worker.run(task)
        finally:
            self._idle.put(worker)


class _Worker:
    """A process of `worker.py`: a line of JSON begins it, then it answers task by task."""

    def __init__(self, config: Config, tiers: Tiers | None, size: int, task: str) -> None:
        path = [str(Path(entry).resolve()) for entry in sys.path]  # a task's own data and model are found there too
        begin = {"config": config.document, "tiers": None if tiers is None else tiers.to_dict(), "task": task}
        self._size_bytes = 4 * size
        self._process = subprocess.Popen(
            [sys.executable, "-m", "budjoule.training.simulation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            process_group=0,  # a run that is stopped by hand ends its workers itself
        )
        with suppress(BrokenPipeError):  # it ended at once; the first task says so
            self._write(json.dumps(begin).encode() + b"\n")

    def run(self, task: Task) -> Vector:
        assert self._process.stdout is not None
        answer = b""
        with suppress(BrokenPipeError):
            self._write(np.array([task.client, task.count, task.base_version], "<i8").tobytes() + task.start.tobytes())
            answer = self._process.stdout.read(self._size_bytes)
        if len(answer) < self._size_bytes:
            raise RunError(
                f"a worker ended with exit code {self._process.wait()} while it trained a block of client {task.client}; "
                "its own words are above. Go on with --resume, without --workers"
            )
        return np.frombuffer(answer, np.float32).copy()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what it never read
                assert pipe is not None
                pipe.close()

    def _write(self, *parts: bytes) -> None:
        assert self._process.stdin is not None
        for part in parts:
            self._process.stdin.write(part)
        self._process.stdin.flush()
