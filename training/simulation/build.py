"""Builds a run's parts from its configuration (data, model, fleet, costs, server, clients) and sums the run up at the end."""

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import RunError, UsageError
from budjoule.training.clients.client import Client, Terms
from budjoule.training.clients.cost import BlockCosts
from budjoule.training.clients.fleet import Member, draw_fleet
from budjoule.training.clients.local import Workbench
from budjoule.training.clients.statistics import check_statistics
from budjoule.training.compression.levels import parse_levels
from budjoule.training.compression.update import Vector
from budjoule.training.config.config import Config, Training
from budjoule.training.ledger.entries import CAUSES
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.links.link_state import parse_link_state
from budjoule.training.links.links import load_link
from budjoule.training.memory.lean_model import lean
from budjoule.training.memory.limit import limits_of
from budjoule.training.memory.memory_plan import MemoryPlan
from budjoule.training.memory.predict import footprint
from budjoule.training.memory.tiers import Tiers, plan_tiers
from budjoule.training.schedulers import make_scheduler
from budjoule.training.server.combine import parse_aggregate
from budjoule.training.server.methods import updates_a_version
from budjoule.training.server.privacy import epsilon_spent, plan_privacy
from budjoule.training.server.secure_sum import setup_bytes
from budjoule.training.server.server import Server, parse_broadcast
from budjoule.training.simulation.blocks import Blocks
from budjoule.training.simulation.presence import draw_presences, unmetered
from budjoule.training.simulation.record import Record
from budjoule.training.simulation.roster import Roster
from budjoule.training.simulation.simulator import Simulator
from budjoule.training.task.data import Data
from budjoule.training.task.learning import digest, load_task
from budjoule.training.task.shards import Shards

if TYPE_CHECKING:
    from torch import nn

    from budjoule.training.simulation.checkpoint import Checkpoint

