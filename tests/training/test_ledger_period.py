"""Budgets that come back: a new period starts with nothing spent, carries what is reserved, and loses no history."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.device_state import DeviceState
from budjoule.energy.errors import BudgetExhausted, LedgerError
from budjoule.training.ledger.ledger import Ledger

DAY_S = 86400.0


@pytest.fixture
def clock(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr("budjoule.training.ledger.ledger.time.time", lambda: now[0])
    return now


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger.open(tmp_path / "l.db", budget_j=10, period_s=DAY_S) as ledger:
        yield ledger


def test_a_daily_budget_comes_back_every_day(ledger, clock):
    ledger.reserve(10, "uplink").commit(8)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(5)
    clock[0] += DAY_S - 1
    assert ledger.remaining_j == 2
    clock[0] += 1
    assert (ledger.remaining_j, ledger.spent_j, ledger.spent_by_cause_j["uplink"], ledger.measured_j) == (10, 0, 0, 0)
    ledger.reserve(10).commit(10)
    (yesterday,) = ledger.periods()
    assert (yesterday.began_s, yesterday.ended_s) == (1_000_000, 1_000_000 + DAY_S)
    assert yesterday.spent_by_cause_j == {"compute": 0, "uplink": 8, "downlink": 0, "idle": 0}


def test_reserving_alone_begins_the_new_day(ledger, clock):
    ledger.reserve(10).commit(10)
    clock[0] += DAY_S
    ledger.reserve(10).commit(4)
    assert ledger.spent_j == 4


def test_what_is_reserved_is_carried_over_and_counts(ledger, clock):
    held = ledger.reserve(6)
    clock[0] += DAY_S
    assert (ledger.spent_j, ledger.reserved_j, ledger.remaining_j) == (0, 6, 4)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(5)
    held.commit(5)
    assert (ledger.spent_j, ledger.remaining_j) == (5, 5)


def test_days_without_a_spend_keep_the_beat(ledger, clock):
    ledger.reserve(3).commit(3)
    clock[0] += 3.5 * DAY_S
    assert ledger.remaining_j == 10
    ledger.reserve(1).commit(1)
    clock[0] += 0.5 * DAY_S  # the fourth day ends on the hour of the first
    assert ledger.remaining_j == 10
    assert [period.ended_s for period in ledger.periods()] == [1_000_000 + 3 * DAY_S, 1_000_000 + 4 * DAY_S]


def test_a_clock_set_back_gives_nothing_back(ledger, clock):
    ledger.reserve(10).commit(10)
    clock[0] -= 5 * DAY_S
    assert ledger.remaining_j == 0
    with pytest.raises(BudgetExhausted):
        ledger.reserve(1)
    clock[0] += 6 * DAY_S
    assert ledger.remaining_j == 10


def test_a_budget_a_charge_is_renewed_by_hand(tmp_path, clock):
    with Ledger.open(tmp_path / "l.db", budget_j=10) as ledger:
        ledger.reserve(10).commit(7)
        clock[0] += 1000 * DAY_S
        assert ledger.remaining_j == 3
        ledger.renew()
        assert ledger.remaining_j == 10
        clock[0] += 5
        ledger.reserve(4).commit(4)
        ledger.renew()
        assert [sum(period.spent_by_cause_j.values()) for period in ledger.periods()] == [7, 4]


def test_the_period_is_kept_and_changed_only_if_asked_for(tmp_path, ledger, clock):
    path = tmp_path / "l.db"
    with Ledger.open(path) as again:
        again.reserve(10).commit(10)
        clock[0] += DAY_S
        assert again.remaining_j == 10
    with pytest.raises(LedgerError, match=r"budget of 10.0 J every 24 h, not 10.0 J every 1 h"):
        Ledger.open(path, budget_j=10, period_s=3600)
    with Ledger.open(path, period_s=3600, change_budget=True) as hourly:
        hourly.reserve(10).commit(10)
        clock[0] += 3600
        assert hourly.remaining_j == 10


class Phone:
    """A device whose state a test sets."""

    def __init__(self, battery_frac, plugged=False):
        self.state = DeviceState(battery_frac=battery_frac, plugged=plugged)

    def __call__(self):
        return self.state

    def set(self, battery_frac, plugged):
        self.state = DeviceState(battery_frac=battery_frac, plugged=plugged)


def test_a_budget_a_charge_comes_back_once_the_battery_was_full_and_not_before(tmp_path, clock):
    phone = Phone(0.5)
    with Ledger.open(tmp_path / "l.db", budget_j=10, per_charge=True, device=phone) as ledger:
        ledger.reserve(10).commit(7)
        for battery_frac, plugged, remaining_j in [
            (0.5, True, 3),  # a minute on the charger is no charge
            (0.6, False, 3),
            (0.94, True, 3),
            (0.96, True, 10),
            (0.99, True, 10),
        ]:
            clock[0] += 60
            phone.set(battery_frac, plugged)
            assert ledger.remaining_j == remaining_j
        ledger.reserve(4).commit(4)  # spent on the charger, whose trickle gives nothing back a second time
        phone.set(0.94, True)
        assert ledger.remaining_j == 6
        phone.set(1.0, True)
        assert ledger.remaining_j == 6
        clock[0] += 60
        phone.set(0.9, False)
        assert ledger.remaining_j == 6
        phone.set(1.0, True)
        assert ledger.remaining_j == 10
        assert [sum(period.spent_by_cause_j.values()) for period in ledger.periods()] == [7, 4]


def test_the_battery_floor_holds_every_reservation_back_and_lets_what_runs_be_settled(tmp_path):
    phone, path = Phone(0.3), tmp_path / "l.db"
    with Ledger.open(path, budget_j=10, floor_frac=0.25, device=phone) as ledger:
        running = ledger.reserve(2)
        phone.set(0.249, True)
        with pytest.raises(BudgetExhausted, match=r"the battery is at 25% and .* spends nothing below 25%; charge it"):
            ledger.reserve(0)
        with pytest.raises(BudgetExhausted, match="the battery is at"):
            ledger.roll_over(running, 1, 1)
        running.commit(1)
        assert (ledger.spent_j, ledger.reserved_j, ledger.remaining_j) == (1, 0, 9)
        phone.set(0.25, False)
        ledger.reserve(2).release()
    with Ledger.open(path, device=Phone(0.2)) as again, pytest.raises(BudgetExhausted):
        again.reserve(1)
    with Ledger.open(path, device=Phone(None)) as mains:
        mains.reserve(1)


def test_terms_are_kept_shown_and_changed_only_if_asked_for(tmp_path):
    path, phone = tmp_path / "l.db", Phone(0.5)
    Ledger.open(path, budget_j=10, per_charge=True, floor_frac=0.2, device=phone).close()
    Ledger.open(path, budget_j=10, floor_frac=0.2, device=phone).close()
    with pytest.raises(LedgerError, match=r"10\.0 J a charge above 20% of the battery, not 10\.0 J a charge;"):
        Ledger.open(path, floor_frac=0, device=phone)
    with Ledger.open(path, per_charge=False, floor_frac=0, change_budget=True, device=Phone(0.1)) as ledger:
        ledger.reserve(1)


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"floor_frac": 1}, "floor is 1"),
        ({"floor_frac": -0.1}, "floor is -0.1"),
        ({"period_s": 60, "per_charge": True}, "every 1 min or a charge; give one"),
        ({"per_charge": True}, "no battery that can be read"),
    ],
)
def test_terms_that_cannot_be_kept_make_no_file(tmp_path, terms, reason):
    with pytest.raises(LedgerError, match=reason):
        Ledger.open(tmp_path / "l.db", budget_j=1, device=Phone(None), **terms)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("period_s", [-1, float("nan"), float("inf"), "1 h"])
def test_a_length_that_is_none_is_refused_before_a_file_is_made(tmp_path, period_s):
    with pytest.raises(LedgerError, match="the period is"):
        Ledger.open(tmp_path / "l.db", budget_j=1, period_s=period_s)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 12), st.booleans()), max_size=20))
def test_no_period_spends_more_than_its_budget(tmp_path_factory, steps):
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("budjoule.training.ledger.ledger.time.time", lambda: now[0])
        with Ledger.open(tmp_path_factory.mktemp("p") / "l.db", budget_j=10, period_s=24) as ledger:
            held, committed = [], 0.0
            for wait_s, amount, settle in steps:
                now[0] += wait_s
                try:
                    held.append(ledger.reserve(amount))
                except BudgetExhausted:
                    assert amount > ledger.remaining_j
                if settle and held:
                    reservation = held.pop(0)
                    reservation.commit(reservation.upper_j)
                    committed += reservation.upper_j
                balance = ledger.balance()
                assert balance.spent_j + balance.reserved_j <= 10
                assert balance.overspent_j == 0
            periods = ledger.periods()
            assert all(sum(period.spent_by_cause_j.values()) <= 10 for period in periods)
            kept = sum(sum(period.spent_by_cause_j.values()) for period in periods) + ledger.spent_j
            assert kept == pytest.approx(committed, abs=1e-6)
