"""Poison: whatever a client sends, nothing escapes, the model stays finite, what is out of proportion is counted, and the run goes on."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.frame import pack
from budjoule.training.compression.update import Update, layout_of
from budjoule.training.config.config import load_config
from budjoule.training.server.engine import Broadcast
from budjoule.training.server.methods import METHODS, Arrival
from budjoule.training.server.outliers import ENOUGH, Outliers
from budjoule.training.server.server import Server
from budjoule.training.simulation import blocks

Bits = Callable[..., tuple[dict[str, Any], bytes]]
LAYOUT = layout_of([("weight", (4,))])
SIX = list(range(6))


class Engine:
    """Clients that are always there, on a clock that only the test moves."""

    def __init__(self, clients: int = 6) -> None:
        self.now_s = 0.0
        self.free = list(range(clients))
        self.rejects: list[tuple[int, str]] = []

    def free_clients(self) -> Sequence[int]:
        return self.free

    def invite(self, client: int, model: Broadcast) -> bool:
        self.free.remove(client)
        return True

    def alarm(self, time_s: float, mark: int) -> None: ...

    def retire(self, client: int) -> None: ...

    def agree(self, clients: Sequence[int]) -> dict[int, bytes]:
        raise AssertionError("no secure aggregation here")

    def reveal(self, publics: Any, survivors: Any) -> dict[int, dict[int, bytes]]:
        raise AssertionError("no secure aggregation here")

    def published(self, updates: int, mean_staleness: float) -> None: ...

    def rejected(self, client: int, reason: str, *, after_all: bool = False) -> None:
        self.rejects.append((client, reason.split(":")[0]))


def begin(method: str = "fedbuff", *, privacy: Any = None, schedule: Any = None, **keys: Any) -> tuple[Server, Engine]:
    document = {
        "server": {"method": method, "cohort": 6, "buffer_size": 3, "average": 0.0} | keys,
        "update": {"compress": [], "error_feedback": False},
        "privacy": privacy or {},
        "schedule": schedule or {},
    }
    made, engine = Server(load_config(document), LAYOUT, np.zeros(4, np.float32), noise_seed=0), Engine()
    made.begin(engine)
    return made, engine


def say(server: Server, engine: Engine, client: int, values: Any = 1.0, examples: int = 10) -> bool:
    """A client answers its invitation, and leaves if it is refused."""
    update = Update(
        client=client,
        base_version=server.state.invited[client].version,
        examples=examples,
        values=np.broadcast_to(np.float32(values), (4,)),
    )
    engine.free.append(client)
    reply = server.receive(
        engine, client, pack(update, LAYOUT, Compressor.parse([]), np.random.default_rng(server.state.version))
    )
    if reply != "taken":
        server.give_up(engine, client)
    return reply == "taken"


@pytest.mark.parametrize("value", [1e3, 1e30, -3e38])
@pytest.mark.parametrize("bad", [0, 3, 5])
@pytest.mark.parametrize(
    ("method", "keys"),
    [
        *((method, {}) for method in METHODS),
        ("budjoule", {"damping": True, "broadcast": ["quantize:8"]}),
        ("fedbuff", {"learning_rate": 2.0}),
        ("fedbuff", {"aggregate": "median", "broadcast": ["fp16"]}),
        ("fedbuff", {"aggregate": "norm-bound:2"}),
    ],
)
def test_one_bad_client_is_counted_and_leaves_no_trace(
    method: str, keys: dict[str, Any], bad: int, value: float
) -> None:
    server, engine = begin(method, **keys)
    twin, other = begin(method, **keys)
    for _ in range(5):
        for client in SIX:
            say(server, engine, client, value if client == bad else 1.0)
            say(twin, other, client)
    assert engine.rejects == [(bad, "norm")] * 5
    assert server.state.version >= 5
    assert 0 < server.state.weights.max() <= twin.state.weights.max() + 1e-5
    assert other.rejects == []


@pytest.mark.parametrize("keys", [{}, {"learning_rate": 2.0}, {"aggregate": "median"}, {"broadcast": ["quantize:8"]}])
@pytest.mark.parametrize("value", [3e38, -3e38, [3e38, -3e38, 0, 0]])
def test_a_version_that_no_one_could_train_from_is_refused_and_the_one_before_stands(keys: Any, value: Any) -> None:
    server, engine = begin(buffer_size=1, **keys)
    for client in SIX:
        assert say(server, engine, client, value)  # of a first update alone no one can tell that it is long
    assert engine.rejects == [(client, "aggregate") for client in SIX]
    assert not server.state.weights.any()
    for client in SIX:
        assert say(server, engine, client)
    assert server.state.version == 6
    assert not say(server, engine, 0, 1e6)  # what was refused is not what is usual


@pytest.mark.parametrize("method", ["fedavg", "fedavg-deadline"])
@pytest.mark.parametrize("liar", [0, 5])
def test_a_claim_of_more_examples_than_anyone_holds_is_refused(method: str, liar: int) -> None:
    server, engine = begin(method)
    for client in SIX:
        say(server, engine, client, 50.0 if client == liar else 1.0, examples=2**60 if client == liar else 10 + client)
    assert engine.rejects == [(liar, "examples")]
    assert server.state.weights == pytest.approx(np.ones(4))


def test_honest_holdings_differ_by_more_than_lengths_do() -> None:
    server, engine = begin("fedavg")
    assert all(say(server, engine, client, examples=5000 if client == 5 else 1) for client in SIX)
    assert engine.rejects == []


def test_no_claim_passes_what_the_engine_knows_that_a_client_holds() -> None:
    config = load_config({"server": {"method": "fedavg", "cohort": 6}, "update": {"compress": []}})
    server, engine = Server(config, LAYOUT, np.zeros(4, np.float32), holdings=lambda client: 10**client), Engine()
    server.begin(engine)
    assert not say(server, engine, 1, examples=11)
    assert all(say(server, engine, client, examples=10**client) for client in SIX if client != 1)
    assert engine.rejects == [(1, "examples")]


def test_claims_that_weigh_nothing_are_not_compared() -> None:
    server, engine = begin("fedbuff")
    assert all(say(server, engine, client, examples=10 ** (3 * client)) for client in SIX)
    assert engine.rejects == []
    assert server.state.weights == pytest.approx(np.full(4, 2.0))


def test_none_takes_all_and_the_factor_is_what_is_taken() -> None:
    for factor, taken in (("none", True), (10.0, False), (100.0, False), (1000.0, True)):
        server, engine = begin(outlier_factor=factor)
        for client in SIX[:3]:
            say(server, engine, client)
        assert say(server, engine, 3, 500.0) is taken


def test_the_usual_survives_saving() -> None:
    server, engine = begin()
    for client in SIX[:4]:
        say(server, engine, client)
    twin, other = begin()
    numbers = json.loads(json.dumps(server.numbers()))
    twin.restore(numbers, server.state.weights, server.state.average, [item.values for item in server.state.buffer])
    assert twin.numbers() == server.numbers()
    assert not say(twin, other, 5, 1e4)


def arrival(length: float, examples: int = 1) -> Arrival:
    values = np.array([length, 0], np.float32)
    return Arrival(client=0, examples=examples, staleness=0, gap_slots=1.0, values=values)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.floats(1.0, 99.0), max_size=80), zeros=st.integers(0, 5))
def test_lengths_within_the_factor_of_each_other_are_never_refused(lengths: list[float], zeros: int) -> None:
    outliers = Outliers(norm_factor=100.0, claim_factor=100.0)
    for length in [*[0.0] * zeros, *lengths]:
        outliers.check(arrival(length, int(length) + 1))
        outliers.keep(arrival(length, int(length) + 1))


def test_an_update_from_an_old_base_is_as_long_as_all_were_then() -> None:
    """A settled model's updates are a thousandth of the first ones; and a median that grew is followed."""
    server, engine = begin()
    for length in [1.0] * 10 + [1e-3] * 30:
        for client in SIX[:3]:
            assert say(server, engine, client, length)
    assert say(server, engine, 4, 1.0)
    assert say(server, engine, 5, 99.0)
    for length in (90.0, 8e3, 7e5):
        for _ in range(10):
            for client in SIX[:3]:
                assert say(server, engine, client, length)
    assert engine.rejects == []


