"""The ledger's books: what it refuses, what it books in full, and its sum, which holds whatever happens."""

import math
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import BudgetExhausted, LedgerError
from budjoule.training.ledger.entries import CAUSES
from budjoule.training.ledger.ledger import Ledger

NANO = 1_000_000_000


def books(ledger):
    """The books in whole nanojoules, in which the sum is exact."""
    return [
        round(value * NANO)
        for value in (ledger.budget_j, ledger.spent_j, ledger.reserved_j, ledger.remaining_j, ledger.overspent_j)
    ]


def assert_sum(ledger):
    budget, spent, reserved, remaining, overspent = books(ledger)
    assert spent + reserved + remaining - overspent == budget
    assert min(spent, reserved, remaining, overspent) >= 0
    assert not (remaining and overspent)
    assert sum(round(value * NANO) for value in ledger.spent_by_cause_j.values()) == spent


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "phone.db", budget_j=100.0) as ledger:
        yield ledger


def test_commit_books_the_actual_and_gives_the_rest_back(ledger):
    reservation = ledger.reserve(40, "uplink")
    assert (ledger.reserved_j, ledger.remaining_j, ledger.spent_j) == (40, 60, 0)
    reservation.commit(25)
    assert (ledger.reserved_j, ledger.remaining_j, ledger.spent_j) == (0, 75, 25)
    assert ledger.spent_by_cause_j == {"compute": 0, "uplink": 25, "downlink": 0, "idle": 0}


def test_release_gives_everything_back(ledger):
    ledger.reserve(100).release()
    assert ledger.remaining_j == 100


def test_reserve_refuses_more_than_remains_and_changes_nothing(ledger):
    ledger.reserve(60)
    before = books(ledger)
    with pytest.raises(BudgetExhausted, match=r"50.0 J asked of .*, 40.0 J left of 100 J \(60.0 J reserved\)"):
        ledger.reserve(50)
    assert books(ledger) == before
    ledger.reserve(40)
    assert ledger.exhausted


def test_reserve_takes_the_last_joule_despite_float_sums(tmp_path):
    with Ledger.open(tmp_path / "l.db", budget_j=0.3) as ledger:
        ledger.reserve(0.1 + 0.2).commit(0.1 + 0.2)
        assert ledger.remaining_j == 0
        assert ledger.spent_j == 0.3


def test_amounts_below_the_smallest_unit_never_vanish(ledger):
    reservation = ledger.reserve(4e-10)
    assert ledger.reserved_j == 1e-9
    reservation.commit(1e-12)
    assert ledger.spent_j == 1e-9
    ledger.reserve(0).commit(0)
    assert ledger.spent_j == 1e-9


def test_commit_above_the_reservation_is_booked_in_full(ledger):
    ledger.reserve(100).commit(130)
    assert ledger.spent_j == 130
    assert ledger.overspent_j == 30
    assert ledger.remaining_j == 0
    assert ledger.exhausted
    for amount in (0, 1e-9, 1):
        with pytest.raises(BudgetExhausted, match=r"overspent by 30\.0 J"):
            ledger.reserve(amount)
    assert_sum(ledger)


def test_commit_above_the_reservation_within_the_budget_is_no_overspend(ledger):
    ledger.reserve(10).commit(15)
    assert (ledger.spent_j, ledger.overspent_j, ledger.remaining_j) == (15, 0, 85)
    ledger.reserve(85)


@pytest.mark.parametrize("settle", ["commit", "release"])
def test_a_reservation_is_settled_once(ledger, settle):
    reservation = ledger.reserve(10)
    reservation.commit(3)
    before = books(ledger)
    with pytest.raises(LedgerError, match="settled already"):
        reservation.commit(3) if settle == "commit" else reservation.release()
    assert books(ledger) == before


@pytest.mark.parametrize("amount", [-1, -1e-12, math.nan, math.inf, -math.inf, 1e10, "5", None])
def test_amounts_that_are_no_energy_are_refused(ledger, amount, tmp_path):
    with pytest.raises(LedgerError, match="finite number of joules"):
        ledger.reserve(amount)
    reservation = ledger.reserve(10)
    with pytest.raises(LedgerError, match="finite number of joules"):
        reservation.commit(amount)
    assert ledger.reserved_j == 10
    reservation.commit(1)
    if amount is not None:
        with pytest.raises(LedgerError, match="the budget is"):
            Ledger.open(tmp_path / "other.db", budget_j=amount)


