"""The in-process engine: a discrete-event virtual clock over real local training.

Events are taken in order of their time, ties in the order they were made, and everything random is a function of the seed
and a count, so that a run repeats to the bit. A transfer keeps the rate that its link has when it begins.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from budjoule.energy.errors import BudgetExhausted
from budjoule.training.clients.client import spawn_rng
from budjoule.training.compression.frame import pack, unpack
from budjoule.training.compression.residual import ErrorFeedback
from budjoule.training.compression.update import Layout, Update, Vector
from budjoule.training.config.config import Config
from budjoule.training.server.engine import Broadcast
from budjoule.training.server.server import Server
from budjoule.training.simulation.blocks import Blocks, Task
from budjoule.training.simulation.presence import Presence
from budjoule.training.simulation.record import DIVERGED, DIVERGED_BLOCKS, Record
from budjoule.training.simulation.roster import Roster
from budjoule.training.simulation.secure_cohort import SecureCohort
from budjoule.training.task.shards import Shards

_LOSS, _FRAME = 2, 3  # purposes of random streams; blocks have 1


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """Something that will happen: `kind` is a row of `Simulator.step`, `subject` a client, or an alarm's mark."""

    time_s: float
    order: int
    kind: str = field(compare=False)
    subject: int = field(compare=False)
    frame: bytes = field(compare=False, default=b"")
    energy_j: float = field(compare=False, default=0.0)
    level: int = field(compare=False, default=0)


