"""A client's algorithm: take the model, train blocks within the budget, and ask the scheduler when to send.

Every spend is reserved at its upper bound before it is made and committed at its meter reading after. The client sees
estimates, readings and its ledger; the true coefficients of its device stay with the caller, who passes readings in.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from budjoule.energy.errors import BudgetExhausted
from budjoule.training.clients.cost import BlockCost
from budjoule.training.clients.fleet import Member
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.frame import size_upper_bytes
from budjoule.training.compression.levels import values_of
from budjoule.training.compression.update import Layout, Vector
from budjoule.training.ledger.account import widened_j
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.links.link_state import LinkState
from budjoule.training.links.links import Link
from budjoule.training.schedulers import Level, Offer, Scheduler


@dataclass(slots=True, kw_only=True)
class ClientState:
    """All that changes of a client; the vectors are held only while it takes part or owes a residual.

    Args:
        base_version: Version it trains from.
        base: The weights of that version, while it takes part. Shape (n,).
        local: Its own weights. Shape (n,).
        residual: What was learnt and not sent. Shape (n,).
        blocks: Local blocks run.
        unsent_blocks: Local blocks that no send has carried.
        sends: Updates sent.
        lost: Updates that were lost on the way.
        taken: Those of them that the server took.
        block_started_s: When its last block began; negative before the first. [s]
        awake_until_s: Until when the radio's tail lasts. [s]
        uplink_bytes: Bytes sent. [B]
        downlink_bytes: Bytes received. [B]
        charged_spent_j: What the ledger had booked when it was last seen on a charger. [J]
        last_block_j: Meter reading of the last block, 0 before the first. [J]
        retired: It will never take part again: its budget or its horizon is over.
        shelved: Its residual is put away in the checkpoint.
    """

    base_version: int = 0
    base: Vector | None = None
    local: Vector | None = None
    residual: Vector | None = None
    blocks: int = 0
    unsent_blocks: int = 0
    sends: int = 0
    lost: int = 0
    taken: int = 0
    block_started_s: float = -1.0
    awake_until_s: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    charged_spent_j: float = 0.0
    last_block_j: float = 0.0
    retired: bool = False
    shelved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a transfer would cost now.

    Args:
        energy_j: Expected energy at the radio. [J]
        awake_j: Floor during the transfer where only training keeps the device awake. [J]
        duration_s: How long it takes. [s]
    """

    energy_j: float
    awake_j: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is the same for all clients of a run.

    Args:
        layout: What is trained.
        compressors: How updates are made small: the levels that schedulers choose from, the smallest first.
        broadcast: How versions are stored on their way down.
        horizon_s: When the budget's period ends. [s]
        upload_bytes: What each client may send in all. [B]
        slot_s: Time between the starts of two blocks; 0 for none. [s]
        error_frac: How far true joules may lie from the profiles'; reservations allow for it.
        awake_frac: Share of the time the device would be on without training.
        error_feedback: Whether what was not sent is kept.
        setup_down_bytes: What secure aggregation adds to a model's way down. [B]
        setup_up_bytes: What it adds to an update's way up. [B]
    """

    layout: Layout
    compressors: tuple[Compressor, ...]
    broadcast: Compressor
    horizon_s: float
    upload_bytes: float
    slot_s: float
    error_frac: float
    awake_frac: float
    error_feedback: bool
    setup_down_bytes: int = 0
    setup_up_bytes: int = 0


class Client:
    """One client: its ledger, scheduler, link and state."""

    def __init__(
        self,
        terms: Terms,
        member: Member,
        *,
        ledger: Ledger,
        scheduler: Scheduler,
        cost: BlockCost,
        link: Link,
        link_state: LinkState,
    ) -> None:
        self.member = member
        self.ledger = ledger
        self.scheduler = scheduler
        self.state = ClientState()
        self._terms = terms
        self._cost = cost
        self._link = link
        self._link_state = link_state
        self.setup_down_bytes, self.setup_up_bytes = terms.setup_down_bytes, terms.setup_up_bytes
        self._down_bytes = size_upper_bytes(terms.layout, terms.broadcast) + terms.setup_down_bytes
        self._levels_bytes = [
            size_upper_bytes(terms.layout, level) + terms.setup_up_bytes for level in terms.compressors
        ]
        self._up_bytes = self._levels_bytes[-1]
        self._ratios: dict[str, float] = {}

    @property
    def block_duration_s(self) -> float:
        """How long a local block takes here. [s]"""
        return self._cost.duration_s * self.member.slowdown

    @property
    def compressors(self) -> tuple[Compressor, ...]:
        """How its updates are made small: the levels of its offers."""
        return self._terms.compressors

    @property
    def keeps_residual(self) -> bool:
        """Whether what was not sent is kept for the next update."""
        return self._terms.error_feedback

    def expected_task_s(self) -> float:
        """How long a download, a block and an upload take with the link at its usual rate. [s]"""
        down_s = self._link.download_duration_s(self._down_bytes) * self.member.slowdown
        return down_s + self.block_duration_s + self._link.upload_duration_s(self._up_bytes) * self.member.slowdown

    def download(self, now_s: float, size_bytes: int) -> Transfer:
        """Receiving so many bytes now."""
        rate, tail_s = self._rate(self._link.rate_down_bit_per_s, now_s), self._tail_paid_s(now_s)
        energy_j = self._link.downlink_energy_j(size_bytes, rate_bit_per_s=rate, tail_paid_s=tail_s)
        duration_s = self._link.download_duration_s(size_bytes, rate_bit_per_s=rate, awake=tail_s > 0)
        return Transfer(energy_j=energy_j, awake_j=self._awake_j(duration_s), duration_s=duration_s)

    def upload(self, now_s: float, size_bytes: int) -> Transfer:
        """Sending so many bytes now."""
        rate, tail_s = self._rate(self._link.rate_up_bit_per_s, now_s), self._tail_paid_s(now_s)
        energy_j = self._link.uplink_energy_j(size_bytes, rate_bit_per_s=rate, tail_paid_s=tail_s)
        duration_s = self._link.upload_duration_s(size_bytes, rate_bit_per_s=rate, awake=tail_s > 0)
        return Transfer(energy_j=energy_j, awake_j=self._awake_j(duration_s), duration_s=duration_s)

    def block_upper_j(self) -> float:
        """The most that a block costs: the wider of the estimate's interval and the stated error, and the idle floor. [J]"""
        return self._block_energy_upper_j() + self._awake_j(self.block_duration_s)

    def block_start_s(self, now_s: float) -> float:
        """When the next block may begin: one a slot. [s]"""
        if not self._terms.slot_s:
            return now_s
        begun = self.state.block_started_s
        return max(now_s, self.member.phase_s if begun < 0 else begun + self._terms.slot_s)

    def can_take_part(self, now_s: float, size_bytes: int, *, battery_j: float = math.inf) -> bool:
        """Whether a download, a block and a send after it fit into what is left of budget, battery, data plan and horizon."""
        if self.state.uplink_bytes + self._up_bytes > self._terms.upload_bytes:
            return False  # a task sends once at most, so seeing to the largest frame here keeps the plan
        down = self.download(now_s, size_bytes)
        end_s = self.block_start_s(now_s + down.duration_s) + self.block_duration_s
        needed_j = (
            self._upper_j(down.energy_j, "downlink") + down.awake_j + self.block_upper_j() + self._flush_upper_j()
        )
        return end_s <= self._terms.horizon_s and needed_j <= min(self.ledger.remaining_j, battery_j)

    def can_train_on(self, now_s: float, offer: Offer, *, battery_j: float = math.inf) -> bool:
        """Whether another block and a send after it fit into what is left of budget, battery and horizon."""
        needed_j = self.block_upper_j() + max(offer.price_j, offer.reserve_j)
        end_s = self.block_start_s(now_s) + self.block_duration_s
        return needed_j <= min(self.ledger.remaining_j, battery_j) and end_s <= self._terms.horizon_s

    def next_send_s(self, now_s: float) -> float:
        """When a frame would arrive that is sent after another block, with the link at its present rate. [s]"""
        return self.block_start_s(now_s) + self.block_duration_s + self.upload(now_s, self._levels_bytes[0]).duration_s

    def offer(self, now_s: float, delta: Vector) -> Offer:
        """The situation at a block's end: what sending would cost now, the answer that follows included.

        Args:
            now_s: The time. [s]
            delta: What would be sent. Shape (n,).
        """
        slot_s = self._terms.slot_s or self.block_duration_s
        rate = self._rate(self._link.rate_down_bit_per_s, now_s)
        _, answer_j = self._link.exchange_energy_j(0, self._down_bytes, rate_frac=rate / self._link.rate_down_bit_per_s)
        answer_s = self._link.download_duration_s(self._down_bytes, rate_bit_per_s=rate, awake=True)
        answer_upper_j = self._upper_j(answer_j, "downlink") + self._awake_j(answer_s)
        levels = [
            Level(size_bytes=size, energy_upper_j=self._send_upper_j(now_s, size) + answer_upper_j, value=value)
            for size, value in zip(self._levels_bytes, values_of(self._terms.compressors, delta), strict=True)
        ]
        return Offer(
            slot=int(now_s / slot_s + 1e-9),
            slots=max(1, int(self._terms.horizon_s / slot_s + 1e-9)),
            budget_j=self.ledger.budget_j,
            left_j=self.ledger.remaining_j,
            reserve_j=self._flush_upper_j(),
            # Pacing plans with what a block has cost so far; the ledger reserves its upper end.
            block_j=(self.state.last_block_j or self._cost.energy_j) + self._awake_j(self.block_duration_s),
            levels=tuple(levels),
            blocks_since_send=self.state.unsent_blocks,
            block_slots=max(1.0, self.block_duration_s / slot_s),
            norm=float(np.linalg.norm(delta)),
        )

    def flush_level(self, now_s: float) -> int | None:
        """The largest level at which what was learnt can still be sent, without waiting for an answer."""
        uppers_j = [self._send_upper_j(now_s, size) for size in self._levels_bytes]
        can = [level for level, upper_j in enumerate(uppers_j) if upper_j <= self.ledger.remaining_j]
        return max(can, default=None)

    def pay_download(self, now_s: float, size_bytes: int) -> float:
        """Book a model's way down; returns its duration. [s]

        Raises:
            BudgetExhausted: It does not fit what is left; nothing was booked.
        """
        down = self.download(now_s, size_bytes)
        reading_j = down.energy_j * self.member.link_truth
        self._pay("downlink", down.energy_j, self._upper_j(down.energy_j, "downlink"), reading_j, down.awake_j)
        self.state.downlink_bytes += size_bytes
        self._stay_awake(now_s + down.duration_s)
        return down.duration_s

    def pay_upload(self, now_s: float, size_bytes: int) -> tuple[float, float]:
        """Book a frame's way up; returns the radio's joules and the duration. [J, s]

        Raises:
            BudgetExhausted: It does not fit what is left; nothing was booked.
        """
        up = self.upload(now_s, size_bytes)
        energy_j = up.energy_j * self.member.link_truth
        self._pay("uplink", up.energy_j, self._upper_j(up.energy_j, "uplink"), energy_j, up.awake_j)
        self.state.uplink_bytes += size_bytes
        self._stay_awake(now_s + up.duration_s)
        return energy_j, up.duration_s

    def pay_block(self, share: float = 1.0) -> None:
        """Book a local block at its meter reading, or the share of it that ran before it was cut off.

        Raises:
            BudgetExhausted: It does not fit what is left; nothing was booked.
        """
        upper_j, awake_j = self._block_energy_upper_j(), self._awake_j(share * self.block_duration_s)
        self.state.last_block_j = self._cost.energy_j * self.member.compute_truth
        self._pay("compute", share * self._cost.energy_j, upper_j, share * self.state.last_block_j, awake_j)

    def delta(self) -> Vector:
        """What would be sent: learnt since the base, and what earlier sends left. Shape (n,)."""
        state = self.state
        assert state.local is not None
        assert state.base is not None
        learnt = state.local - state.base
        return learnt if state.residual is None else state.residual + learnt

    def leave(self) -> None:
        """Put base and local weights down; what was learnt and not sent stays as residual, if that is kept."""
        if self._terms.error_feedback and self.state.local is not None:
            self.state.residual = self.delta()
        self.state.base = self.state.local = None

    def numbers(self) -> dict[str, Any]:
        """The state without its vectors, and the scheduler's, as plain data for a checkpoint."""
        skipped = ("base", "local", "residual")
        state = {name: getattr(self.state, name) for name in ClientState.__slots__ if name not in skipped}
        return {"state": state, "scheduler": self.scheduler.state()}

    def restore(
        self, numbers: dict[str, Any], *, base: Vector | None, local: Vector | None, residual: Vector | None
    ) -> None:
        """Take up where `numbers` and the vectors were saved."""
        self.state = ClientState(**numbers["state"], base=base, local=local, residual=residual)
        self.scheduler.load_state(numbers["scheduler"])

    def _rate(self, usual: float, now_s: float) -> float:
        return usual * self._link_state.rate_frac(now_s) / self.member.slowdown

    def _upper_j(self, energy_j: float, cause: str) -> float:
        """The most that a spend of an expected value may cost, as far as its own readings so far do not contradict it. [J]"""
        if cause not in self._ratios:
            self._ratios[cause] = self.ledger.measured_ratio(cause)
        return widened_j(energy_j * (1.0 + self._terms.error_frac), self._ratios[cause] * energy_j)

    def _block_energy_upper_j(self) -> float:
        return max(self._cost.energy_high_j, self._upper_j(self._cost.energy_j, "compute"))

    def _awake_j(self, duration_s: float) -> float:
        """The idle floor for as long as only training keeps the device awake; its duration and power are known. [J]"""
        return (1.0 - self._terms.awake_frac) * self._cost.idle_w * duration_s

    def _send_upper_j(self, now_s: float, size_bytes: int) -> float:
        """The most that sending so many bytes now costs, without the answer. [J]"""
        up = self.upload(now_s, size_bytes)
        return self._upper_j(up.energy_j, "uplink") + up.awake_j

    def _flush_upper_j(self) -> float:
        """The most that one last send of the smallest level costs: radio asleep, link at its worst. [J]"""
        size = self._levels_bytes[0]
        frac = self._link_state.lowest_rate_frac / self.member.slowdown
        duration_s = self._link.upload_duration_s(size, rate_bit_per_s=frac * self._link.rate_up_bit_per_s)
        energy_j = self._upper_j(self._link.uplink_upper_j(size, lowest_rate_frac=frac), "uplink")
        return energy_j + self._awake_j(duration_s)

    def _pay(self, cause: str, expected_j: float, upper_j: float, reading_j: float, awake_j: float) -> None:
        """Reserve a spend and the idle floor that goes with it, both or neither, and commit them."""
        spend = self.ledger.reserve(upper_j, cause, expected_j=expected_j)
        if awake_j:
            try:
                floor = self.ledger.reserve(awake_j, "idle")
            except BudgetExhausted:
                spend.release()
                raise
            floor.commit(awake_j)
        spend.commit(reading_j, measured=True)
        self._ratios.pop(cause, None)

    def _tail_paid_s(self, now_s: float) -> float:
        """For how long earlier traffic, ours or other, keeps the radio awake anyway. [s]"""
        other_s = self._link_state.other_traffic_s(now_s) + self._link.tail_s
        return max(0.0, self.state.awake_until_s - now_s, other_s - now_s)

    def _stay_awake(self, end_s: float) -> None:
        self.state.awake_until_s = max(self.state.awake_until_s, end_s + self._link.tail_s)


def spawn_rng(seed: int, client: int, purpose: int, count: int) -> np.random.Generator:
    """A random stream by its number alone, so that nothing random needs a checkpoint and no order matters."""
    return np.random.default_rng([seed, client, purpose, count])
