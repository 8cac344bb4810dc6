"""How a device trains its next block: batch size, local steps and precision of the least joules for a unit of progress.

Progress is counted in steps of the full gradient. A step on B examples makes ``1 / (1 + N / B)`` of one, N the noise scale;
and examples teach less when they come again, so that h steps on a device with n examples are worth
``(n / B) (1 - exp(-h B / n))`` of them. A block's joules over that, its exchange with the server included, is what is
least: large batches where gradients are noisy or a step has a fixed cost, long blocks where the exchange is dear, at
most a few epochs where it is not.

Source: McCandlish et al., An empirical model of large-batch training, 2018, arXiv 1812.06162, equation 2.10, for the noise scale;
the discount of repeated examples is the chance that an example has not been seen, and an assumption.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budjoule.energy.errors import UsageError
from budjoule.training.config.config import Training

if TYPE_CHECKING:
    from budjoule.training.clients.cost import BlockCost

MOST_EPOCHS = 4
_GRID = 1.25  # step counts are tried this far apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a block is trained.

    Args:
        batch_size: Examples of a step.
        local_steps: Steps of the block.
        precision: fp32 or bf16-mixed.
    """

    batch_size: int
    local_steps: int
    precision: str = "fp32"

    @classmethod
    def of(cls, training: Training) -> "Plan":
        """What a configuration says."""
        return cls(batch_size=training.batch_size, local_steps=training.local_steps)


def progress(plan: Plan, *, examples: int, noise_scale: float) -> float:
    """What a block is worth, in steps of the full gradient.

    ``p = (n / B) (1 - exp(-h B / n)) / (1 + N / B)``

    Args:
        plan: The block.
        examples: n, of the device.
        noise_scale: N, examples whose mean gradient is as much signal as noise.

    >>> round(progress(Plan(batch_size=10, local_steps=1), examples=10**6, noise_scale=10), 3)
    0.5
    """
    seen = plan.local_steps * plan.batch_size / examples
    return examples / plan.batch_size * -math.expm1(-seen) / (1 + noise_scale / plan.batch_size)


def rate_frac(batch_size: int, *, reference: int, noise_scale: float, optimizer: str) -> float:
    """How much larger the learning rate may be than the one that suits a reference batch.

    ``(1 + N / B_ref) / (1 + N / B)`` for descent along the gradient, equation 2.9 of the same source, and its root for Adam,
    whose steps are normalized.
    """
    frac = (1 + noise_scale / reference) / (1 + noise_scale / batch_size)
    return math.sqrt(frac) if optimizer.startswith("adam") else frac


def choose_plan(
    step_cost: "Callable[[int, str], BlockCost]",
    *,
    examples: int,
    noise_scale: float,
    exchange_j: float,
    most_batch: int,
    precisions: Sequence[str] = ("fp32",),
) -> Plan:
    """The block of the least joules for its progress.

    Args:
        step_cost: Cost of one step, by batch size and precision.
        examples: How many the device holds.
        noise_scale: See `progress`.
        exchange_j: What a download and a send cost. [J]
        most_batch: The largest batch that fits the memory.
        precisions: Those to choose from.

    Raises:
        UsageError: There are no examples, or no precisions.
    """
    if examples < 1 or most_batch < 1 or not precisions:
        raise UsageError(
            f"no block to choose with {examples} examples, batches of up to {most_batch} and precisions {precisions}"
        )
    largest = min(examples, most_batch)
    batches = sorted({*(2**power for power in range(largest.bit_length())), largest})
    best: tuple[float, float, Plan] | None = None
    for precision in precisions:
        for batch in batches:
            step_j = step_cost(batch, precision).energy_j
            for steps in _counts(max(1, MOST_EPOCHS * examples // batch)):
                plan = Plan(batch_size=batch, local_steps=steps, precision=precision)
                worth = progress(plan, examples=examples, noise_scale=noise_scale)
                block_j = exchange_j + steps * step_j
                # At equal joules the block that does more is better: fewer exchanges and commits.
                if best is None or (block_j / worth, -worth) < best[:2]:
                    best = (block_j / worth, -worth, plan)
    assert best is not None
    return best[2]


def _counts(most: int) -> list[int]:
    counts = [1]
    while counts[-1] < most:
        counts.append(min(most, max(counts[-1] + 1, int(counts[-1] * _GRID))))
    return counts