class Simulator:
    """An `Engine` for `Server`: clients that train for real on a clock that is not.

    Args:
        config: The run's configuration.
        server: The server's algorithm.
        clients: All clients, by number.
        shards: Gives a client's data.
        blocks: Where local blocks are trained.
        layout: Names and shapes of what is trained and sent.
        presences: When each client may work.
        record: Where events and totals go.
        shelf: Fetches the residual of a client that was put away.
    """

    def __init__(
        self,
        config: Config,
        *,
        server: Server,
        clients: Roster,
        shards: Shards,
        blocks: Blocks,
        layout: Layout,
        presences: Sequence[Presence],
        record: Record,
        shelf: Callable[[int], Vector],
    ) -> None:
        self.server = server
        self.clients = clients
        self.record = record
        self.now_s = 0.0
        self.events = 0
        self.queue: list[Event] = []
        self.order = 0
        self.free: list[int] = []
        self.touched: set[int] = set()
        self.stopped = ""
        self._presences = presences
        self._out: set[int] = set()
        self._place: dict[int, int] = {}
        self._config = config
        self._shards = shards
        self._blocks = blocks
        self._layout = layout
        self._compressors = clients[0].compressors
        self._end_s = config.stop.duration_s
        self._shelf = shelf
        self._secure = SecureCohort(config, layout) if config.privacy.secure_aggregation else None

    def begin(self) -> None:
        """Evaluate the untrained model and invite the first clients."""
        self.set_free(client for client in range(len(self.clients)) if self._may_work(client))
        for client in range(len(self.clients)):
            self._watch(client)
        self._evaluate()
        self.server.begin(self)

    def step(self) -> bool:
        """Take the next event; False when the run is over."""
        if self.stopped or not self.queue:
            return False
        event = heapq.heappop(self.queue)
        if event.time_s > self._end_s:
            heapq.heappush(self.queue, event)
            self.now_s, self.stopped = self._end_s, "duration"
            return False
        self.now_s = event.time_s
        self.events += 1
        if event.kind == "block":
            self._block_ended(event.subject)
        elif event.kind == "arrive":
            self._arrived(event)
        elif event.kind == "lost":
            self._note_send(event, lost=True)
            self._rest(event.subject)
            self.server.give_up(self, event.subject)
        elif event.kind == "cut":
            self._cut(event.subject)
        elif event.kind == "presence":
            self._presence_changed(event.subject)
        else:
            self.server.alarmed(self, event.subject)
        return True

    def end(self) -> None:
        """Aggregate what still waits in the buffer, unless a stop condition ended the run, and book the blocks under way as far as they ran."""
        if not self.stopped:
            self.server.finish(self)
        begun = [event for event in self.queue if event.kind in ("block", "cut")]
        for event in sorted(begun, key=lambda event: event.subject):
            self._pay_begun(event.subject)
            self.queue.remove(event)  # a run that is killed before its summary stands, and resumed, ends once more
        heapq.heapify(self.queue)
        self._evaluate()

    # What the server asks of an engine.

    def free_clients(self) -> Sequence[int]:
        """Clients at rest that may still take part; none once the run stops."""
        return () if self.stopped else self.free

    def invite(self, client: int, model: Broadcast) -> bool:
        """Hand the model to a client and let it begin; False when it cannot pay for a whole task any more."""
        subject, state = self.clients[client], self.clients[client].state
        self.touched.add(client)
        self._take(client)
        size_bytes = len(model.frame) + subject.setup_down_bytes
        if not self._may_work(client):  # an event of this very moment, which is still to come, says so
            return False
        if not subject.can_take_part(self.now_s, size_bytes, battery_j=self._battery_j(client)):
            # a battery is charged again, a budget is not
            state.retired = not subject.can_take_part(self.now_s, size_bytes)
            return False
        self._unshelve(client)
        self._out.add(client)
        duration_s = subject.pay_download(self.now_s, size_bytes)
        self.record.downlink(size_bytes)
        state.base_version, state.base, state.local, state.unsent_blocks = model.version, model.values, model.values, 0
        self._start_block(client, self.now_s + duration_s)
        return True

    def alarm(self, time_s: float, mark: int) -> None:
        """Ring at a time. [s]"""
        self._push(time_s, "alarm", mark)

    def retire(self, client: int) -> None:
        """Offer a client to the server no more."""
        self.clients[client].state.retired = True
        if client in self._place:
            self._take(client)
        self.touched.add(client)

    def agree(self, clients: Sequence[int]) -> Mapping[int, bytes]:
        """Public keys of a round's secure aggregation; its messages ride on the clients' transfers."""
        assert self._secure is not None
        return self._secure.publics(self.server.state.round, clients)

    def reveal(self, publics: Mapping[int, bytes], survivors: Set[int]) -> Mapping[int, Mapping[int, bytes]]:
        """What the survivors of a round reveal."""
        assert self._secure is not None
        return self._secure.reveal(self.server.state.round, publics, survivors)

    def published(self, updates: int, mean_staleness: float) -> None:
        """Note a new version, evaluate it if it is due, and see whether the run is over."""
        version = self.server.state.version
        self.record.aggregated(self.now_s, version, updates, mean_staleness)
        if version >= self._config.stop.rounds:
            self.stopped = "rounds"
        if self.record.due(version):
            self._evaluate()
            if self.record.reached:
                self.stopped = "target"

    def rejected(self, client: int, reason: str, *, after_all: bool = False) -> None:
        """Note a refused arrival."""
        if after_all:
            self.touched.add(client)
            self.clients[client].state.taken -= 1
        self.record.rejected(self.now_s, client, reason)

    # What clients do.

    def _block_ended(self, client: int) -> None:
        """The block that ends now: book it, train it, and send, train on or leave."""
        subject = self.clients[client]
        self.touched.add(client)
        try:
            subject.pay_block()
            if not self._train(client):
                return self._leave(client, discard=True)
            self._decide(client)
        except BudgetExhausted:  # a reading above its reservation left less than was planned with
            subject.state.retired = True
            self._leave(client)
        return None

    def _train(self, client: int) -> bool:
        subject = self.clients[client]
        subject.state.local = self._blocks.result(self._task(client))
        subject.state.blocks += 1
        subject.state.unsent_blocks += 1
        totals = self.record.totals
        if np.isfinite(subject.state.local).all():
            totals.diverged_in_a_row = 0
            return True
        totals.diverged_in_a_row += 1
        self.record.rejected(self.now_s, client, "local training diverged to NaN or infinity; the block is discarded")
        if totals.diverged_in_a_row >= DIVERGED_BLOCKS:
            self.stopped = DIVERGED
        return False

    def _task(self, client: int) -> Task:
        state = self.clients[client].state
        assert state.local is not None
        return Task(client=client, count=state.blocks, base_version=state.base_version, start=state.local)

    def _decide(self, client: int) -> None:
        subject = self.clients[client]
        delta = subject.delta()
        offer = subject.offer(self.now_s, delta)
        level = subject.scheduler.decide(offer)
        if level is None:
            subject.scheduler.settle(0.0)
            in_time = subject.next_send_s(self.now_s) <= self.server.closes_s(client)
            if in_time and subject.can_train_on(self.now_s, offer, battery_j=self._battery_j(client)):
                return self._start_block(client, self.now_s)
            # Nothing more can be learnt, or heard: what there is goes out with the reserve that was kept for it.
            level = subject.flush_level(self.now_s)
            if level is None:
                subject.state.retired = True
                return self._leave(client)
        return self._send(client, delta, level)

    def _send(self, client: int, delta: Vector, level: int) -> None:
        subject = self.clients[client]
        state = subject.state
        update = Update(
            client=client, base_version=state.base_version, examples=self._shards.size(client), values=delta
        )
        frame = self._frame(update, level, spawn_rng(self._config.seed, client, _FRAME, state.sends))
        size_bytes = len(frame) + subject.setup_up_bytes
        energy_j, duration_s = subject.pay_upload(self.now_s, size_bytes)
        subject.scheduler.settle(energy_j)
        self.record.uplink(size_bytes)
        lost = (
            self._dropped(client, state.sends)
            or self._presences[client].changes_s(self.now_s) < self.now_s + duration_s
        )
        state.sends += 1
        state.lost += lost
        if subject.keeps_residual:
            feedback = ErrorFeedback(delta)
            if not lost:  # the sender hears no answer to a lost frame and keeps all of it
                feedback.settle(unpack(frame, self._layout, max_bytes=len(frame)).values)
            state.residual = feedback.residual
        state.base = state.local = None
        kind = "lost" if lost else "arrive"
        self._push(self.now_s + duration_s, kind, client, frame=frame, energy_j=energy_j, level=level)

    def _dropped(self, client: int, send: int) -> bool:
        share = self._config.fleet.dropout_frac
        return share > 0 and bool(spawn_rng(self._config.seed, client, _LOSS, send).random() < share)

    def _frame(self, update: Update, level: int, rng: np.random.Generator) -> bytes:
        """An update of a level as it travels."""
        if self._secure is None:
            return pack(update, self._layout, self._compressors[level], rng)
        server = self.server.state
        return self._secure.frame(update, server.round, server.publics, rng)

    def _arrived(self, event: Event) -> None:
        client, subject = event.subject, self.clients[event.subject]
        self.touched.add(client)
        self._note_send(event, lost=False)
        self._rest(client)
        reply = self.server.receive(self, client, event.frame)
        if reply == "taken":
            subject.state.taken += 1
            return
        self._unshelve(client)
        if reply == "dropped":  # out of all proportion, and would be again: forgotten, like a block that diverged
            subject.state.residual = None
        elif subject.state.residual is not None:  # refused is not delivered
            sent = unpack(event.frame, self._layout, max_bytes=len(event.frame)).values
            subject.state.residual = subject.state.residual + sent
        self.server.give_up(self, client)

    def _evaluate(self) -> None:
        self.record.evaluate(self.now_s, self.server.state.version, self.server.state.average)

    def _note_send(self, event: Event, *, lost: bool) -> None:
        base_version = self.clients[event.subject].state.base_version
        self.record.sent(
            self.now_s,
            client=event.subject,
            base_version=base_version,
            staleness=self.server.state.version - base_version,
            size_bytes=len(event.frame) + self.clients[event.subject].setup_up_bytes,
            energy_j=event.energy_j,
            level=event.level,
            spent_j=self.clients[event.subject].ledger.spent_j,
            lost=lost,
        )

    def _start_block(self, client: int, from_s: float) -> None:
        subject = self.clients[client]
        start_s = subject.block_start_s(from_s)
        subject.state.block_started_s = start_s
        end_s, gone_s = start_s + subject.block_duration_s, self._presences[client].changes_s(self.now_s)
        self._push(min(end_s, gone_s), "block" if end_s <= gone_s else "cut", client)
        if end_s <= gone_s:
            self._blocks.begin(self._task(client))

    def _cut(self, client: int) -> None:
        """The device is needed, unplugged or gone in the middle of a block, which is lost; its joules are not."""
        self.record.totals.interrupted += 1
        self._pay_begun(client)
        self._leave(client)

    def _pay_begun(self, client: int) -> None:
        """Book the part of a block that has run."""
        subject = self.clients[client]
        self.touched.add(client)
        run_s = self.now_s - subject.state.block_started_s
        try:
            if run_s > 0:
                subject.pay_block(run_s / subject.block_duration_s)
        except BudgetExhausted:
            subject.state.retired = True

    def _presence_changed(self, client: int) -> None:
        """A client comes or goes; what it is in the middle of is cut off by an event of its own."""
        present = self._may_work(client)
        if present and client not in self._place and client not in self._out:
            self._rest(client)
        elif not present and client in self._place:
            self._take(client)
        if not self.clients.retired(client):
            self._watch(client)
        self.server.wake(self)

    def _watch(self, client: int) -> None:
        """Look again when a client's presence may change."""
        if (change_s := self._presences[client].turns_s(self.now_s)) < math.inf:
            self._push(change_s, "presence", client)

    def _may_work(self, client: int) -> bool:
        """Whether a client is there and its owner's conditions hold, its battery being drained by training too."""
        return self._presences[client].may_work(self.now_s, self._drained_j(client))

    def _battery_j(self, client: int) -> float:
        """What a client's battery holds now; infinite on the mains and on its charger. [J]"""
        presence = self._presences[client]
        if presence.battery_j == math.inf:
            return math.inf
        moment = presence.moment(self.now_s, self._drained_j(client))
        return math.inf if moment.charging else moment.battery_frac * presence.battery_j

    def _drained_j(self, client: int) -> float:
        """What training took from a client's battery since it was last on a charger. [J]"""
        presence, subject = self._presences[client], self.clients.made.get(client)
        if presence.battery_j == math.inf or subject is None:
            return 0.0
        state, spent_j = subject.state, subject.ledger.spent_j
        times_s = self.now_s, math.nextafter(self.now_s, 0.0)  # on a charger now, or until this very moment
        if state.charged_spent_j != spent_j and any(presence.habit(time_s).charging for time_s in times_s):
            state.charged_spent_j = spent_j
            self.touched.add(client)
        return spent_j - state.charged_spent_j

    def _unshelve(self, client: int) -> None:
        """Take up a residual that was put away."""
        state = self.clients[client].state
        if state.shelved:
            state.residual, state.shelved = self._shelf(client), False

    def _leave(self, client: int, *, discard: bool = False) -> None:
        """Leave without an update."""
        subject = self.clients[client]
        if discard:
            subject.state.base = subject.state.local = subject.state.residual = None
        subject.leave()
        self._rest(client)
        self.server.give_up(self, client)

    def set_free(self, clients: Iterable[int]) -> None:
        """Say which clients are at rest, in an order that later choices depend on."""
        self.free = list(clients)
        self._out = {event.subject for event in self.queue if event.kind in ("block", "cut", "arrive", "lost")}
        self._place = {client: place for place, client in enumerate(self.free)}

    def go_on(self) -> None:
        """Begin anew the blocks that were under way at a checkpoint."""
        for event in sorted(self.queue):
            if event.kind == "block":
                self._blocks.begin(self._task(event.subject))

    def _rest(self, client: int) -> None:
        self.touched.add(client)
        self._out.discard(client)
        if not self.clients.retired(client) and self._may_work(client):
            self._place[client] = len(self.free)
            self.free.append(client)

    def _take(self, client: int) -> None:
        """Strike a client off the free ones in constant time: the last takes its place."""
        place, last = self._place.pop(client), self.free.pop()
        if last != client:
            self.free[place] = last
            self._place[last] = place

    def _push(
        self, time_s: float, kind: str, subject: int, *, frame: bytes = b"", energy_j: float = 0.0, level: int = 0
    ) -> None:
        self.order += 1
        heapq.heappush(self.queue, Event(time_s, self.order, kind, subject, frame, energy_j, level))