def test_what_was_refused_after_all_does_not_make_the_usual() -> None:
    outliers = Outliers(norm_factor=100.0, claim_factor=np.inf)
    for _ in range(ENOUGH):
        outliers.keep(arrival(1e9))
    for _ in range(ENOUGH):
        outliers.forget(arrival(1e9))
        outliers.keep(arrival(1.0))
    with pytest.raises(PayloadError, match=r"norm: an update of length 101 is over 100 times the usual 1; raise"):
        outliers.check(arrival(101.0))


def test_a_length_does_not_overflow() -> None:
    assert arrival(3e38).norm == pytest.approx(3e38)


def test_a_clip_takes_the_place_of_the_comparison_and_bounds_every_step() -> None:
    server, engine = begin(buffer_size=1, privacy={"clip": 0.5})
    steps = []
    for client in SIX:
        before = server.state.weights
        assert say(server, engine, client, 10.0**client)
        steps.append(float(np.linalg.norm(server.state.weights - before)))
    assert steps == pytest.approx([0.5] * 6)
    assert engine.rejects == []


def test_the_servers_rate_scales_its_steps() -> None:
    server, engine = begin(learning_rate=0.25)
    for client in SIX[:3]:
        say(server, engine, client)
    assert server.state.weights == pytest.approx(np.full(4, 0.25))


