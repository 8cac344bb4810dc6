"""A budget on anyone's loop: how many steps it allows, and what it books however the loop ends."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.energy.meters.meter import Domain
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.within import within


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "l.db", budget_j=10.0) as ledger:
        yield ledger


class CountingMeter:
    """A counter that moves only when a test says so, believed whatever the power."""

    name = "counting"
    method = "a test's counter"
    notes = ()

    def __init__(self, source="measured"):
        self.source = source
        self.domains = (Domain(name="package-0", limit_w=1e18),)
        self.total_j = 0.0

    def read(self):
        return [self.total_j]

    def close(self):
        pass


def estimate(energy_j, energy_high_j):
    return SimpleNamespace(energy_j=energy_j, energy_high_j=energy_high_j, duration_s=0.01)


def test_the_loop_ends_when_another_step_cannot_be_paid(ledger):
    assert list(within(ledger, range(1000), step_cost=3.0, meter=None)) == [0, 1, 2]
    assert (ledger.spent_j, ledger.reserved_j) == (9, 0)
    assert list(within(ledger, range(1000), step_cost=3.0, meter=None)) == []
    assert list(within(ledger, range(1000), step_cost="1 J", meter=None)) == [0]
    assert ledger.exhausted


def test_the_loop_ends_with_the_loader_and_gives_the_rest_back(ledger):
    assert list(within(ledger, "abc", step_cost=0.5, block_steps=20, meter=None)) == ["a", "b", "c"]
    assert (ledger.spent_j, ledger.reserved_j) == (1.5, 0)


def test_an_empty_loader_spends_nothing(ledger):
    assert list(within(ledger, [], step_cost=0.5, meter=None)) == []
    assert (ledger.spent_j, ledger.reserved_j) == (0, 0)


def test_break_commits_what_ran(ledger):
    for number in within(ledger, range(100), step_cost=0.5, block_steps=10, meter=None):
        assert ledger.reserved_j == 5
        if number == 3:
            break
    assert (ledger.spent_j, ledger.reserved_j) == (2, 0)


def test_an_exception_in_the_body_commits_what_ran_and_passes(ledger):
    def loop():
        for number in within(ledger, range(100), step_cost=0.5, block_steps=10, meter=None):
            if number == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert (ledger.spent_j, ledger.reserved_j) == (2, 0)


def test_an_exception_in_the_loader_commits_what_ran_and_passes(ledger):
    def loader():
        yield from range(3)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(within(ledger, loader(), step_cost=0.5, block_steps=10, meter=None))
    assert (ledger.spent_j, ledger.reserved_j) == (1.5, 0)


def test_an_estimate_reserves_its_upper_end_and_books_its_expected_value(ledger):
    held = []
    for _ in within(ledger, range(3), step_cost=estimate(1.0, 1.5), block_steps=2, meter=None):
        held.append(ledger.reserved_j)
    assert held == [3.0, 3.0, 3.0]
    assert ledger.spent_j == 3
    # 7 J are left: a block of 1.5 J steps shrinks until one does not fit.
    assert len(list(within(ledger, range(100), step_cost=estimate(1.0, 1.5), block_steps=4, meter=None))) == 6
    assert ledger.remaining_j == 1


def test_blocks_grow_with_the_clock_and_stay_about_a_second(ledger, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("budjoule.training.paid_steps.time.monotonic", lambda: now[0])
    held = []
    for _ in within(ledger, range(100), step_cost=0.01, meter=None):
        now[0] += 0.125
        held.append(round(ledger.reserved_j / 0.01))
    assert held[0] == 1
    assert sorted(set(held)) == [1, 4, 8]
    assert ledger.spent_j == 1


def test_a_counter_books_what_it_measured(ledger):
    meter = CountingMeter()
    for _ in within(ledger, range(4), step_cost=1.0, block_steps=2, meter=meter):
        meter.total_j += 0.75
    assert (ledger.spent_j, ledger.measured_j) == (3, 3)


def test_the_idle_floor_is_taken_off_what_a_counter_says(ledger):
    meter = CountingMeter()
    for _ in within(ledger, range(2), step_cost=1.0, block_steps=2, meter=meter, idle_w=1e9):
        meter.total_j += 0.75
    assert (ledger.spent_j, ledger.reserved_j) == (0, 0)


def test_a_meter_that_only_estimates_books_the_steps_estimate(ledger):
    meter = CountingMeter(source="estimated")
    for _ in within(ledger, range(2), step_cost=1.0, meter=meter):
        meter.total_j += 5
    assert (ledger.spent_j, ledger.measured_j) == (2, 0)


def test_an_estimate_found_low_widens_the_next_reservation(ledger):
    meter, held = CountingMeter(), []
    for _ in within(ledger, range(3), step_cost=1.0, block_steps=1, meter=meter):
        held.append(ledger.reserved_j)
        meter.total_j += 2
    assert held == [1.0, 2.2, 2.2]
    assert (ledger.spent_j, ledger.overspent_j) == (6, 0)


def test_an_estimate_far_too_low_overspends_once_and_stops(ledger):
    meter, ran = CountingMeter(), 0
    for _ in within(ledger, range(100), step_cost=1.0, block_steps=1, meter=meter):
        meter.total_j += 11
        ran += 1
    assert ran == 1
    assert (ledger.spent_j, ledger.overspent_j) == (11, 1)


def test_two_loops_on_one_ledger_share_it(tmp_path):
    path = tmp_path / "l.db"
    with Ledger.open(path, budget_j=10) as one, Ledger.open(path) as two:
        first = within(one, range(100), step_cost=1.0, block_steps=3, meter=None)
        second = within(two, range(100), step_cost=1.0, block_steps=3, meter=None)
        taken = 0
        for batches in [first, second] * 20:
            taken += next(batches, None) is not None
        assert taken == 10
        assert (one.spent_j, one.reserved_j) == (10, 0)


@pytest.mark.parametrize(
    "cost", [-1.0, float("nan"), "3 apples", None, estimate(float("nan"), 1.0), estimate(-1.0, 1.0)]
)
def test_costs_that_are_no_energy_are_refused_before_the_first_batch(ledger, cost):
    with pytest.raises(UsageError):
        within(ledger, range(3), step_cost=cost)


def test_other_bad_arguments_are_refused_before_the_first_batch(ledger):
    with pytest.raises(UsageError, match="block_steps"):
        within(ledger, range(3), step_cost=1.0, block_steps=0)
    with pytest.raises(UsageError, match="idle_w"):
        within(ledger, range(3), step_cost=1.0, idle_w=-1)


@settings(max_examples=40, deadline=None)
@given(
    budget=st.floats(0, 20),
    low=st.floats(0.05, 3),
    over=st.floats(1, 2),
    block=st.integers(1, 7),
    batches=st.integers(0, 40),
)
def test_estimated_loops_never_pass_the_budget_and_waste_less_than_a_step(
    tmp_path_factory, budget, low, over, block, batches
):
    with Ledger.open(tmp_path_factory.mktemp("w") / "l.db", budget_j=budget) as ledger:
        cost = estimate(low, low * over)
        ran = len(list(within(ledger, range(batches), step_cost=cost, block_steps=block, meter=None)))
        assert ledger.spent_j == pytest.approx(ran * low, abs=1e-6)
        assert ledger.spent_j <= ledger.budget_j
        assert ledger.reserved_j == 0
        assert ran == batches or ledger.remaining_j < low * over + 1e-6
