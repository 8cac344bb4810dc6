"""The guard on a command: whatever the power does, the command is asked to end in time, and its joules stay in the budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.device_state import DeviceState
from budjoule.energy.errors import BudgetExhausted
from budjoule.energy.measurement import Idle, Measurement
from budjoule.training.guard import Guard
from budjoule.training.ledger.ledger import Ledger


class Command:
    """A command of a given power, as a meter sees it; `ends_s` is how long it takes to end when asked."""

    def __init__(self, power_w, *, ends_s=0.0, idle_w=None, source="measured"):
        self.power_w = power_w
        self.ends_s = ends_s
        self.idle = None if idle_w is None else Idle(idle_w, idle_w, idle_w)
        self.source = source
        self.now_s = self.energy_j = 0.0

    def run(self, duration_s):
        self.now_s += duration_s
        self.energy_j += self.power_w * duration_s
        return self.read()

    def read(self):
        energy_j = self.energy_j + (self.idle.power_w if self.idle else 0.0) * self.now_s
        return Measurement(
            energy_j=energy_j,
            energy_low_j=energy_j,
            energy_high_j=energy_j,
            duration_s=self.now_s,
            domains={},
            source=self.source,
            method="a test's",
            idle=self.idle,
        )


def held(guard, command, *, powers=(), until_s=1e6):
    """Run the command to its end under the guard; the looks."""
    powers, looks, asked_s = iter(powers), [], None
    guard.begin()
    while command.now_s < until_s:
        look = guard.look(command.read())
        looks.append(look)
        if look.over or (asked_s is not None and command.now_s - asked_s >= command.ends_s):
            break
        if look.stopping and asked_s is None:
            asked_s = command.now_s
        command.power_w = next(powers, command.power_w)
        command.run(look.wait_s)
    guard.finish(command.read())
    return looks


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "l.db", budget_j=1000) as ledger:
        yield ledger


def test_a_command_that_ends_by_itself_costs_what_was_measured(ledger):
    guard = Guard(ledger, grace_s=5)
    looks = held(guard, Command(10), until_s=20)
    assert not guard.reason
    assert not any(look.stopping for look in looks)
    assert ledger.spent_j == ledger.measured_j == pytest.approx(200, abs=10)
    assert ledger.reserved_j == 0
    assert looks[-1].power_w == pytest.approx(10)
    assert looks[-1].spent_j + looks[-1].left_j == pytest.approx(1000)


def test_a_command_is_asked_to_end_while_its_grace_can_be_paid(ledger):
    command = Command(10, ends_s=4)
    looks = held(Guard(ledger, grace_s=5), command)
    first = next(look for look in looks if look.stopping)
    assert 50 <= first.left_j <= 60
    assert not any(look.over for look in looks)
    assert ledger.spent_j == pytest.approx(990, abs=5)


def test_the_grace_ends_by_the_clock_and_by_the_joules(ledger):
    slow = held(Guard(ledger, grace_s=5), Command(1, ends_s=1e6))
    assert slow[-1].over
    assert 994 < ledger.spent_j <= 1000
    with Ledger.open(ledger._books.name, budget_j=2000, change_budget=True) as more:
        hungry = held(Guard(more, grace_s=1e6), Command(100, ends_s=1e6))
        assert hungry[-1].over
        assert next(look for look in hungry if look.stopping).left_j == pytest.approx(100, abs=15)  # a tenth, no more
        assert 1990 < more.spent_j <= 2000


def test_only_what_comes_on_top_of_idle_is_spent(ledger):
    held(Guard(ledger, grace_s=5), Command(10, idle_w=30), until_s=20)
    assert ledger.spent_j == pytest.approx(200, abs=10)


def test_an_estimate_is_booked_and_never_called_measured(ledger):
    held(Guard(ledger, grace_s=5), Command(10, source="estimated"), until_s=20)
    assert (ledger.measured_j, ledger.reserved_j) == (0, 0)
    assert ledger.spent_j > 190


def test_a_battery_at_its_floor_stops_the_command(tmp_path):
    levels = iter([0.5] * 40)
    device = lambda: DeviceState(battery_frac=next(levels, 0.1))  # noqa: E731
    with Ledger.open(tmp_path / "l.db", budget_j=1e6, floor_frac=0.2, device=device) as ledger:
        guard = Guard(ledger, grace_s=5)
        looks = held(guard, Command(10))
        assert "the battery is at 10%" in guard.reason
        assert looks[-1].stopping
        with pytest.raises(BudgetExhausted, match="battery"):
            Guard(ledger, grace_s=5).begin()


def test_two_commands_on_one_ledger_hold_each_their_own_ending(ledger):
    commands = [Command(10), Command(40)]
    guards = [Guard(ledger, grace_s=2) for _ in commands]
    for guard in guards:
        guard.begin()
    running = dict(zip(guards, commands, strict=True))
    while running:
        for guard, command in list(running.items()):
            look = guard.look(command.read())
            if look.over:
                guard.finish(command.read())
                del running[guard]
            else:
                command.run(look.wait_s)
    assert all(guard.reason for guard in guards)
    assert 980 < ledger.spent_j <= 1000
    assert ledger.reserved_j == 0


@settings(max_examples=60, deadline=None)
@given(
    budget_j=st.floats(5, 500),
    powers=st.lists(st.floats(0, 60), min_size=1, max_size=80),
    grace_s=st.floats(0, 5),
    ends_s=st.floats(0, 8),
    lag_s=st.sampled_from([0.0, 0.1]),
)
def test_no_power_that_the_machine_can_draw_passes_the_budget(
    tmp_path_factory, budget_j, powers, grace_s, ends_s, lag_s
):
    powers = [*powers, 30.0]
    with Ledger.open(tmp_path_factory.mktemp("g") / "l.db", budget_j=budget_j) as ledger:
        guard = Guard(ledger, grace_s=grace_s, lag_s=lag_s, most_w=60)
        held(guard, Command(powers[0], ends_s=ends_s), powers=powers[1:])
        # A load that comes with the last joules is seen 20 ms later.
        assert ledger.overspent_j <= 0.02 * 60
        assert ledger.reserved_j == 0
        assert ledger.spent_j >= 0.85 * budget_j - 60 * (lag_s + 0.1)