@pytest.mark.parametrize(
    ("aggregate", "wanted"), [("mean", -8.0), ("median", 1.0), ("trimmed-mean:0.2", 1.0), ("norm-bound:1", 1 / 3)]
)
def test_updates_become_one_by_the_configured_rule(aggregate: str, wanted: float) -> None:
    server, engine = begin(aggregate=aggregate)
    for client, value in enumerate((1.0, 1.0, -26.0)):
        say(server, engine, client, value)
    assert server.state.weights == pytest.approx(np.full(4, wanted))


def test_an_update_from_a_thousand_versions_ago_is_too_old() -> None:
    server, engine = begin("fedbuff", buffer_size=1)
    for answers in range(1002):
        if answers in (1000, 1001):  # its base is so many versions old
            assert say(server, engine, 4 + answers % 2) is (answers == 1000)
        else:
            say(server, engine, answers % 4)
    assert engine.rejects == [(5, "base version 0 is 1001 versions old")]


def test_a_slow_client_is_not_taken_for_a_thrifty_one() -> None:
    """An answer after 9 slots is nine blocks' silence, unless the policy speaks after every block."""
    found = []
    for policy in ("price-threshold", "every-block"):
        server, engine = begin("budjoule", schedule={"policy": policy, "slot": "1 s"}, buffer_size=2)
        say(server, engine, 0, 1.0)
        engine.now_s = 9.5
        say(server, engine, 1, 5.0)
        found.append(server.state.weights[0])
    assert found == pytest.approx([(1 + 3 * 5) / 4, 3.0])


@pytest.mark.parametrize("value", [1e3, 1e17])
def test_a_run_with_a_poisoner_learns(run_bits: Bits, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    run_tasks = blocks.run_tasks

    def poisoned(tasks: Any, *rest: Any) -> Any:
        ends = run_tasks(tasks, *rest)
        return [np.full_like(end, value) if task.client == 2 else end for task, end in zip(tasks, ends, strict=True)]

    monkeypatch.setattr(blocks, "run_tasks", poisoned)
    document = {
        "task": {"partition": "iid"},
        "fleet": {"clients": 10, "straggler_frac": 0.0},
        "budget": {"energy": "none"},
        "update": {"compress": [], "error_feedback": False},
        "schedule": {"policy": "every-block", "slot": "none"},
        "server": {"method": "fedbuff", "cohort": 10, "buffer_size": 5, "average": 0.0},
        "stop": {"rounds": 30, "target_accuracy_frac": "none"},
    }
    summary, _ = run_bits(document)
    assert summary["rounds"] == 30
    assert summary["rejects"]["norm"] > 5
    assert summary["accuracy_frac"] > 0.7