def test_an_unknown_cause_is_refused(ledger):
    with pytest.raises(LedgerError, match="unknown cause 'gpu'; give one of compute, uplink, downlink, idle"):
        ledger.reserve(1, "gpu")


def test_a_with_block_commits_the_upper_bound_unless_it_settles_itself(ledger):
    with ledger.reserve(10):
        pass
    assert ledger.spent_j == 10
    with ledger.reserve(10) as reservation:
        reservation.commit(4)
    assert ledger.spent_j == 14
    with ledger.reserve(10) as reservation:
        reservation.release()
    assert (ledger.spent_j, ledger.reserved_j) == (14, 0)


def test_an_exception_leaves_the_reservation_open_until_it_is_settled(ledger):
    with pytest.raises(ZeroDivisionError), ledger.reserve(10):
        1 / 0  # noqa: B018
    assert (ledger.spent_j, ledger.reserved_j) == (0, 10)
    (left,) = ledger.open_reservations()
    assert ledger.abandoned() == []
    left.commit(7)
    assert (ledger.spent_j, ledger.reserved_j, ledger.open_reservations()) == (7, 0, [])


def test_a_reservation_is_found_again_by_its_number(ledger):
    number = ledger.reserve(10, "uplink").id
    found = ledger.reservation(number)
    assert (found.upper_j, found.cause) == (10, "uplink")
    found.commit(2)
    with pytest.raises(LedgerError, match="no open reservation"):
        ledger.reservation(number)
    assert ledger.reserve(1).id > number


def test_reopening_finds_what_was_written(tmp_path):
    path = tmp_path / "l.db"
    with Ledger.open(path, budget_j=10) as ledger:
        ledger.reserve(4).commit(3)
        ledger.reserve(2)
    with Ledger.open(path) as again:
        assert (again.budget_j, again.spent_j, again.reserved_j) == (10, 3, 2)


def test_reopening_with_another_budget_is_an_error_unless_asked_for(tmp_path):
    path = tmp_path / "l.db"
    with Ledger.open(path, budget_j=10) as ledger:
        ledger.reserve(6).commit(6)
    Ledger.open(path, budget_j=10).close()
    with pytest.raises(LedgerError, match=r"budget of 10.0 J, not 20.0 J; .* change_budget=True"):
        Ledger.open(path, budget_j=20)
    with Ledger.open(path, budget_j=20, change_budget=True) as ledger:
        assert (ledger.budget_j, ledger.remaining_j) == (20, 14)
    with Ledger.open(path, budget_j=5, change_budget=True) as ledger:
        assert (ledger.overspent_j, ledger.remaining_j) == (1, 0)
        assert_sum(ledger)


def test_a_new_ledger_needs_a_budget_and_a_refusal_makes_no_file(tmp_path):
    with pytest.raises(LedgerError, match=r"there is no ledger .*; give budget_j to make one"):
        Ledger.open(tmp_path / "l.db")
    assert list(tmp_path.iterdir()) == []
    Ledger.open(tmp_path / "l.db", budget_j=1).close()
    with pytest.raises(LedgerError, match="has no budget; give budget_j"):
        Ledger.open(tmp_path / "l.db", account="another")
    with Ledger.open(tmp_path / "l.db") as ledger:
        assert ledger.remaining_j == 1


def test_least_takes_what_remains_but_no_less(ledger):
    assert ledger.reserve(60, least_j=10).upper_j == 60
    assert ledger.reserve(60, least_j=10).upper_j == 40
    with pytest.raises(BudgetExhausted, match=r"10\.0 J asked"):
        ledger.reserve(60, least_j=10)
    assert ledger.reserve(60, least_j=0).upper_j == 0
    assert ledger.reserved_j == 100


