"""How a server turns a buffer of updates into one step: one row a method, each the rule that weighs the updates.

A method changes the server alone: when it aggregates (in rounds, or whenever a buffer is full) and what each update weighs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from budjoule.training.compression.update import Vector
from budjoule.training.server.combine import Combine, Weights, mean

if TYPE_CHECKING:
    from budjoule.training.config.config import Config

AGE_EXPONENT = 0.5  # of (1 + tau)^-a, as in FedBuff: Nguyen et al., AISTATS 2022, arXiv:2106.06639
ROUNDING = 1e-9  # relative error of sums of squares, generously
GAP_CAP = 16.0  # slots; a client that was silent for longer gains no more weight


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An update that the server holds.

    Args:
        client: Who sent it.
        examples: How many examples it was trained on.
        staleness: Versions published since its base.
        gap_slots: Slots since the client was invited, at least 1: how long it was silent. 1 where there are no slots, or where clients
            speak after every block.
        values: The delta. Shape (n,).
    """

    client: int
    examples: int
    staleness: int
    gap_slots: float
    values: Vector

    @cached_property
    def norm(self) -> float:
        """Length of the delta, in double precision, which no float32 overflows."""
        wide = self.values.astype(np.float64)
        return float(np.sqrt(wide @ wide))


Weigh = Callable[[Sequence[Arrival]], Weights]


def aggregate(
    weights: Vector, arrivals: Sequence[Arrival], shares: Weights, learning_rate: float, *, combine: Combine = mean
) -> Vector:
    """One server step. Shape (n,).

    ``w <- w + lr combine(d_i, s_i)``, with the mean ``w <- w + lr sum_i s_i d_i / sum_i s_i``.

    Args:
        weights: The present weights. Shape (n,).
        arrivals: Updates, at least one, in the order of their arrival.
        shares: What each weighs; positive. Shape (len(arrivals),).
        learning_rate: The server's rate.
        combine: How weighed updates become one.
    """
    step = combine([arrival.values for arrival in arrivals], shares)
    step *= np.float32(learning_rate)
    step += weights
    return step


def damping(arrivals: Sequence[Arrival], shares: Weights) -> float:
    """The factor by which a step is shortened because what is in flight will say the same again: ``1 / (1 + tau c)``.

    Updates that left with an old version cannot know of the steps made since, and those of clients alike repeat them. Where all point
    one way and tau is the same for all, this is safe: a step against the gradient of a quadratic, seen tau versions late, converges
    while rate times curvature is below 2 sin(pi / (4 tau + 2)) (Levin and May, Theoretical Population Biology 9, 1976), and
    1 / (1 + tau) is below it for every tau. Between that and updates at right angles, whose step stays whole, the form is ours and a
    compromise: clients that differ keep their pace, and near their optimum they may circle it rather than settle.

    Args:
        arrivals: Updates, at least one; tau is their mean age by shares, and c their `agreement`.
        shares: What each weighs; positive. Shape (len(arrivals),).
    """
    age = float(np.average([arrival.staleness for arrival in arrivals], weights=shares))
    return 1.0 / (1.0 + age * agreement(arrivals, shares)) if age else 1.0


def agreement(arrivals: Sequence[Arrival], shares: Weights) -> float:
    """How far updates point one way: 0 at right angles and against each other, 1 along one line; 0 of a single update.

    ``c = max(0, (|sum_i s_i d_i|^2 - sum_i |s_i d_i|^2) / ((sum_i |s_i d_i|)^2 - sum_i |s_i d_i|^2))``, the mean cosine of two of them,
    weighed by their lengths. FedExP lengthens a server's step where updates agree little, by the mean of their squares over the square of
    their mean (Jhunjhunwala et al., ICLR 2023, arXiv:2301.09604).
    """
    total = np.zeros(arrivals[0].values.shape, np.float64)
    lengths = np.zeros(len(arrivals))
    for place, (arrival, share) in enumerate(zip(arrivals, shares, strict=True)):
        weighed = share * arrival.values.astype(np.float64)
        lengths[place] = np.sqrt(np.sum(weighed**2))
        total += weighed
    alone = float(np.sum(lengths**2))
    pairs = float(np.sum(lengths)) ** 2 - alone
    if pairs <= ROUNDING * alone:  # a single update, or one beside which the others are nothing
        return 0.0
    return min(1.0, max(0.0, (float(np.sum(total**2)) - alone) / pairs))


