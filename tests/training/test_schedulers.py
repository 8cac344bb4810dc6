"""What every policy holds on any path, what the joule queue's theory promises, and how near each comes to the optimum."""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.schedulers import SCHEDULERS, Level, Offer, make_scheduler, may_train
from budjoule.training.schedulers.joule_queue import JouleQueue
from budjoule.training.schedulers.oracle import oracle, worth
from budjoule.training.schedulers.price_threshold import PriceThreshold

POLICIES = sorted(SCHEDULERS)


@dataclass
class Run:
    """A device that obeys the contract: blocks only if `may_train`, sends only what a policy chose."""

    budget_j: float
    slots: int
    reserve_j: float
    block_j: float = 0.0
    spent_j: float = 0.0
    since: int = 0
    sends: list = field(default_factory=list)
    chosen: list = field(default_factory=list)

    def slot(self, scheduler, slot, levels, *, actual_frac=1.0, block_frac=1.0):
        """One block and one decision."""
        offer = self.offer(slot, levels)
        if may_train(offer):
            self.spent_j += block_frac * self.block_j
            self.since += 1
        offer = self.offer(slot, levels)
        choice = scheduler.decide(offer)
        self.chosen.append(choice)
        spent_j = 0.0
        if choice is not None:
            spent_j = actual_frac * levels[choice].energy_upper_j
            self.sends.append(slot)
            self.since = 0
        self.spent_j += spent_j
        scheduler.settle(spent_j)

    def offer(self, slot, levels):
        return Offer(
            slot=slot,
            slots=self.slots,
            budget_j=self.budget_j,
            left_j=self.budget_j - self.spent_j,
            reserve_j=self.reserve_j,
            block_j=self.block_j,
            levels=levels,
            blocks_since_send=self.since,
            norm=math.sqrt(self.since),
        )


def one(price_j, value=1.0):
    return (Level(size_bytes=100, energy_upper_j=price_j, value=value),)


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    slots=st.integers(1, 60),
    budget=st.floats(0, 200),
    block=st.floats(0, 5),
    seed=st.integers(0, 2**31),
    levels=st.integers(1, 3),
)
def test_spending_never_passes_the_budget_whatever_the_link_does(policy, slots, budget, block, seed, levels):
    rng = np.random.default_rng(seed)
    scheduler = make_scheduler(policy, seed=1, client=2)
    run = Run(budget_j=budget, slots=slots, reserve_j=20.0, block_j=block)
    for slot in range(slots):
        prices = np.sort(rng.uniform(0.1, 20, levels) ** rng.choice([0.2, 1]))
        offered = tuple(
            Level(size_bytes=1, energy_upper_j=float(p), value=float(v))
            for p, v in zip(prices, rng.random(levels), strict=True)
        )
        run.slot(scheduler, slot, offered, actual_frac=rng.random(), block_frac=rng.random())
        assert run.spent_j <= budget * (1 + 1e-12)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_last_send_is_kept_in_reserve_for_the_worst_link(policy):
    # The link turns as bad as the reserve allows just before the end: what was learnt still gets out.
    scheduler = make_scheduler(policy, seed=0, client=0)
    run = Run(budget_j=30.0, slots=50, reserve_j=8.0, block_j=0.1)
    for slot in range(50):
        run.slot(scheduler, slot, one(1.0 if slot < 45 else 8.0))
    assert run.sends[-1] == 49
    assert run.spent_j <= 30


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"every-block"}))  # it is asked after blocks only, and sends
def test_nothing_is_sent_when_nothing_was_learnt_at_the_end(policy):
    scheduler = make_scheduler(policy, seed=0, client=0)
    run = Run(budget_j=30.0, slots=1, reserve_j=1.0, block_j=100.0)
    run.slot(scheduler, 0, one(1.0))
    assert run.chosen == [None]


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"every-block"}))
@pytest.mark.parametrize("budget", [10.0, 50.0, 150.0])
def test_pacing_policies_spread_their_sends_over_the_horizon(policy, budget):
    scheduler = make_scheduler(policy, seed=3, client=1)
    run = Run(budget_j=budget, slots=1000, reserve_j=1.0, block_j=0.001)
    for slot in range(1000):
        run.slot(scheduler, slot, one(1.0))
    # At a constant price there is nothing to choose: all use what they may, in both halves of the horizon.
    assert 0.7 * budget <= run.spent_j <= budget
    early = sum(slot < 500 for slot in run.sends)
    assert 0.25 <= early / len(run.sends) <= 0.75


@pytest.mark.parametrize("policy", ["token-bucket", "joule-queue", "price-threshold"])
def test_link_aware_policies_send_more_for_the_same_joules(policy):
    def sends(name):
        rng = np.random.default_rng(0)
        scheduler, run = make_scheduler(name, seed=0, client=0), Run(budget_j=100.0, slots=2000, reserve_j=0.8)
        for slot in range(2000):
            run.slot(scheduler, slot, one(float(rng.choice([0.1, 0.8]))))
        assert run.spent_j <= 100
        return len(run.sends)

    assert sends(policy) > 2.5 * sends("fixed-period")