def test_rolling_over_commits_and_holds_at_once(ledger):
    first = ledger.reserve(70, "uplink", expected_j=40)
    with pytest.raises(BudgetExhausted, match=r"80\.0 J asked of .*, 40\.0 J left"):
        ledger.roll_over(first, 60, 80)
    assert (ledger.spent_j, ledger.reserved_j) == (0, 70)  # all or nothing
    second = ledger.roll_over(first, 60, 80, least_j=1, measured=True)
    assert (second.upper_j, second.cause) == (40, "uplink")
    assert (ledger.spent_j, ledger.reserved_j, ledger.measured_j) == (60, 40, 60)
    assert ledger.measured_ratio("uplink") == 1.5
    with pytest.raises(LedgerError, match="settled already"):
        ledger.roll_over(first, 1, 1)
    second.release()
    assert_sum(ledger)


def test_entries_of_one_transaction_stand_or_fall_together_with_the_callers_rows(ledger):
    with ledger.transaction() as cursor:
        cursor.execute("CREATE TABLE sent (frame TEXT)")
        ledger.reserve(10, "uplink").commit(4)
        cursor.execute("INSERT INTO sent VALUES ('first')")
    held = ledger.reserve(20)

    def broken_off():
        with ledger.transaction() as cursor:
            held.commit(20)
            cursor.execute("INSERT INTO sent VALUES ('second')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert (ledger.spent_j, ledger.reserved_j) == (4, 20)
    with ledger.transaction() as cursor:
        assert cursor.execute("SELECT frame FROM sent").fetchall() == [("first",)]
        with pytest.raises(BudgetExhausted):
            ledger.roll_over(held, 5, 92)
        with pytest.raises(BudgetExhausted):
            ledger.reserve(90)
        assert ledger.reserved_j == 20  # a refusal inside takes back its own part only, and the rest goes on
        held.commit(5)
    assert (ledger.spent_j, ledger.reserved_j) == (9, 0)
    assert_sum(ledger)


def test_a_closed_ledger_says_so(ledger):
    reservation = ledger.reserve(1)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        reservation.commit(1)
    with pytest.raises(LedgerError, match="is closed"):
        _ = ledger.spent_j


def test_measured_ratio_rises_at_once_and_falls_slowly(ledger):
    assert ledger.measured_ratio("compute") == 1
    ledger.reserve(10, expected_j=4).commit(6, measured=True)
    assert ledger.measured_ratio("compute") == 1.5
    ledger.reserve(10, expected_j=4).commit(4, measured=True)
    assert 1.4 < ledger.measured_ratio("compute") < 1.5
    ledger.reserve(10, expected_j=4).commit(9)
    assert ledger.measured_ratio("compute") < 1.5
    assert ledger.measured_ratio("uplink") == 1
    assert ledger.measured_j == 10


def test_the_file_is_written_ahead_and_synchronised(tmp_path):
    path = tmp_path / "l.db"
    with Ledger.open(path, budget_j=1) as ledger:
        pragma = lambda name: ledger._books.connection().execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("foreign_keys") == 1


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["reserve", "commit", "release", "roll", "leave"]), st.floats(0, 1)
        ),
        max_size=40,
    )
)
def test_any_interleaving_of_several_holders_of_one_file_keeps_the_sum(tmp_path_factory, steps):
    """Each holder has a connection of its own, as a process has; `leave` is one that dies with what it holds."""
    path = tmp_path_factory.mktemp("turns") / "l.db"
    holders = [Ledger.open(path, budget_j=100) for _ in range(3)]
    held, left, spent_nj = [[], [], []], 0, 0
    for who, what, share in steps:
        ledger, own = holders[who], held[who]
        try:
            if what == "reserve":
                own.append(ledger.reserve(60 * share, CAUSES[who]))
            elif what == "leave":
                left += sum(round(one.upper_j * NANO) for one in own)
                own.clear()
                ledger.close()
                holders[who] = Ledger.open(path)
            elif own and what == "roll":
                ended, actual_j = own[0], own[0].upper_j * share
                own[0] = ledger.roll_over(ended, actual_j, 60 * share, least_j=30 * share)
                spent_nj += math.ceil(actual_j * NANO * (1 - 2**-48))
            elif own and what == "commit":
                actual_j = own[0].upper_j * share
                own.pop(0).commit(actual_j)
                spent_nj += math.ceil(actual_j * NANO * (1 - 2**-48))
            elif own:
                own.pop(0).release()
        except BudgetExhausted:
            pass
        for one in holders:
            assert_sum(one)
            assert books(one)[1:3] == [
                spent_nj,
                left + sum(round(reservation.upper_j * NANO) for own in held for reservation in own),
            ]
            assert one.overspent_j == 0
    for one in holders:
        one.close()


