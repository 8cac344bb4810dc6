"""A real device's training: planned for its joules, paid for, paused, and the same to the bit whatever ends the process."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from budjoule.energy.device_state import DeviceState
from budjoule.energy.errors import UsageError
from budjoule.training.clients.local import Workbench
from budjoule.training.clients.plan import Plan
from budjoule.training.config.config import load_config
from budjoule.training.device.trainer import Choices, DeviceTrainer
from budjoule.training.ledger.ledger import Ledger

INPUTS = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 10
STEP_J = 2.0
PLAN = Plan(batch_size=8, local_steps=4)


def bench(*, frozen: bool = False, optimizer: str = "adam", rate: float = 0.01) -> Workbench:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(36, 10))
    model[0].requires_grad_(not frozen)
    return Workbench(model, load_config({"training": {"optimizer": optimizer, "learning_rate": rate}}).training)


def cost(device: str, batch: int, precision: str = "fp32") -> Any:
    """A step of 1 J, and 0.125 J an example, at most twice that."""
    energy_j = (1 + batch / 8) * (0.5 if precision == "bf16-mixed" else 1.0)
    return SimpleNamespace(energy_j=energy_j, energy_high_j=2 * energy_j, duration_s=0.01)


def choices(**options: Any) -> Choices:
    given = {"exchange_j": 0.0, "most_batch": 16, **options}
    return Choices(costs=SimpleNamespace(cost=cost), device="any", **given)  # type: ignore[arg-type]


def trainer(ledger: Ledger, workbench: Workbench | None = None, **options: Any) -> DeviceTrainer:
    given: dict[str, Any] = {"plan": PLAN, "meter": None, "look": DeviceState, "seed": 5, **options}
    what = given.pop("choices", choices())
    return DeviceTrainer(ledger, workbench or bench(), INPUTS, LABELS, what, **given)


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger.open(tmp_path / "phone.db", budget_j=1000) as ledger:
        yield ledger


def test_a_block_is_paid_and_learns_and_what_is_not_sent_stays_owed(ledger: Ledger) -> None:
    device = trainer(ledger)
    assert device.waits
    with pytest.raises(UsageError, match="no weights to train from"):
        device.block()
    start = bench().values()
    device.take(3, start)
    block = device.block()
    assert (block.steps, block.ended) == (4, "whole")
    assert (ledger.spent_j, ledger.reserved_j) == (4 * STEP_J, 0)
    learnt = device.delta()
    assert np.abs(learnt).max() > 0
    part = np.where(np.arange(learnt.size) % 2, learnt, np.float32(0))
    device.settle(part)
    assert (device.waits, device.numbers.sends, device.numbers.unsent_blocks) == (True, 1, 0)
    device.take(4, start)
    assert np.array_equal(device.delta(), learnt - part)
    device.settle(None)  # lost on the way: all of it is owed
    device.take(5, start)
    assert np.array_equal(device.delta(), learnt - part)


def test_a_new_version_leaves_what_was_learnt_owed(ledger: Ledger) -> None:
    device = trainer(ledger)
    device.take(1, bench().values())
    device.block()
    learnt = device.delta()
    device.take(2, bench().values())
    assert np.array_equal(device.delta(), learnt)


def test_a_device_that_is_restarted_goes_on_to_the_bit(tmp_path: Path) -> None:
    ends = []
    for name, restarts in (("once.db", False), ("again.db", True)):
        with Ledger.open(tmp_path / name, budget_j=1000) as ledger:
            device = trainer(ledger)
            device.take(1, bench().values())
            for _ in range(4):
                device.block()
                device = trainer(ledger) if restarts else device
            ends.append(device.delta().tobytes())
    assert ends[0] == ends[1]


def test_optimizer_state_outlives_a_block(ledger: Ledger) -> None:
    device = trainer(ledger)
    device.take(1, bench().values())
    device.block()
    device.block()
    device.settle(None)
    with ledger.transaction() as cursor:
        rows = cursor.execute("SELECT layer, tensor FROM device_optimizer WHERE name = 'step'").fetchall()
    assert sorted(layer for layer, _ in rows) == ["0.bias", "0.weight", "4.bias", "4.weight"]
    assert all(np.frombuffer(blob, "<f4") == 8 for _, blob in rows)


def test_a_change_of_the_trained_layers_keeps_what_fits(ledger: Ledger) -> None:
    wide = trainer(ledger)
    wide.take(1, bench().values())
    wide.block()
    learnt = bench().layout.unflatten(wide.delta())
    narrow_bench = bench(frozen=True)
    narrow = trainer(ledger, narrow_bench)
    assert narrow.waits  # the old version's weights are of other layers
    narrow.take(2, narrow_bench.values())
    owed = narrow_bench.layout.unflatten(narrow.delta())
    assert set(owed) == {"4.weight", "4.bias"}
    assert all(np.array_equal(owed[name], learnt[name]) for name in owed)
    narrow.block()
    narrow.settle(narrow.delta())
    again = trainer(ledger)
    again.take(3, bench().values())
    back = bench().layout.unflatten(again.delta())
    assert np.array_equal(back["0.weight"], learnt["0.weight"])
    assert not back["4.weight"].any()


def test_a_block_shrinks_to_what_is_left_and_none_begins_without(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db", budget_j=9) as ledger:
        device = trainer(ledger)
        device.take(1, bench().values())
        short = device.block()  # 4 J upper a step: two fit at first, and what they gave back pays for another
        assert (short.steps, short.ended) == (3, "budget")
        assert (ledger.spent_j, ledger.reserved_j, device.numbers.blocks) == (6, 0, 1)
        none = device.block()
        assert (none.steps, none.ended, device.numbers.blocks) == (0, "budget", 1)
        assert (ledger.spent_j, ledger.reserved_j) == (6, 0)


def test_a_hot_device_pauses_and_resumes_when_it_has_cooled(ledger: Ledger) -> None:
    headroom_c = [0.0]
    device = trainer(ledger, look=lambda: DeviceState(headroom_c=headroom_c[0]))
    device.take(1, bench().values())
    assert (device.block().ended, ledger.spent_j) == ("hot", 0)
    headroom_c[0] = 3.0
    assert device.block().ended == "hot"  # not yet: it would be hot again at once
    headroom_c[0] = 6.0
    assert device.block().ended == "whole"
    headroom_c[0] = 3.0
    assert device.block().ended == "whole"


def test_a_block_that_is_asked_to_pause_keeps_the_steps_that_ran(ledger: Ledger) -> None:
    device, asked = trainer(ledger), iter([False, False, True])
    device.take(1, bench().values())
    block = device.block(lambda: next(asked))
    assert (block.steps, block.ended) == (2, "asked")
    assert ledger.spent_j == 2 * STEP_J
    assert np.abs(device.delta()).max() > 0
    assert device.block().ended == "whole"


def test_a_battery_at_its_floor_pauses_it(tmp_path: Path) -> None:
    level = [0.1]
    device_state = lambda: DeviceState(battery_frac=level[0])  # noqa: E731
    with Ledger.open(tmp_path / "l.db", budget_j=100, floor_frac=0.2, device=device_state) as ledger:
        device = trainer(ledger)
        device.take(1, bench().values())
        assert device.block().ended == "budget"
        level[0] = 0.5
        assert device.block().ended == "whole"


def test_a_block_that_diverges_costs_its_joules_and_leaves_no_trace_in_the_weights(ledger: Ledger) -> None:
    trainer(ledger).take(1, bench().values())
    trainer(ledger).block()
    learnt = trainer(ledger).delta()
    device = DeviceTrainer(
        ledger,
        bench(),
        torch.full_like(INPUTS, torch.inf),
        LABELS,
        choices(),
        seed=5,
        plan=PLAN,
        meter=None,
        look=DeviceState,
    )
    block = device.block()
    assert (block.steps, block.ended) == (4, "diverged")
    assert ledger.spent_j == 2 * 4 * STEP_J
    assert np.array_equal(device.delta(), learnt)
    assert trainer(ledger).block().ended == "whole"


def test_an_exception_in_a_block_books_what_ran_and_repeats_it(ledger: Ledger) -> None:
    device, calls = trainer(ledger), iter(range(100))
    device.take(1, bench().values())

    def failing() -> bool:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        device.block(failing)
    assert (ledger.spent_j, ledger.reserved_j, device.numbers.blocks) == (2 * STEP_J, 0, 0)
    assert not device.delta().any()
    assert device.block().ended == "whole"


def test_the_next_block_follows_the_noise_that_was_seen(ledger: Ledger) -> None:
    device = trainer(ledger, bench(optimizer="sgd", rate=0.05), plan=None)
    device.take(1, bench().values())
    assert device.numbers.noise_scale is None
    first = device.plan()
    assert 1 <= first.batch_size <= 16
    for _ in range(6):
        device.block()
    assert device.numbers.noise_scale is None or device.numbers.noise_scale > 0
    alone = trainer(ledger, plan=None, choices=choices(exchange_j=0.0, precisions=("fp32", "bf16-mixed")))
    assert alone.plan().precision == "bf16-mixed"
    dear = trainer(ledger, plan=None, choices=choices(exchange_j=100.0)).plan()
    assert dear.local_steps * dear.batch_size > first.local_steps * first.batch_size


# Forks at every event, kills the child by itself just before it, and lets another child go on to the end.
KILLED = """
import hashlib, json, os, signal, sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from test_device import Ledger, bench, trainer
from budjoule.training.paid_steps import PaidSteps