@settings(max_examples=40, deadline=None)
@given(
    slots=st.integers(2, 300),
    seed=st.integers(0, 2**31),
    e_min=st.floats(0.05, 1),
    spread=st.floats(1, 20),
    budget_frac=st.floats(0.01, 1.2),
    cap=st.sampled_from([0.5, 4.0, 1e9]),
)
def test_the_queue_and_the_spending_stay_within_the_stated_bounds(slots, seed, e_min, spread, budget_frac, cap):
    rng = np.random.default_rng(seed)
    e_max = e_min * spread
    budget = budget_frac * slots * e_max
    scheduler = JouleQueue(cap_periods=cap)
    run = Run(budget_j=budget, slots=slots, reserve_j=0.0)
    forced = 0
    rate = None
    for slot in range(slots):
        levels = tuple(
            Level(size_bytes=1, energy_upper_j=float(rng.uniform(e_min, e_max)), value=float(rng.random()))
            for _ in range(int(rng.integers(1, 4)))
        )
        run.slot(scheduler, slot, levels, actual_frac=rng.random())
        state = scheduler.state()
        rate = state["ahead"]["rate_j"] if rate is None else rate
        forced += run.chosen[-1] is not None and state["ahead"]["outlay"]["chosen_j"] == 0
        weight_max = e_max * rate * math.sqrt(state["ahead"]["blocks"])
        bound = weight_max * 1.0 / e_min + e_max
        assert scheduler.queue_j <= bound * (1 + 1e-9)
        assert run.spent_j <= (slot + 1) * rate + bound + forced * e_max + 1e-9


def optimum(prices, budget):
    """The most sends that a budget pays for, knowing every price."""
    paid = np.cumsum(np.sort(prices))
    return int(np.searchsorted(paid, budget, side="right"))


@pytest.mark.parametrize("kind", ["two prices", "many prices"])
def test_the_gap_to_the_optimum_shrinks_with_the_horizon(kind):
    gaps = {}
    for slots in (300, 5000):
        ratios = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            prices = (
                rng.choice([0.1, 0.8], slots) if kind == "two prices" else rng.lognormal(-1, 0.8, slots).clip(0.02, 3)
            )
            budget = 0.05 * prices.sum()
            scheduler, run = JouleQueue(cap_periods=1e9), Run(budget_j=budget, slots=slots, reserve_j=0.0)
            for slot in range(slots):
                run.slot(scheduler, slot, one(float(prices[slot])))
            ratios.append(len(run.sends) / optimum(prices, budget))
        gaps[slots] = 1 - np.mean(ratios)
    assert gaps[5000] < 0.6 * gaps[300] + 0.005
    assert gaps[5000] < 0.08


def test_the_threshold_rule_comes_near_what_an_oracle_would_have_sent():
    rng = np.random.default_rng(7)
    walk = np.exp(0.8 * np.sin(np.arange(1500) / 40) + 0.4 * rng.normal(size=1500))
    for prices in (rng.choice([1.0, 8.0], 1500), rng.lognormal(-1, 0.8, 1500), walk):
        budget = 0.05 * float(prices.sum())
        run = Run(budget_j=budget, slots=1500, reserve_j=0.0)
        scheduler = PriceThreshold()
        for slot in range(1500):
            run.slot(scheduler, slot, one(float(prices[slot])))
        assert worth(run.sends) >= 0.9 * oracle(prices, budget).bound


@settings(max_examples=40, deadline=None)
@given(slots=st.integers(1, 10), seed=st.integers(0, 2**31), budget_frac=st.floats(0, 1.2), spread=st.floats(1, 20))
def test_no_choice_beats_the_oracle_s_bound_and_its_own_is_one_send_away(slots, seed, budget_frac, spread):
    prices = np.random.default_rng(seed).uniform(1, spread, slots)
    budget = budget_frac * float(prices.sum())
    plan = oracle(prices, budget)
    choices = [[slot for slot in range(slots) if mask >> slot & 1] for mask in range(2**slots)]
    best = max(worth(choice) for choice in choices if prices[choice].sum() <= budget)
    assert prices[list(plan.blocks)].sum() <= budget
    assert plan.worth == pytest.approx(worth(plan.blocks))
    assert plan.worth <= best + 1e-9 <= plan.bound + 2e-9
    assert plan.bound - plan.worth <= worth([slots - 1]) + 1e-9


def test_a_bad_link_is_used_seldom_but_not_never():
    # A good link for a quarter of the time, then a bad one until the end: the rule goes on speaking, at longer intervals.
    scheduler, run = PriceThreshold(), Run(budget_j=40.0, slots=800, reserve_j=4.0)
    for slot in range(800):
        run.slot(scheduler, slot, one(1.0 if slot < 200 else 4.0))
    good, bad = (np.diff([s for s in run.sends if lo <= s < lo + 200]) for lo in (0, 300))
    assert bad.mean() > 1.5 * good.mean()
    assert np.diff([*run.sends, 800]).max() < 250