amounts = st.one_of(st.just(0.0), st.floats(0, 60), st.floats(0, 1e-6), st.integers(0, 50).map(float))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts, st.sampled_from(CAUSES)),
        st.tuples(st.just("commit"), st.integers(0, 30), st.floats(0, 1.5)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("reopen")),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, honest=st.booleans())
def test_the_sum_holds_on_every_path_and_honest_spends_stay_in_budget(tmp_path_factory, steps, honest):
    path = tmp_path_factory.mktemp("path") / "l.db"
    ledger = Ledger.open(path, budget_j=100)
    live = []
    for name, *args in steps:
        if name == "reserve":
            try:
                live.append(ledger.reserve(*args))
            except BudgetExhausted:
                assert math.ceil(args[0] * NANO) > books(ledger)[3] or books(ledger)[4] > 0
        elif name == "reopen":
            ledger.close()
            ledger = Ledger.open(path)
            live = ledger.open_reservations()
        elif live:
            reservation = live.pop(args[0] % len(live))
            if name == "release":
                reservation.release()
            else:
                reservation.commit(reservation.upper_j * (min(args[1], 1) if honest else args[1]))
        assert_sum(ledger)
        if honest:
            assert ledger.spent_j <= ledger.budget_j
            assert ledger.overspent_j == 0
    assert round(sum(r.upper_j for r in ledger.open_reservations()) * NANO) == books(ledger)[2]
    ledger.close()


@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def test_attached_accounts_stand_or_fall_with_the_callers_transaction(database):
    database.execute("CREATE TABLE queue (item)")
    database.execute("BEGIN")
    one = Ledger.attach(database, "client-1", budget_j=10)
    two = Ledger.attach(database, "client-2", budget_j=20)
    one.reserve(4).commit(3)
    held = two.reserve(5, "uplink")
    database.execute("COMMIT")
    database.execute("BEGIN")
    held.commit(5)
    one.reserve(7)
    assert (one.remaining_j, two.remaining_j) == (0, 15)
    database.execute("ROLLBACK")
    assert (one.spent_j, one.reserved_j, one.remaining_j) == (3, 0, 7)
    assert (two.spent_j, two.reserved_j, two.remaining_j) == (0, 5, 15)
    database.execute("BEGIN")
    again = Ledger.attach(database, "client-2", budget_j=20)
    again.reservation(held.id).commit(1)
    assert again.spent_by_cause_j["uplink"] == 1
    database.execute("COMMIT")
    for ledger in (one, two):
        assert_sum(ledger)


def test_attached_ledgers_never_write_outside_a_transaction(database):
    with pytest.raises(LedgerError, match="begin a transaction"):
        Ledger.attach(database, "client-1", budget_j=10)
    database.execute("BEGIN")
    ledger = Ledger.attach(database, "client-1", budget_j=10)
    reservation = ledger.reserve(5)
    database.execute("COMMIT")
    with pytest.raises(LedgerError, match="begin a transaction"):
        ledger.reserve(1)
    with pytest.raises(LedgerError, match="begin a transaction"):
        reservation.commit(1)
    assert ledger.remaining_j == 5


def test_an_attached_account_is_the_same_whoever_runs_it_and_when(database):
    database.execute("BEGIN")
    Ledger.attach(database, "client-1", budget_j=10).reserve(5)
    assert database.execute("SELECT process, opened_at FROM reservation").fetchall() == [(None, None)]


def test_attaching_with_another_budget_is_an_error(database):
    database.execute("BEGIN")
    Ledger.attach(database, "client-1", budget_j=10)
    with pytest.raises(LedgerError, match=r"budget of 10\.0 J, not 11\.0 J"):
        Ledger.attach(database, "client-1", budget_j=11)


def test_closing_an_attached_ledger_leaves_the_callers_connection_open(database):
    database.execute("BEGIN")
    with Ledger.attach(database, "client-1", budget_j=10):
        pass
    assert database.in_transaction
    database.execute("COMMIT")
    database.execute("BEGIN")
    assert Ledger.attach(database, "client-1", budget_j=10).remaining_j == 10