def constant(arrivals: Sequence[Arrival]) -> Weights:
    """Every update alike."""
    return np.ones(len(arrivals))


def polynomial(arrivals: Sequence[Arrival]) -> Weights:
    """By age alone: ``(1 + tau)^-1/2``."""
    shares: Weights = (1.0 + np.array([arrival.staleness for arrival in arrivals])) ** -AGE_EXPONENT
    return shares


def age_variance(arrivals: Sequence[Arrival]) -> Weights:
    """By age, and less where an update strays: ``(1 + tau)^-1/2 min(1, median variance / variance_i)``.

    The variance of an update is its mean squared distance from the buffer's mean, so it costs no bytes and no client can
    misstate it; with two updates or fewer it says nothing and only the age counts. This is a design of ours: the formula of
    FTTE (arXiv:2510.03165), which also weighs by age and variance, is not public.
    """
    age = polynomial(arrivals)
    if len(arrivals) < 3:
        return age
    mean = np.mean([arrival.values for arrival in arrivals], axis=0, dtype=np.float64)
    variance = np.array([np.mean((arrival.values - mean) ** 2) for arrival in arrivals])
    median = np.median(variance)
    trust: Weights = np.where(variance > median, median / np.maximum(variance, np.finfo(np.float64).tiny), 1.0)
    return age * trust


STALENESS: dict[str, Weigh] = {"constant": constant, "polynomial": polynomial, "age-variance": age_variance}


def by_examples(arrivals: Sequence[Arrival], _staleness: Weigh) -> Weights:
    """By examples, as FedAvg does; within a round nothing is stale."""
    return np.array([float(arrival.examples) for arrival in arrivals])


def by_staleness(arrivals: Sequence[Arrival], staleness: Weigh) -> Weights:
    """By the configured staleness rule."""
    return staleness(arrivals)


def by_staleness_and_gap(arrivals: Sequence[Arrival], staleness: Weigh) -> Weights:
    """The staleness rule times ``sqrt(min(gap, cap))``: who speaks rarely, by thrift or a poor link, is not drowned out.

    This is the staleness rule itself, and a server that weighs so is FedBuff, where all gaps are 1: without slots, with the policy
    `every-block`, under which no one ever chooses to wait, or where every answer is in within two slots of its invitation. With any
    other policy a client whose download, block and upload take longer than that weighs as one that waits.
    """
    gaps = np.array([arrival.gap_slots for arrival in arrivals])
    shares: Weights = staleness(arrivals) * np.sqrt(np.minimum(gaps, GAP_CAP))
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A server's way of working.

    Args:
        synchronous: It works in rounds and waits for its cohort.
        deadline: It waits no longer than the deadline.
        weigh: What each update in the buffer weighs.
        weigh_privately: The same under differential privacy: by public facts alone, and at most 1.
        staleness: The staleness rule where a configuration names none.
    """

    synchronous: bool = False
    deadline: bool = False
    weigh: Callable[[Sequence[Arrival], Weigh], Weights] = by_staleness
    weigh_privately: Callable[[Sequence[Arrival], Weigh], Weights] = by_staleness
    staleness: str = "age-variance"


METHODS: dict[str, Method] = {
    "fedavg": Method(synchronous=True, weigh=by_examples, staleness="constant"),
    "fedavg-deadline": Method(synchronous=True, deadline=True, weigh=by_examples, staleness="constant"),
    "fedbuff": Method(staleness="polynomial"),
    "ftte-style": Method(),
    "budjoule": Method(
        weigh=by_staleness_and_gap,
        weigh_privately=lambda arrivals, staleness: by_staleness_and_gap(arrivals, staleness) / GAP_CAP**0.5,
        # Not by variance: an update that carries many blocks is long and strays, and would lose what its gap gives it.
        staleness="polynomial",
    ),
}


def one_each(config: "Config") -> bool:
    """Whether a version takes one update a client: where noise is measured against one, or where a minority must stay one."""
    return math.isfinite(config.privacy.epsilon) or config.server.aggregate != "mean"


def updates_a_version(config: "Config") -> int:
    """How many updates make a version, where all come that are asked for."""
    server, clients = config.server, config.fleet.clients
    if METHODS[server.method].synchronous:
        return min(server.cohort, clients)
    return min(server.buffer_size, clients) if one_each(config) else server.buffer_size
