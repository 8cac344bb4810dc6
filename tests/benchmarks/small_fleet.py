"""A small fleet whose clients train at once: what a scheduling policy does to accuracy, in about a second a run.

Slots instead of an event queue, and one batched step for all clients; schedulers, links, weights and aggregation are the
package's own. A client trains in every slot from where it is, and its delta grows until it is sent; the answer is the newest
version. Budgets are for sends alone: blocks are free, and frames are dense.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from budjoule.training.links.link_state import parse_link_state
from budjoule.training.links.links import Link, load_link
from budjoule.training.schedulers import Level, Offer, make_scheduler
from budjoule.training.schedulers.oracle import oracle
from budjoule.training.server.methods import METHODS, STALENESS, Arrival, aggregate
from budjoule.training.task.data import load_data
from budjoule.training.task.partition import partition

Floats = NDArray[np.float32]

CLIENTS, SLOTS, SLOT_S = 20, 240, 60.0
EXAMPLES, TESTS, SIDE, HIDDEN, CLASSES = 200, 1500, 14, 24, 10  # examples of a client; images averaged 2 by 2
STEPS, BATCH, RATE = 5, 16, 0.1  # of a local block
BUFFER, AVERAGE, STALENESS_RULE = 10, 0.9, "polynomial"
SLOW_FRAC, SLOW = 0.3, 3  # stragglers, and the slots that a block takes them
EVALUATE_SLOTS, TARGETS = 2, (0.70, 0.74)
INPUTS = SIDE * SIDE
CUTS = np.cumsum([INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES])

# Joules are time on the air: a rate that falls 8-fold makes a send 8 times as dear. Where other traffic is the matter, the
# link is lte-2012, whose tail is 12 of the 13 J of a send.
AIRTIME = Link(name="airtime", source="this benchmark", power_up_w=1.0, rate_up_bit_per_s=8.0, rate_down_bit_per_s=8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One seed's data, owners and first weights."""

    inputs: Floats
    labels: NDArray[np.int64]
    owned: NDArray[np.int64]  # rows of examples by client, each repeated up to the longest
    sizes: NDArray[np.int64]
    priors: Floats
    test_inputs: Floats
    test_labels: NDArray[np.int64]
    first: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What sends cost one seed's clients. Shapes (clients, slots) and (clients,)."""

    now_j: NDArray[np.float64]
    worst_j: NDArray[np.float64]


