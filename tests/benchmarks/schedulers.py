"""The decision problem alone: what each policy's sends are worth, beside an offline oracle that knows all prices.

Columns are budgets, as a share of what sending at every block would cost; cells are the worth of the sends as a share of what
no choice can exceed, and in brackets the longest silence in affordable mean periods. A send is worth the blocks it
carries to the power 2/3, so no model, no accuracy and no server is in these numbers.

    python tests/benchmarks/schedulers.py [--seeds 10] [--slots 1000] [--link lte-2012] [--trace FILE] [--size 10000]
"""

import argparse
import time

import numpy as np

from budjoule.training.links.link_state import parse_link_state
from budjoule.training.links.links import load_link
from budjoule.training.schedulers import SCHEDULERS, Level, Offer, make_scheduler
from budjoule.training.schedulers.oracle import oracle, worth

BUDGETS = (0.02, 0.05, 0.15, 0.5)
STATES = ("constant", "two-state:8", "two-state:8:20 min", "diurnal:8:4 h", "adversarial:8", "busy:5 min")
SLOT_S = 60.0


def prices_j(link_name: str, state: str, size_bytes: int, seed: int, slots: int) -> tuple[np.ndarray, float]:
    """What a send would cost in each slot, and at the worst. [J]"""
    link, link_state = load_link(link_name), parse_link_state(state, seed=seed, client=0)
    prices = []
    for now_s in np.arange(slots) * SLOT_S:
        rate = link_state.rate_frac(now_s) * link.rate_up_bit_per_s
        tail_s = max(0.0, link_state.other_traffic_s(now_s) + link.tail_s - now_s)
        prices.append(link.uplink_energy_j(size_bytes, rate_bit_per_s=rate, tail_paid_s=tail_s))
    return np.array(prices), link.uplink_upper_j(size_bytes, lowest_rate_frac=link_state.lowest_rate_frac)


def play(policy: str, prices: np.ndarray, budget_j: float, worst_j: float, seed: int) -> list[int]:
    """The slots in which a policy sends; raises if it spends more than the budget."""
    scheduler, left_j, since, sends = make_scheduler(policy, seed=seed, client=0), budget_j, 0, []
    for slot, price_j in enumerate(prices.tolist()):
        since += 1
        offer = Offer(
            slot=slot,
            slots=len(prices),
            budget_j=budget_j,
            left_j=left_j,
            reserve_j=worst_j,
            block_j=0.0,
            levels=(Level(size_bytes=1, energy_upper_j=price_j),),
            blocks_since_send=since,
            norm=since**0.5,
        )
        choice = scheduler.decide(offer)
        spent_j = 0.0 if choice is None else price_j
        scheduler.settle(spent_j)
        if choice is not None:
            left_j, since = left_j - spent_j, 0
            sends.append(slot)
        if left_j < -1e-9:
            raise SystemExit(f"{policy} spent {budget_j - left_j} of {budget_j} J")
    return sends


def main() -> None:
    """Print one table a state of the link."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--link", default="wifi-2012")
    parser.add_argument("--size", type=int, default=20_000, help="bytes of a send")
    parser.add_argument("--trace", help="a recorded link trace (CSV of time_s, rate_frac) instead of drawn ones")
    arguments = parser.parse_args()
    states = (f"trace:{arguments.trace}",) if arguments.trace else STATES
    print(
        f"{arguments.link}, {arguments.size} B a send, {arguments.slots} slots, {arguments.seeds} seeds: % of the oracle's worth (longest silence in periods)"
    )
    for state in states:
        drawn = {
            seed: prices_j(arguments.link, state, arguments.size, seed, arguments.slots)
            for seed in range(arguments.seeds)
        }
        bounds = {
            (budget, seed): oracle(prices, budget * float(prices.sum())).bound
            for budget in BUDGETS
            for seed, (prices, _) in drawn.items()
        }
        print(f"\n{state:22}" + "".join(f"{budget:>16.0%}" for budget in BUDGETS) + "     µs a decision")
        for policy in SCHEDULERS:
            cells, decided_s = [], 0.0
            for budget in BUDGETS:
                shares, silences = [], []
                for seed in range(arguments.seeds):
                    prices, worst_j = drawn[seed]
                    budget_j = budget * float(prices.sum())
                    began = time.perf_counter()
                    sends = play(policy, prices, budget_j, worst_j, seed)
                    decided_s += time.perf_counter() - began
                    shares.append(worth(sends) / bounds[budget, seed])
                    silences.append(np.diff([-1, *sends, arguments.slots]).max() * budget)
                error = np.std(shares) / max(arguments.seeds - 1, 1) ** 0.5
                cells.append(f"{100 * np.mean(shares):5.1f}±{100 * error:3.1f} ({np.mean(silences):4.1f})")
            each_us = 1e6 * decided_s / (len(BUDGETS) * arguments.seeds * arguments.slots)
            print(f"  {policy:20}" + "".join(f"{cell:>16}" for cell in cells) + f"{each_us:12.0f}")


if __name__ == "__main__":
    main()
