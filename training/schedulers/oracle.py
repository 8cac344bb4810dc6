"""The offline oracle: when a device that knew every price to come would have sent, and what no policy can exceed.

What a send is worth is the blocks it carries to the power `GROWTH`, as `price-threshold` has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from budjoule.training.schedulers.offer import GROWTH

Floats = NDArray[np.float64]

_HALVINGS = 24  # of the joule's price, on a logarithmic scale: what is left of the gap is one send's


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the oracle found.

    Args:
        blocks: The blocks it sends after, ascending.
        worth: What these sends are worth together.
        bound: What no choice of blocks within the budget can be worth more than; the gap to `worth` is about one send.
    """

    blocks: tuple[int, ...]
    worth: float
    bound: float


def oracle(prices_j: Floats, budget_j: float) -> Plan:
    """The blocks to send after that are worth most within a budget, every price being known. Shape of prices: (blocks,).

    ``max sum_i g_i^GROWTH  with  sum_i price_i <= budget``, g_i being the blocks since the send before. For a price lambda of a
    joule the best choice is a longest path; lambda is halved in on until the budget is met, and any lambda bounds the optimum.

    Args:
        prices_j: What a send costs after each block. [J]
        budget_j: What sends may cost together. [J]
    """
    carried = np.arange(len(prices_j), 0, -1.0) ** GROWTH  # the worth of carrying n, ..., 1 blocks
    low, high = 0.0, float(carried[0] / max(prices_j.min(), 1e-12))
    plan: tuple[int, ...] = ()
    bound = float("inf")
    for step in range(_HALVINGS + 1):
        lam = 0.0 if step == 0 else (low + high) / 2 if low == 0.0 else (low * high) ** 0.5
        sends = _longest(carried, lam * prices_j)
        spent_j = float(prices_j[sends].sum())
        bound = min(bound, worth(sends) - lam * (spent_j - budget_j))
        if spent_j <= budget_j:
            high = lam
            plan = max(plan, tuple(sends), key=worth)
            if lam == 0.0:
                break
        else:
            low = lam if lam else high * 1e-9
    return Plan(blocks=plan, worth=worth(plan), bound=bound)


def worth(sends: Sequence[int]) -> float:
    """What sends are worth together, by the blocks they are made after, ascending."""
    return float((np.diff([-1.0, *sends]) ** GROWTH).sum())


def _longest(carried: Floats, costs: Floats) -> list[int]:
    """The sends of largest worth less cost: a longest path over blocks, from before the first."""
    count = len(costs)
    value, came = (
        np.zeros(count + 1),
        np.zeros(count, np.int64),
    )  # value[i]: at best when the last send was after block i - 1
    for block in range(count):
        ways = value[: block + 1] + carried[count - block - 1 :]
        came[block] = best = int(ways.argmax())
        value[block + 1] = ways[best] - costs[block]
    last, sends = int(value.argmax()), []
    while last:
        sends.append(last - 1)
        last = int(came[last - 1])
    return sends[::-1]