@lru_cache(1)
def images() -> tuple[Floats, NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Fashion-MNIST at a quarter of its pixels."""
    data = load_data("fashion-mnist", 0)

    def small(inputs: Floats) -> Floats:
        return inputs.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(-1, INPUTS).astype(np.float32)

    return small(data.inputs.numpy()), data.labels.numpy(), small(data.test_inputs.numpy()), data.test_labels.numpy()


@lru_cache(2)
def task(seed: int) -> Task:
    """Draw a seed's task: 150 examples a client, Dirichlet 0.3."""
    inputs, labels, test_inputs, test_labels = images()
    rng = np.random.default_rng([seed, 1])
    chosen = rng.permutation(len(labels))[: CLIENTS * EXAMPLES]
    inputs, labels = inputs[chosen], labels[chosen]
    parts = [np.asarray(part) for part in partition("dirichlet:0.3", labels, CLIENTS, seed)]
    longest = max(map(len, parts))
    seen = np.stack([np.bincount(labels[part], minlength=CLASSES) / len(part) for part in parts])
    tests = rng.permutation(len(test_labels))[:TESTS]
    weights = [(INPUTS, HIDDEN, True), (1, HIDDEN, False), (HIDDEN, CLASSES, True), (1, CLASSES, False)]
    first = [rng.normal(0, (2 / rows) ** 0.5 if drawn else 0.0, rows * columns) for rows, columns, drawn in weights]
    return Task(
        inputs=inputs,
        labels=labels,
        owned=np.stack([np.resize(part, longest) for part in parts]),
        sizes=np.array([len(part) for part in parts]),
        priors=np.log(np.maximum(seen, 0.001)).astype(np.float32),
        test_inputs=test_inputs[tests],
        test_labels=test_labels[tests],
        first=np.concatenate(first).astype(np.float32),
    )


@lru_cache(32)
def prices(seed: int, state: str) -> Prices:
    """What a send costs each client in each slot, for a state of the link."""
    link, size = (load_link("lte-2012"), 20_000) if state.startswith("busy") else (AIRTIME, 1)
    now_j, worst_j = np.empty((CLIENTS, SLOTS)), np.empty(CLIENTS)
    for client in range(CLIENTS):
        path = parse_link_state(state, seed=seed, client=client)
        for slot in range(SLOTS):
            now_s = SLOT_S * slot
            tail_s = max(0.0, path.other_traffic_s(now_s) + link.tail_s - now_s)
            rate = path.rate_frac(now_s) * link.rate_up_bit_per_s
            now_j[client, slot] = link.uplink_energy_j(size, rate_bit_per_s=rate, tail_paid_s=tail_s)
        worst_j[client] = link.uplink_upper_j(size, lowest_rate_frac=path.lowest_rate_frac)
    return Prices(now_j=now_j, worst_j=worst_j)


def layers(weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Views of some clients' flat weights. Shape (clients, n)."""
    one, two, three, four = np.split(weights, CUTS, axis=1)
    count = len(weights)
    return (
        one.reshape(count, INPUTS, HIDDEN),
        two.reshape(count, 1, HIDDEN),
        three.reshape(count, HIDDEN, CLASSES),
        four.reshape(count, 1, CLASSES),
    )


def train(weights: Floats, who: NDArray[np.int64], draw: np.random.Generator, on: Task) -> None:
    """One local block of some clients, in place: plain SGD on cross-entropy with logit adjustment. Shape (len(who), n)."""
    one, bias_one, two, bias_two = layers(weights)
    picks = (draw.random((CLIENTS, STEPS * BATCH))[who] * on.sizes[who, None]).astype(np.int64)
    picks = np.take_along_axis(on.owned[who], picks, 1).reshape(len(who), STEPS, BATCH)
    rows, columns = np.arange(len(who))[:, None], np.arange(BATCH)[None]
    for step in range(STEPS):
        batch = picks[:, step]
        inputs = on.inputs[batch]
        hidden = np.maximum(inputs @ one + bias_one, 0)
        scores = hidden @ two + bias_two + on.priors[who][:, None]
        scores = np.exp(scores - scores.max(2, keepdims=True))
        slope = scores / scores.sum(2, keepdims=True)
        slope[rows, columns, on.labels[batch]] -= 1
        slope *= RATE / BATCH
        back = (slope @ two.transpose(0, 2, 1)) * (hidden > 0)
        two -= hidden.transpose(0, 2, 1) @ slope
        bias_two -= slope.sum(1, keepdims=True)
        one -= inputs.transpose(0, 2, 1) @ back
        bias_one -= back.sum(1, keepdims=True)


def accuracy(weights: Floats, on: Task) -> float:
    """Share of the test examples that are classified rightly. Shape (n,)."""
    one, bias_one, two, bias_two = (layer[0] for layer in layers(weights[None]))
    scores = np.maximum(on.test_inputs @ one + bias_one, 0) @ two + bias_two
    return float((scores.argmax(1) == on.test_labels).mean())


@dataclass(slots=True)
class Server:
    """FedBuff's buffer with age and gap weights, and an average of versions."""

    weights: Floats
    average: Floats
    version: int = 0
    buffer: list[Arrival] = field(default_factory=list)

    def receive(self, arrival: Arrival) -> None:
        """Take an update; a full buffer makes a version."""
        self.buffer.append(arrival)
        if len(self.buffer) == BUFFER:
            self.publish()

    def publish(self) -> None:
        """Make a version of what the buffer holds."""
        shares = METHODS["budjoule"].weigh(self.buffer, STALENESS[STALENESS_RULE])
        self.weights = aggregate(self.weights, self.buffer, shares, 1.0)
        self.version += 1
        kept = np.float32(min(AVERAGE, self.version / (10 + self.version)))
        self.average = kept * self.average + (1 - kept) * self.weights
        self.buffer = []


@dataclass(slots=True, kw_only=True)
class Client:
    """One client's budget, and what it did with it."""

    decide: Callable[[Offer], int | None]
    budget_j: float
    left_j: float
    slots_a_block: int
    since: int = 0
    version: int = 0
    sent_slot: int = 0
    sends: int = 0


def enlist(seed: int, budget_frac: float, link: str, policy: str) -> tuple[list[Client], NDArray[np.bool_]]:
    """A seed's clients with their budgets, and the slots in which their blocks end. Shape (clients, slots)."""
    paths, rng = prices(seed, link), np.random.default_rng([seed, 3])
    slots_a_block = np.ones(CLIENTS, int)
    slots_a_block[rng.permutation(CLIENTS)[: round(SLOW_FRAC * CLIENTS)]] = SLOW
    ends = (np.arange(SLOTS) + rng.integers(0, SLOW, (CLIENTS, 1))) % slots_a_block[:, None] == slots_a_block[
        :, None
    ] - 1
    clients = []
    for client in range(CLIENTS):
        blocks = np.flatnonzero(ends[client])
        budget_j = budget_frac * float(paths.now_j[client, blocks].sum())
        if policy == "oracle":
            plan = {int(blocks[block]) for block in oracle(paths.now_j[client, blocks], budget_j).blocks}
            decide: Callable[[Offer], int | None] = lambda offer, plan=plan: 0 if offer.slot in plan else None  # noqa: E731
        else:
            decide = make_scheduler(policy, seed=seed, client=client).decide
        slots = int(slots_a_block[client])
        clients.append(Client(decide=decide, budget_j=budget_j, left_j=budget_j, slots_a_block=slots))
    return clients, ends


def play(seed: int, budget_frac: float, link: str, policy: str) -> dict[str, object]:
    """One run: accuracy at the end, when targets were met (looked for at every second slot), and what was sent."""
    on, paths = task(seed), prices(seed, link)
    clients, ends = enlist(seed, budget_frac, link, policy)
    server = Server(on.first, on.first)
    weights = np.tile(on.first, (CLIENTS, 1))
    bases = weights.copy()
    order = np.random.default_rng([seed, 4]).permutation(CLIENTS)
    slots_to: dict[float, int | None] = dict.fromkeys(TARGETS)
    evaluated = 0
    for slot in range(SLOTS):
        who = order[ends[order, slot]]
        trained = weights[who]
        train(trained, who, np.random.default_rng([seed, 7, slot]), on)
        weights[who] = trained
        for number in who.tolist():
            client, price_j = clients[number], float(paths.now_j[number, slot])
            client.since += 1
            offer = Offer(
                slot=slot,
                slots=SLOTS,
                budget_j=client.budget_j,
                left_j=client.left_j,
                reserve_j=float(paths.worst_j[number]),
                block_j=0.0,
                levels=(Level(size_bytes=1, energy_upper_j=price_j),),
                blocks_since_send=client.since,
                block_slots=float(client.slots_a_block),
                norm=float(np.linalg.norm(weights[number] - bases[number])) if policy == "norm-threshold" else 0.0,
            )
            if client.decide(offer) is None:
                continue
            arrival = Arrival(
                client=number,
                examples=1,
                staleness=server.version - client.version,
                gap_slots=float(max(1, slot - client.sent_slot)),
                values=weights[number] - bases[number],
            )
            server.receive(arrival)
            client.left_j -= price_j
            client.sends, client.since, client.version, client.sent_slot = client.sends + 1, 0, server.version, slot
            weights[number] = bases[number] = server.weights
        if slot % EVALUATE_SLOTS == EVALUATE_SLOTS - 1 and server.version > evaluated and None in slots_to.values():
            evaluated, now = server.version, round(accuracy(server.average, on), 4)
            slots_to |= {target: slot + 1 for target, met in slots_to.items() if met is None and now >= target}
    if server.buffer:
        server.publish()
    spent_frac = 1 - sum(client.left_j for client in clients) / sum(client.budget_j for client in clients)
    if min(client.left_j / client.budget_j for client in clients) < -1e-9:
        raise SystemExit(f"{policy} spent more than its budget")
    return {
        "accuracy_frac": round(accuracy(server.average, on), 4),
        "slots_to": slots_to,
        "sends": sum(client.sends for client in clients),
        "spent_frac": round(spent_frac, 4),
    }
