"""Client-level differential privacy: clip each update, add noise to a sum whose divisor is public, cap participation.

The server is trusted; whoever sees its versions learns little about whether any one client took part. The noise is solved
for, not chosen: from epsilon, delta and the most versions that any client's updates may enter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import UsageError
from budjoule.training.compression.levels import parse_levels
from budjoule.training.compression.update import Vector
from budjoule.training.server.combine import Combine, Weights
from budjoule.training.server.methods import updates_a_version

if TYPE_CHECKING:
    from budjoule.training.config.config import Config

MOST_NOISE = 1e4  # standard deviations a clip; a target that needs more leaves nothing to learn from


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What a run promises, and what it takes.

    Args:
        epsilon: The promise, at most.
        delta: Probability that it does not hold.
        clip: Longest update, in the L2 norm.
        participations: Versions that a client's updates may enter.
        noise_multiplier: Standard deviation of the noise over the clip.
        divisor: What the noisy sum is divided by, whatever arrived.
        covers_timing: Whether the moments at which clients send tell nothing either.
    """

    epsilon: float
    delta: float
    clip: float
    participations: int
    noise_multiplier: float
    divisor: int
    covers_timing: bool


def plan_privacy(config: "Config") -> Privacy | None:
    """The noise that a configuration needs; None where it asks for no epsilon.

    Raises:
        UsageError: The promise cannot be kept, or the accountant is not installed.
    """
    wanted = config.privacy
    if not math.isfinite(wanted.epsilon):
        return None
    divisor = updates_a_version(config)
    participations = wanted.participations or math.ceil(2 * config.stop.rounds * divisor / config.fleet.clients)
    participations = int(min(participations, config.stop.rounds))
    return Privacy(
        epsilon=wanted.epsilon,
        delta=wanted.delta,
        clip=wanted.clip,
        participations=participations,
        noise_multiplier=noise_multiplier(wanted.epsilon, wanted.delta, participations),
        divisor=divisor,
        covers_timing=_covers_timing(config),
    )


def _covers_timing(config: "Config") -> bool:
    """Whether neither the decision to send nor how long a send takes depends on the update.

    Levels whose values depend on it, of `topk`, have frames whose size does as well.
    """
    levels = parse_levels(config.update.compress)
    return config.schedule.policy != "norm-threshold" and all(level.fixed_size for level in levels)


def noise_multiplier(epsilon: float, delta: float, participations: int) -> float:
    """The least noise over the clip that is known by its Renyi divergence to keep (epsilon, delta) through so many versions.

    The divergence bounds epsilon from above: the exact curve of a Gaussian would let 5 to 10 % less noise do.

    Every version that a client enters is one Gaussian mechanism of sensitivity 1, since no version takes two updates of one client
    (m of them would cost as much as m squared versions); they compose adaptively. Nothing is
    gained from sampling: whom a buffered server hears next is no secret draw.

    Source: Mironov, Renyi differential privacy, CSF 2017, arXiv:1702.07476; accountant: Google's dp-accounting.

    Raises:
        UsageError: No noise below `MOST_NOISE` is enough, or dp-accounting is not installed.
    """
    dp = _accounting()
    try:
        found = dp.calibrate_dp_mechanism(
            dp.rdp.RdpAccountant,
            lambda noise: dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise), participations),
            epsilon,
            delta,
            dp.ExplicitBracketInterval(0.0, MOST_NOISE),
        )
    except ValueError:  # the accountant's way of saying that the bracket holds no solution
        raise UsageError(
            f"privacy.epsilon = {epsilon:g} at delta = {delta:g} over {participations} participations needs noise of more "
            f"than {MOST_NOISE:g} clips; raise epsilon or lower stop.rounds"
        ) from None
    return float(found)


def epsilon_spent(privacy: Privacy, participations: int) -> float:
    """Epsilon at the promised delta after the busiest client entered so many versions."""
    if participations == 0:
        return 0.0
    dp = _accounting()
    accountant = dp.rdp.RdpAccountant()
    accountant.compose(dp.GaussianDpEvent(privacy.noise_multiplier), participations)
    return float(accountant.get_epsilon(privacy.delta))


def clip_norm(values: Vector, clip: float) -> Vector:
    """The update, shortened to the clip where it is longer. Shape (n,)."""
    norm = float(np.linalg.norm(values.astype(np.float64)))
    return values if norm <= clip else values * np.float32(clip / norm)


def noisy_mean(privacy: Privacy, rng: np.random.Generator) -> Combine:
    """``(sum_i s_i clip(d_i) + N(0, (z C)^2)) / K`` with public weights of at most 1; the noise covers every entry.

    Args:
        privacy: Clip C, noise multiplier z and divisor K.
        rng: Where the noise comes from; its seed must stay unknown to whom the promise is made against.

    Source: McMahan et al., Learning differentially private recurrent language models, ICLR 2018, arXiv:1710.06963.
    """

    def combine(deltas: Sequence[Vector], shares: Weights) -> Vector:
        total = np.zeros(deltas[0].shape)
        for delta, share in zip(deltas, shares, strict=True):
            total += share * clip_norm(delta, privacy.clip).astype(np.float64)
        return noisy_share(privacy, total, rng)

    return combine


def noisy_share(privacy: Privacy, total: NDArray[np.float64], rng: np.random.Generator) -> Vector:
    """A sum of clipped updates with noise, over the divisor. Shape (n,)."""
    noise = rng.normal(0.0, privacy.noise_multiplier * privacy.clip, total.shape)
    result: Vector = ((total + noise) / privacy.divisor).astype(np.float32)
    return result


def _accounting() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        raise UsageError("privacy.epsilon needs an accountant: pip install 'budjoule[privacy]'") from None
    return dp_accounting
