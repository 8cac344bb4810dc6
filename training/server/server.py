"""The server's algorithm, written once against a small `Engine`: invite clients, check what arrives, weigh, aggregate.

It knows no clock and no transport. The simulator is one engine; a network is another. Whatever arrives that is no valid
update of an invited client is counted and refused, and the run goes on.
"""

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from budjoule.energy.errors import PayloadError, UsageError
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.frame import pack, size_upper_bytes, unpack
from budjoule.training.compression.levels import parse_levels
from budjoule.training.compression.update import Layout, Update, Vector
from budjoule.training.config.config import Config
from budjoule.training.server.combine import Combine, parse_aggregate
from budjoule.training.server.engine import Broadcast, Engine, Reply
from budjoule.training.server.methods import (
    METHODS,
    STALENESS,
    Arrival,
    aggregate,
    by_staleness,
    damping,
    one_each,
    updates_a_version,
)
from budjoule.training.server.outliers import OutOfProportion, plan_outliers
from budjoule.training.server.privacy import clip_norm, noisy_mean, noisy_share, plan_privacy
from budjoule.training.server.secure_client import Ring, threshold
from budjoule.training.server.secure_sum import SMALLEST, ring_code, unmask, unpack_masked

_MAX_STALENESS = 1000  # versions; an older base is refused as out of version
_MOST = 1e18  # of a weight; squares of larger ones overflow float32, and no client could train from them


@dataclass(frozen=True, slots=True)
class Invitation:
    """An open invitation: the version that was handed out, and when."""

    version: int
    time_s: float


@dataclass(slots=True, kw_only=True)
class ServerState:
    """All that a server remembers.

    Args:
        weights: The weights that updates are added to, and that clients train from. Shape (n,).
        average: The average of versions that is evaluated and kept as the result. Shape (n,).
        version: Versions made so far.
        round: Rounds begun, of a synchronous server.
        draws: Random choices made.
        participations: Versions that each client's updates entered or are about to enter.
        invited: Open invitations by client.
        publics: Public keys of the round's secure aggregation.
        buffer: Updates not yet aggregated; of a masked one the values are the bits of its ring elements.
    """

    weights: Vector
    average: Vector
    version: int = 0
    round: int = 0
    draws: int = 0
    participations: dict[int, int] = field(default_factory=dict)
    invited: dict[int, Invitation] = field(default_factory=dict)
    publics: Mapping[int, bytes] = field(default_factory=dict)
    buffer: list[Arrival] = field(default_factory=list)


def parse_broadcast(config: Config) -> Compressor:
    """How versions are stored on their way down.

    Raises:
        UsageError: The steps are unknown, or leave weights out.
    """
    compressor = Compressor.parse(config.server.broadcast)
    if compressor.selection != "all":
        raise UsageError(
            f"server.broadcast: {compressor.selection} would leave weights out; give a value step such as quantize:8"
        )
    return compressor