@settings(max_examples=40, deadline=None)
@given(
    slots=st.integers(2, 300),
    seed=st.integers(0, 2**31),
    spread=st.floats(1, 20),
    budget_frac=st.floats(0.01, 1.2),
    order=st.sampled_from(["drawn", "ever better", "ever worse"]),
)
def test_the_threshold_rule_never_runs_further_ahead_of_its_pace_than_stated(slots, seed, spread, budget_frac, order):
    rng = np.random.default_rng(seed)
    prices = rng.uniform(1, spread, slots)
    prices = {"drawn": prices, "ever better": -np.sort(-prices), "ever worse": np.sort(prices)}[order]
    scheduler = PriceThreshold()
    run = Run(budget_j=budget_frac * float(prices.sum()), slots=slots, reserve_j=0.0)
    for slot in range(slots - 1):
        run.slot(scheduler, slot, one(float(prices[slot])), actual_frac=rng.random())
        ahead = scheduler.state()["ahead"]
        burst = max(scheduler.burst * ahead["rate_j"] * math.sqrt(ahead["blocks"]), 2 * spread)
        assert run.spent_j <= (slot + 1) * ahead["rate_j"] + burst + 1e-9


def test_several_levels_are_used_as_their_bargains_allow():
    small, large = (
        Level(size_bytes=10, energy_upper_j=1.0, value=1.0),
        Level(size_bytes=40, energy_upper_j=4.0, value=2.0),
    )
    never = Level(size_bytes=60, energy_upper_j=5.0, value=1.5)  # dearer and worth less: off the hull
    used = {}
    for budget in (100.0, 2500.0):
        scheduler, run = PriceThreshold(), Run(budget_j=budget, slots=1000, reserve_j=0.0)
        for slot in range(1000):
            run.slot(scheduler, slot, (small, large, never))
        used[budget] = [run.chosen.count(level) for level in (0, 1, 2)]
        assert run.spent_j >= 0.9 * budget
    assert used[100.0][0] >= 85  # scarce: the small level's bargain is better
    assert used[100.0][1] <= 3
    assert used[2500.0][1] == pytest.approx(500, rel=0.1)  # plenty: always send, half of them large
    assert used[100.0][2] == used[2500.0][2] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_resumed_scheduler_decides_as_an_uninterrupted_one(policy):
    def prices(slot):
        return one([0.2, 1.0, 0.5, 1.6, 0.9][slot * 7 % 5])

    whole, run = make_scheduler(policy, seed=5, client=9), Run(budget_j=30.0, slots=200, reserve_j=1.6, block_j=0.01)
    part, other = make_scheduler(policy, seed=5, client=9), Run(budget_j=30.0, slots=200, reserve_j=1.6, block_j=0.01)
    for slot in range(200):
        run.slot(whole, slot, prices(slot))
        if slot % 13 == 5:
            saved = json.loads(json.dumps(part.state(), allow_nan=False))
            part = make_scheduler(policy, seed=5, client=9)
            part.load_state(saved)
        other.slot(part, slot, prices(slot))
    assert other.chosen == run.chosen
    assert json.dumps(part.state()) == json.dumps(whole.state())


def test_random_choices_differ_by_client_and_seed_and_repeat():
    def path(seed, client):
        scheduler, run = (
            make_scheduler("random", seed=seed, client=client),
            Run(budget_j=30.0, slots=200, reserve_j=1.0),
        )
        for slot in range(200):
            run.slot(scheduler, slot, one(1.0))
        return tuple(run.sends)

    assert path(0, 0) == path(0, 0)
    assert len({path(seed, client) for seed in range(3) for client in range(3)}) == 9


@pytest.mark.parametrize("policy", POLICIES)
def test_a_slow_client_paces_by_the_blocks_it_can_run(policy):
    # Ten slots a block: fifty decisions, not five hundred, share the budget.
    scheduler, spent, sends = make_scheduler(policy, seed=0, client=0), 0.0, 0
    since = 0
    for slot in range(9, 500, 10):
        since += 1
        offer = Offer(
            slot=slot, slots=500, budget_j=26.0, left_j=26.0 - spent, reserve_j=1.0, block_j=0.0, levels=one(1.0),
            blocks_since_send=since, block_slots=10.0, norm=math.sqrt(since),
        )  # fmt: skip
        choice = scheduler.decide(offer)
        scheduler.settle(0.0 if choice is None else 1.0)
        if choice is not None:
            spent, sends, since = spent + 1.0, sends + 1, 0
    assert 19 <= sends <= 26


def test_a_budget_short_of_its_blocks_still_sends():
    # The blocks of the whole horizon would cost twice the budget: sends must not be starved by blocks not yet run.
    for policy in POLICIES:
        scheduler, run = (
            make_scheduler(policy, seed=0, client=0),
            Run(budget_j=100.0, slots=400, reserve_j=1.0, block_j=0.5),
        )
        for slot in range(400):
            run.slot(scheduler, slot, one(1.0))
        assert len(run.sends) >= 9, policy
        assert run.spent_j <= 100


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown schedule policy 'greedy'; give one of every-block"):
        make_scheduler("greedy", seed=0, client=0)