UNLIMITED_J = 1e9  # the ledger of a client without a budget: 32 years at one watt


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a run is made of before it begins.

    Args:
        config: The run's configuration.
        data: What is learnt.
        shards: Who holds it.
        members: Who the clients are.
        bench: The model, ready to train and to evaluate.
        initial: Its first weights. Shape (layout.size,).
        terms: What is the same for all clients.
        costs: What local blocks cost, by device.
        tiers: What clients train under their memory limits; `None` where they train everything.
        full_memory_bytes: The most that a training step holds when it trains everything. [B]
    """

    config: Config
    data: Data
    shards: Shards
    members: list[Member]
    bench: Workbench
    initial: Vector
    terms: Terms
    costs: Mapping[str, BlockCosts]
    tiers: Tiers | None
    full_memory_bytes: int

    @classmethod
    def of(cls, config: Config) -> "Parts":
        """Build the parts; everything that a configuration can get wrong fails here, before anything is written.

        Raises:
            UsageError: The data, the model, a profile, a link, a compressor or a policy cannot be used as given.
        """
        training = config.training
        compressors = parse_levels(config.update.compress, error_feedback=config.update.error_feedback)
        broadcast = parse_broadcast(config)
        parse_aggregate(config.server.aggregate)
        plan_privacy(config)
        make_scheduler(config.schedule.policy, seed=config.seed, client=0)
        parse_link_state(config.fleet.link_state, seed=config.seed, client=0)
        members = draw_fleet(config)
        draw_presences(config, [unmetered(member.link) for member in members])
        task = load_task(config)
        data, model, batch = task.data, task.model, task.batch
        full = footprint(model, data.inputs[:batch], data.labels[:batch], optimizer=training.optimizer)
        limits = limits_of(training.memory, config.fleet.device_shares)
        tiers = plan_tiers(model, data, training, limits, full=full, batch=batch, seed=config.seed)
        plans: Mapping[str, MemoryPlan | None] = dict.fromkeys(limits) if tiers is None else tiers.by_device
        different = {id(plan): plan for plan in plans.values()}  # devices of one tier share what is traced
        traced = {key: _costs(model, data, training, plan) for key, plan in different.items()}
        costs = {device: traced[id(plan)] for device, plan in plans.items()}
        _check_costs(costs, members, task.shards, training)
        bench = Workbench(model, training, memory=None if tiers is None else tiers.together)
        check_statistics(bench.layout, len(bench.trained_names), config, update=compressors, broadcast=broadcast)
        cohort = min(config.server.cohort, config.fleet.clients)
        setup_down, setup_up = setup_bytes(cohort) if config.privacy.secure_aggregation else (0, 0)
        terms = Terms(
            layout=bench.layout,
            compressors=compressors,
            broadcast=broadcast,
            horizon_s=config.budget.horizon_s,
            upload_bytes=config.budget.upload_bytes,
            slot_s=config.schedule.slot_s if config.slots else 0.0,
            error_frac=config.fleet.energy_error_frac,
            awake_frac=config.fleet.awake_frac,
            error_feedback=config.update.error_feedback,
            setup_down_bytes=setup_down,
            setup_up_bytes=setup_up,
        )
        return cls(
            config=config,
            data=data,
            shards=task.shards,
            members=members,
            bench=bench,
            initial=bench.values(),
            terms=terms,
            costs=costs,
            tiers=tiers,
            full_memory_bytes=full.peak_bytes,
        )

    @cached_property
    def task_digest(self) -> str:
        """What tells the run's task from another whose configuration reads the same."""
        return digest(self.data, self.initial)

    def record(self, checkpoint: "Checkpoint", folder: Path) -> Record:
        """The run folder's events and totals.

        Raises:
            RunError: `events.jsonl` cannot be written.
        """
        return Record(
            folder / "events.jsonl",
            target_accuracy_frac=self.config.stop.target_accuracy_frac,
            evaluate_every=self.config.server.evaluate_every or self._evaluate_every(),
            evaluate=lambda model: self.bench.evaluate(model, self.data.test_inputs, self.data.test_labels)[:2],
            spent_j=checkpoint.spent_j,
        )

    def blocks(self, workers: int) -> Blocks:
        """Where local blocks are trained."""
        return Blocks(self.bench, self.shards, self.config, task=self.task_digest, tiers=self.tiers, workers=workers)

    def simulator(self, checkpoint: "Checkpoint", record: Record, blocks: Blocks) -> Simulator:
        """The simulator at its start, its ledgers in the checkpoint's file.

        Raises:
            LedgerError: The file's ledgers were made with another budget.
        """
        config = self.config

        def make(client: int) -> Client:
            return self._client(self.members[client], checkpoint)

        tasks_s = [make(member.client).expected_task_s() for member in self.members]  # which opens everyone's ledger
        deadline_s = config.server.deadline_s
        if deadline_s is None:  # twice what half of the fleet needs, and the wait for its slot
            deadline_s = 2 * statistics.median(tasks_s) + self.terms.slot_s
        return Simulator(
            config,
            server=Server(
                config,
                self.bench.layout,
                self.initial,
                deadline_s=deadline_s,
                noise_seed=config.seed,
                holdings=self.shards.size,
            ),
            clients=Roster(len(self.members), make),
            shards=self.shards,
            blocks=blocks,
            layout=self.bench.layout,
            presences=draw_presences(config, [unmetered(member.link) for member in self.members]),
            record=record,
            shelf=checkpoint.residual,
        )

    def summary(self, simulator: Simulator) -> dict[str, Any]:
        """The run in numbers; sums over clients where a sum makes sense."""
        config, totals = self.config, simulator.record.totals
        by_client = [self._client_row(simulator.clients.glance(member.client)) for member in self.members]
        limited = config.budget.energy_j < UNLIMITED_J
        average = simulator.server.state.average
        _, _, right = self.bench.evaluate(average, self.data.test_inputs, self.data.test_labels)
        return {
            "method": config.server.method,
            "policy": config.schedule.policy,
            "seed": config.seed,
            "accuracy_frac": totals.accuracy_frac,
            "loss": totals.loss if abs(totals.loss) < float("inf") else None,
            "target_accuracy_frac": config.stop.target_accuracy_frac if config.stop.target_accuracy_frac <= 1 else None,
            "time_to_target_s": totals.time_to_target_s,
            "energy_to_target_j": totals.energy_to_target_j,
            "uplink_bytes_to_target": totals.uplink_bytes_to_target,
            "worst_decile_accuracy_frac": self.shards.worst_decile_accuracy(right),
            "budget_j": sum(row["budget_j"] for row in by_client) if limited else None,
            "spent_j": sum(row["spent_j"] for row in by_client),
            "spent_by_cause_j": {cause: sum(row["spent_by_cause_j"][cause] for row in by_client) for cause in CAUSES},
            "overspent_clients": sum(row["overspent_j"] > 0 for row in by_client),
            "uplink_bytes": totals.uplink_bytes,
            "downlink_bytes": totals.downlink_bytes,
            "peak_memory_bytes": self.full_memory_bytes if self.tiers is None else self.tiers.peak_bytes,
            "full_memory_bytes": self.full_memory_bytes,
            "simulated_duration_s": simulator.now_s,
            "wall_duration_s": totals.wall_duration_s,
            "stopped_by": simulator.stopped or "clients",  # none is left that can take part
            "rounds": simulator.server.state.version,
            "clients": config.fleet.clients,
            "participating_clients": sum(row["taken"] > 0 for row in by_client),
            "sends": sum(row["sends"] for row in by_client),
            "lost": sum(row["lost"] for row in by_client),
            "interrupted": totals.interrupted,
            "rejects": dict(totals.rejects),
            "privacy": self._privacy(simulator.server),
            "parameters": self.bench.layout.size,
            "model_sha256": hashlib.sha256(average.astype("<f4").tobytes()).hexdigest(),
            "by_client": by_client,
        }

    def save_model(self, simulator: Simulator, path: Path) -> None:
        """Write the averaged model's state dict, for `torch.load(path, weights_only=True)`.

        Raises:
            RunError: The file cannot be written.
        """
        import torch

        self.bench.load(simulator.server.state.average)
        state = self.bench.state_dict()
        try:
            torch.save(state, path)
        except (OSError, RuntimeError) as error:
            raise RunError(f"cannot write {path}: {error}; check the free space and permissions") from None

    def _privacy(self, server: Server) -> dict[str, Any] | None:
        """What was promised and what has been spent of it; None without differential privacy."""
        if server.privacy is None:
            return None
        most = max(server.state.participations.values(), default=0)
        return {**asdict(server.privacy), "epsilon_spent": epsilon_spent(server.privacy, most)}

    def _client(self, member: Member, checkpoint: "Checkpoint") -> Client:
        config = self.config
        batch = min(config.training.batch_size, self.shards.size(member.client))
        return Client(
            self.terms,
            member,
            ledger=Ledger.attach(
                checkpoint.connection,
                f"client-{member.client}",
                budget_j=min(config.budget.energy_j, UNLIMITED_J),
            ),
            scheduler=make_scheduler(config.schedule.policy, seed=config.seed, client=member.client),
            cost=self.costs[member.device].cost(member.device, batch),
            link=load_link(member.link),
            link_state=parse_link_state(config.fleet.link_state, seed=config.seed, client=member.client),
        )

    def _client_row(self, client: Client) -> dict[str, Any]:
        member, state, ledger = client.member, client.state, client.ledger
        return {
            "client": member.client,
            "device": member.device,
            "link": member.link,
            "examples": self.shards.size(member.client),
            "peak_memory_bytes": (
                self.full_memory_bytes if self.tiers is None else self.tiers.by_device[member.device].peak_bytes
            ),
            "budget_j": ledger.budget_j if self.config.budget.energy_j < UNLIMITED_J else None,
            "spent_j": ledger.spent_j,
            "spent_by_cause_j": ledger.spent_by_cause_j,
            "overspent_j": ledger.overspent_j,
            "uplink_bytes": state.uplink_bytes,
            "downlink_bytes": state.downlink_bytes,
            "sends": state.sends,
            "lost": state.lost,
            "taken": state.taken,
            "blocks": state.blocks,
            "straggler": member.straggler,
        }

    def _evaluate_every(self) -> int:
        """As many versions that evaluating costs no more than about a version's training (a forward pass is a third of a step)."""
        config = self.config
        trained = updates_a_version(config) * config.training.local_steps * config.training.batch_size
        return max(1, -(-len(self.data.test_labels) // (3 * trained)))


def _check_costs(costs: Mapping[str, BlockCosts], members: list[Member], shards: Shards, training: Training) -> None:
    """Find what every client's block costs: an unknown device or an untraceable model is known now.

    Raises:
        UsageError: A device is unknown, or the model cannot be trained on as many examples as a client has.
    """
    needed = {(member.device, min(training.batch_size, shards.size(member.client))) for member in members}
    for device, batch in sorted(needed, reverse=True):
        try:
            costs[device].cost(device, batch)
        except UsageError as error:
            if batch > 1:
                raise
            costs[device].cost(device, 2)  # what fails with two as well says so itself
            alone = sum(shards.size(member.client) == 1 for member in members)
            raise UsageError(
                f"{alone} of {len(members)} clients hold a single example, and the model does not train on one alone: "
                f"{str(error).partition(';')[0]}; lower fleet.clients, take another task.partition, or a norm that needs no "
                "batch, such as nn.GroupNorm"
            ) from None


def _costs(model: "nn.Module", data: Data, training: Training, plan: MemoryPlan | None) -> BlockCosts:
    return BlockCosts(
        model if plan is None else lean(model, plan),
        data.inputs[:1],
        optimizer=training.optimizer,
        local_steps=training.local_steps,
        micro_batch=None if plan is None else plan.micro_batch,
    )