class Server:
    """A federated server over some engine.

    Args:
        config: The run's configuration.
        layout: Layout of what is trained.
        weights: Initial weights. Shape (layout.size,).
        deadline_s: How long a round waits, of a method with a deadline. [s]
        noise_seed: Decides the noise of differential privacy; who knows it can take the noise off again, so only a
            simulation gives one.
        holdings: How many examples a client holds, where the engine knows; more may not be claimed.
    """

    def __init__(
        self,
        config: Config,
        layout: Layout,
        weights: Vector,
        *,
        deadline_s: float = math.inf,
        noise_seed: int | None = None,
        holdings: Callable[[int], int] | None = None,
    ) -> None:
        self._config = config.server
        self._seed = config.seed
        # Who speaks after every block leaves no slot unused, however slow it is.
        self._slot_s = math.inf if config.schedule.policy == "every-block" else config.schedule.slot_s
        self._method = METHODS[config.server.method]
        # Noise and robust rows count on one update a client in each version; a mean of buffers takes what comes.
        self._once = not self._method.synchronous and one_each(config)
        self._full = updates_a_version(config)
        self._deadline_s = deadline_s
        self._layout = layout
        self._max_bytes = size_upper_bytes(layout, parse_levels(config.update.compress)[-1])
        self._broadcast_by = parse_broadcast(config)
        self._broadcast: Broadcast | None = None
        self._combine = parse_aggregate(config.server.aggregate)
        self._clip = config.privacy.clip
        self.privacy = plan_privacy(config)
        self._ring = ring_code(config) if config.privacy.secure_aggregation else None
        self._noise_seed = secrets.randbits(128) if noise_seed is None else noise_seed
        self._holdings = holdings
        self._outliers = plan_outliers(config, holdings_known=holdings is not None)
        self.state = ServerState(weights=weights, average=weights)

    def begin(self, engine: Engine) -> None:
        """Invite the first clients."""
        self._fill(engine)

    def receive(self, engine: Engine, sender: int, data: bytes) -> Reply:
        """Take a frame that arrived from a client; one that is not taken leaves the client's invitation open.

        Args:
            engine: The world it came from.
            sender: Who sent it, as the transport knows.
            data: The frame.
        """
        try:
            arrival = self._check(engine, sender, data)
            self._outliers.check(arrival)
        except PayloadError as error:
            engine.rejected(sender, str(error))
            return "dropped" if isinstance(error, OutOfProportion) else "refused"
        del self.state.invited[sender]
        self._outliers.keep(arrival)
        # before anything looks at lengths and directions; a masked one its client has clipped
        if self._ring is None and math.isfinite(self._clip):
            arrival = replace(arrival, values=clip_norm(arrival.values, self._clip))
        self.state.buffer.append(arrival)
        self._count(engine, sender)
        if not self._method.synchronous and len(self.state.buffer) >= self._full:
            self._aggregate(engine)
        self._fill(engine)
        return "taken"

    def closes_s(self, client: int) -> float:
        """Until when a client's update is waited for: infinite without a deadline, and over where its round is. [s]"""
        if not self._method.deadline:
            return math.inf
        invitation = self.state.invited.get(client)
        return -math.inf if invitation is None else invitation.time_s + self._deadline_s

    def give_up(self, engine: Engine, client: int) -> None:
        """No update will come of a client's invitation: it declined, it was lost, or what it sent was refused."""
        self.state.invited.pop(client, None)
        self._fill(engine)

    def wake(self, engine: Engine) -> None:
        """Clients have come or gone."""
        self._fill(engine)

    def alarmed(self, engine: Engine, mark: int) -> None:
        """A round's deadline has come; those still out are not waited for."""
        if mark == self.state.round:
            self.state.invited.clear()
            self._fill(engine)

    def finish(self, engine: Engine) -> None:
        """No client works any more: aggregate what is left in the buffer, since its joules are spent."""
        if self.state.buffer:
            self._aggregate(engine)

    def _check(self, engine: Engine, sender: int, data: bytes) -> Arrival:
        update = self._read(data)
        if update.client != sender:
            raise PayloadError(f"a frame of client {update.client} came from client {sender}")
        invitation = self.state.invited.get(sender)
        if invitation is None:
            raise PayloadError("no open invitation: the round is over, or the frame was sent twice")
        if update.base_version != invitation.version:
            raise PayloadError(f"base version {update.base_version} instead of the {invitation.version} handed out")
        staleness = self.state.version - update.base_version
        if staleness > _MAX_STALENESS:
            raise PayloadError(f"base version {update.base_version} is {staleness} versions old")
        if update.examples < 1:
            raise PayloadError("trained on no example")
        if self._holdings is not None and update.examples > (held := self._holdings(sender)):
            raise PayloadError(f"examples: {update.examples} claimed by a client that holds {held}")
        silent_s = engine.now_s - invitation.time_s
        gap_slots = max(1.0, silent_s // self._slot_s) if self._slot_s < math.inf else 1.0
        return Arrival(
            client=sender,
            examples=update.examples,
            staleness=staleness,
            gap_slots=gap_slots,
            values=update.values,
        )

    def _read(self, data: bytes) -> Update:
        if self._ring is None:
            return unpack(data, self._layout, max_bytes=self._max_bytes)
        parcel, ring = unpack_masked(data, self._layout)
        return Update(
            client=parcel.client,
            base_version=parcel.base_version,
            examples=parcel.examples,
            values=ring.view(np.float32),
        )

    def _refuse(self, engine: Engine, arrivals: Sequence[Arrival], reason: str) -> None:
        """Refuse after all what had been taken into the buffer."""
        for arrival in arrivals:
            self._outliers.forget(arrival)
            engine.rejected(arrival.client, reason, after_all=True)

    def _aggregate(self, engine: Engine) -> None:
        """Make a version of what the buffer holds, or refuse it, and the version before stands."""
        state, arrivals = self.state, []
        for arrival in state.buffer:
            try:
                self._outliers.check(arrival)  # what came before there was a usual length can be told now
                arrivals.append(arrival)
            except PayloadError as error:
                self._refuse(engine, [arrival], str(error))
        state.buffer = arrivals
        if not arrivals:
            return
        try:
            weights = self._next_weights(engine)
            broadcast = self._packed(state.version + 1, weights)
        except PayloadError as error:
            state.buffer = []
            self._refuse(engine, arrivals, str(error))
            return
        state.version += 1
        state.weights, self._broadcast = weights, broadcast
        self._outliers.settle()
        # The ramp lets the average forget the untrained first versions.
        kept = np.float32(min(self._config.average, state.version / (10.0 + state.version)))
        state.average = kept * state.average + (np.float32(1) - kept) * state.weights if kept else state.weights
        state.buffer = []
        engine.published(len(arrivals), float(np.mean([arrival.staleness for arrival in arrivals])))

    def _next_weights(self, engine: Engine) -> Vector:
        """The weights that the buffer leads to. Shape (n,).

        Raises:
            PayloadError: They could not be trained from, or too few are left for a secure sum.
        """
        state, arrivals = self.state, self.state.buffer
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            if self._ring is not None:
                weights = state.weights + np.float32(self._config.learning_rate) * self._unmasked(engine)
            else:
                weigh = self._method.weigh
                if self.privacy:  # without slots all gaps are 1, and nothing has to be made room for
                    weigh = self._method.weigh_privately if self._slot_s < math.inf else by_staleness
                shares = weigh(arrivals, STALENESS[self._config.staleness])
                rate = self._config.learning_rate * (damping(arrivals, shares) if self._config.damping else 1.0)
                weights = aggregate(state.weights, arrivals, shares, rate, combine=self._rule())
        if not np.abs(weights).max(initial=0.0) <= _MOST:  # NaN is not
            raise PayloadError(f"aggregate: a weight would be NaN or above {_MOST:g}; the version before stands")
        return weights

    def _rule(self) -> Combine:
        """How this version's updates become one."""
        if self.privacy is None:
            return self._combine
        return noisy_mean(self.privacy, self._noise())

    def _noise(self) -> np.random.Generator:
        return np.random.default_rng([self._noise_seed, 0xD9, self.state.version])

    def _unmasked(self, engine: Engine) -> Vector:
        """The mean of updates of which only the sum is seen. Shape (n,).

        Raises:
            PayloadError: Too few are left for a sum that hides them.
        """
        assert self._ring is not None
        state, publics = self.state, self.state.publics
        survivors = frozenset(arrival.client for arrival in state.buffer)
        needed = max(SMALLEST, threshold(len(publics)))
        if len(survivors) < needed:
            raise PayloadError(f"too few for a secure sum: {len(survivors)} of {len(publics)}, {needed} are needed")
        total: Ring = np.sum([arrival.values.view(np.uint32) for arrival in state.buffer], axis=0, dtype=np.uint32)
        found = self._ring.decode(unmask(total, publics, survivors, engine.reveal(publics, survivors)))
        if self.privacy is not None:
            return noisy_share(self.privacy, found.astype(np.float64), self._noise())
        return found / np.float32(len(survivors))

    def _count(self, engine: Engine, client: int) -> None:
        """Note that a client takes part in a version, and leave it alone once it may not any more."""
        if self.privacy is not None:
            taken = self.state.participations.get(client, 0) + 1
            self.state.participations[client] = taken
            if taken >= self.privacy.participations:
                engine.retire(client)

    def _fill(self, engine: Engine) -> None:
        """Keep the cohort busy: one by one, or, in rounds, all at once when the last of a round is in."""
        if self._method.synchronous:
            if self.state.invited:
                return
            if self.state.buffer:
                self._aggregate(engine)
            self.state.round += 1
        while len(self.state.invited) < self._config.cohort:
            client = self._choose(engine)
            if client is None and self._once and self.state.buffer and not self.state.invited:
                self._aggregate(engine)  # whoever is there has spoken
                client = self._choose(engine)
            if client is None:
                break
            self.state.invited[client] = Invitation(self.state.version, engine.now_s)
            if not engine.invite(client, self.broadcast()):
                del self.state.invited[client]
        if self._ring is not None and self.state.invited:
            self.state.publics = engine.agree(tuple(self.state.invited))
        if self._method.deadline and self.state.invited:
            engine.alarm(engine.now_s + self._deadline_s, self.state.round)

    def _choose(self, engine: Engine) -> int | None:
        free = engine.free_clients()
        if self._once and self.state.buffer:
            spoken = {arrival.client for arrival in self.state.buffer}
            free = [client for client in free if client not in spoken]
        if not free:
            return None
        self.state.draws += 1
        return int(free[int(np.random.default_rng([self._seed, 0x5E4, self.state.draws]).integers(len(free)))])

    def broadcast(self) -> Broadcast:
        """The present version on its way down, packed once; a function of the seed, the version and the weights."""
        if self._broadcast is None:
            self._broadcast = self._packed(self.state.version, self.state.weights)
        return self._broadcast

    def _packed(self, version: int, weights: Vector) -> Broadcast:
        rng = np.random.default_rng([self._seed, 0xD0, version])
        whole = Update(client=0, base_version=version, examples=0, values=weights)
        frame = pack(whole, self._layout, self._broadcast_by, rng)
        values = unpack(frame, self._layout, max_bytes=len(frame)).values
        return Broadcast(version=version, frame=frame, values=values)

    def numbers(self) -> dict[str, Any]:
        """The state without its vectors, as plain data for a checkpoint."""
        state = self.state
        return {
            "version": state.version,
            "round": state.round,
            "draws": state.draws,
            "participations": list(state.participations.items()),
            "usual": self._outliers.numbers(),
            "publics": [[client, public.hex()] for client, public in state.publics.items()],
            "invited": [[client, item.version, item.time_s] for client, item in state.invited.items()],
            "buffer": [[item.client, item.examples, item.staleness, item.gap_slots] for item in state.buffer],
        }

    def restore(self, numbers: dict[str, Any], weights: Vector, average: Vector, deltas: Sequence[Vector]) -> None:
        """Take up where `numbers` and the vectors were saved."""
        self._broadcast = None
        self._outliers.restore(numbers["usual"])
        self.state = ServerState(
            weights=weights,
            average=average,
            version=numbers["version"],
            round=numbers["round"],
            draws=numbers["draws"],
            participations=dict(numbers["participations"]),
            publics={client: bytes.fromhex(public) for client, public in numbers["publics"]},
            invited={client: Invitation(version, time_s) for client, version, time_s in numbers["invited"]},
            buffer=[
                Arrival(client=client, examples=examples, staleness=staleness, gap_slots=gap, values=values)
                for (client, examples, staleness, gap), values in zip(numbers["buffer"], deltas, strict=True)
            ],
        )