def digest(path):
    with Ledger.open(path) as ledger, ledger.transaction() as cursor:
        rows = [cursor.execute(f"SELECT * FROM {table}").fetchall() for table in
                ("device_numbers", "device_weights", "device_optimizer", "residual")]
        return hashlib.sha256(repr(rows).encode()).hexdigest(), ledger.spent_j, ledger.reserved_j, ledger.overspent_j

def work(path, kill_at):
    seen = 0
    def event(*_):
        nonlocal seen
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
    with Ledger.open(path, budget_j=1000) as ledger:
        ledger._books.connection().set_trace_callback(event)
        step = PaidSteps.step
        PaidSteps.step = lambda self: (event(), step(self))
        device = trainer(ledger)
        while device.numbers.sends < 2:
            if device.waits:
                device.take(device.numbers.version + 1, start)
            elif device.numbers.unsent_blocks < 2:
                device.block()
            else:
                delta = device.delta()
                device.settle(np.where(np.abs(delta) > np.median(np.abs(delta)), delta, np.float32(0)))
        ledger._books.connection().set_trace_callback(None)
    return seen

def child(path, kill_at):
    pid = os.fork()
    if pid == 0:
        work(path, kill_at)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

folder, start = sys.argv[1], bench().values()
events = work(f"{folder}/whole.db", -1)
whole, ends = digest(f"{folder}/whole.db"), []
for kill_at in range(0, events, 17):
    path = f"{folder}/{kill_at}.db"
    killed = child(path, kill_at)
    resumed = child(path, -1)
    ends.append([killed, resumed, *digest(path)])
print(json.dumps({"events": events, "whole": whole, "ends": ends}))
"""


def test_sigkill_anywhere_resumes_to_the_bits_of_an_uninterrupted_training(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    bits, spent_j, reserved_j, _ = found["whole"]
    assert found["events"] > 80
    assert (spent_j, reserved_j) == (4 * 4 * STEP_J, 0)
    for killed, resumed, bits_then, spent_then_j, reserved_then_j, overspent_j in found["ends"]:
        assert (killed, resumed) == (9, 0)
        assert bits_then == bits
        # The broken block was paid for, at its upper bound, and then again.
        assert spent_then_j in (spent_j, spent_j + 4 * 2 * STEP_J)
        assert (reserved_then_j, overspent_j) == (0, 0)
