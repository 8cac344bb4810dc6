"""The server's algorithm over a fake engine: who is invited, when it aggregates, and what it refuses."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from budjoule.energy.errors import UsageError
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.frame import pack, unpack
from budjoule.training.compression.update import Update, layout_of
from budjoule.training.config.config import load_config
from budjoule.training.server.engine import Broadcast
from budjoule.training.server.server import Server
from budjoule.training.simulation.record import Record

LAYOUT = layout_of([("weight", (4,))])
OTHER = layout_of([("weight", (2, 2))])
DENSE = Compressor.parse([])


class Engine:
    """A world of ten clients where only the test moves time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.free = list(range(10))
        self.out: dict[int, int] = {}
        self.alarms: list[tuple[float, int]] = []
        self.versions: list[int] = []
        self.rejects: list[tuple[int, str]] = []
        self.refusing: set[int] = set()

    def free_clients(self) -> Sequence[int]:
        return self.free

    def invite(self, client: int, model: Broadcast) -> bool:
        self.free.remove(client)
        if client in self.refusing:
            return False
        self.out[client] = model.version
        return True

    def alarm(self, time_s: float, mark: int) -> None:
        self.alarms.append((time_s, mark))

    def retire(self, client: int) -> None:
        self.free = [other for other in self.free if other != client]

    def agree(self, clients: Sequence[int]) -> dict[int, bytes]:
        raise AssertionError("no secure aggregation here")

    def reveal(self, publics: Any, survivors: Any) -> dict[int, dict[int, bytes]]:
        raise AssertionError("no secure aggregation here")

    def published(self, updates: int, mean_staleness: float) -> None:
        self.versions.append(updates)

    def rejected(self, client: int, reason: str, *, after_all: bool = False) -> None:
        self.rejects.append((client, reason))


def begin(method: str, **keys: Any) -> tuple[Server, Engine]:
    server = {"method": method, "cohort": 4, "buffer_size": 2, "average": 0.0} | keys
    config = load_config({"server": server, "update": {"compress": []}})
    made, engine = Server(config, LAYOUT, np.zeros(4, np.float32), deadline_s=5.0), Engine()
    made.begin(engine)
    return made, engine


def frame(client: int, version: int, values: Sequence[float] = (1, 1, 1, 1), examples: int = 1) -> bytes:
    update = Update(client=client, base_version=version, examples=examples, values=np.array(values, np.float32))
    return pack(update, LAYOUT, DENSE, np.random.default_rng(0))


def answer(server: Server, engine: Engine, client: int, data: bytes | None = None) -> bool:
    version = engine.out.pop(client)
    engine.free.append(client)
    return server.receive(engine, client, frame(client, version) if data is None else data) == "taken"


def test_semi_asynchronous_servers_keep_the_cohort_busy_and_aggregate_full_buffers() -> None:
    server, engine = begin("fedbuff")
    for count in range(1, 9):
        assert len(engine.out) == 4
        assert answer(server, engine, next(iter(engine.out)))
        assert server.state.version == count // 2
    assert engine.versions == [2, 2, 2, 2]
    assert server.state.weights == pytest.approx(np.full(4, 4.0))


def test_rounds_end_when_all_have_answered_or_given_up() -> None:
    server, engine = begin("fedavg")
    first = list(engine.out)
    for client in first[:3]:
        answer(server, engine, client)
    assert engine.versions == []
    engine.out.pop(first[3])
    engine.free.append(first[3])
    server.give_up(engine, first[3])
    assert engine.versions == [3]
    assert len(engine.out) == 4
    assert set(engine.out.values()) == {1}


def test_a_deadline_leaves_the_late_behind_and_refuses_them() -> None:
    server, engine = begin("fedavg-deadline")
    assert engine.alarms == [(5.0, 1)]
    late, *others = engine.out
    for client in others[:2]:
        answer(server, engine, client)
    engine.now_s = 5.0
    server.alarmed(engine, 1)
    assert engine.versions == [2]
    assert not answer(server, engine, late)
    assert "the round is over" in engine.rejects[-1][1]
    invited = dict(server.state.invited)
    server.alarmed(engine, 1)  # the alarm of a round that is over rings in vain
    assert engine.versions == [2]
    assert server.state.invited == invited


@pytest.mark.parametrize("method", ["fedavg", "fedavg-deadline", "fedbuff", "budjoule"])
def test_clients_that_cannot_take_part_are_passed_over(method: str) -> None:
    config = load_config({"server": {"method": method, "cohort": 4}, "update": {"compress": []}})
    engine = Engine()
    engine.refusing = set(range(8))
    server = Server(config, LAYOUT, np.zeros(4, np.float32), deadline_s=5.0)
    server.begin(engine)
    assert set(engine.out) <= {8, 9}
    assert set(server.state.invited) == set(engine.out)


def other_model() -> bytes:
    update = Update(client=0, base_version=0, examples=1, values=np.ones(4, np.float32))
    return pack(update, OTHER, DENSE, np.random.default_rng(0))


def not_a_number() -> bytes:
    good = bytearray(frame(0, 0))
    good[-8:-4] = np.array([np.nan], "<f4").tobytes()
    import zlib

    return bytes(good[:-4]) + zlib.crc32(good[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (not_a_number(), "NaN|infinite"),
        (frame(0, 0) + b"x", "over the limit|runs on"),
        (bytes(10**6), "over the limit"),
        (frame(0, 0)[:-5], "cut short"),
        (b"", "cut short"),
        (frame(0, 0)[:-1] + b"!", "checksum"),
        (other_model(), "another model"),
        (frame(0, 3), "base version 3 instead of the 0"),
        (frame(5, 0), "a frame of client 5 came from client 0"),
        (frame(0, 0, examples=0), "no example"),
    ],
    ids=["nan", "too long", "oversized", "cut", "empty", "damaged", "other model", "version", "sender", "no example"],
)
def test_what_is_no_valid_update_is_refused_and_counted_and_the_run_goes_on(data: bytes, reason: str) -> None:
    server, engine = begin("fedbuff", cohort=10)
    before = server.state.weights.copy()
    assert server.receive(engine, 0, data) == "refused"
    assert len(engine.rejects) == 1
    import re

    assert re.search(reason, engine.rejects[0][1])
    assert np.array_equal(server.state.weights, before)
    assert answer(server, engine, 0)
    assert answer(server, engine, 1)
    assert server.state.version == 1


def test_a_replayed_frame_is_refused() -> None:
    server, engine = begin("fedbuff", cohort=1)
    client = next(iter(engine.out))
    data = frame(client, 0)
    assert answer(server, engine, client, data)
    server.state.invited.pop(client, None)
    assert server.receive(engine, client, data) == "refused"
    assert "sent twice" in engine.rejects[-1][1]


def test_a_replay_of_an_older_version_is_refused_while_the_next_is_out() -> None:
    server, engine = begin("fedbuff", cohort=10, buffer_size=1)
    data = frame(0, 0)
    assert answer(server, engine, 0, data)
    assert engine.out[0] == 1
    assert server.receive(engine, 0, data) == "refused"
    assert answer(server, engine, 0)


def test_the_average_follows_the_weights_and_ends_on_them_when_off() -> None:
    still, engine = begin("fedbuff", cohort=10)
    averaged, other = begin("fedbuff", cohort=10, average=0.9)
    for _ in range(20):
        for client in (0, 1):
            answer(still, engine, client)
            answer(averaged, other, client)
    assert np.array_equal(still.state.average, still.state.weights)
    assert np.array_equal(averaged.state.weights, still.state.weights)
    assert 0 < averaged.state.average[0] < averaged.state.weights[0]


def test_a_partial_buffer_is_aggregated_at_the_end() -> None:
    server, engine = begin("fedbuff", cohort=10, buffer_size=5)
    answer(server, engine, 0)
    server.finish(engine)
    server.finish(engine)
    assert engine.versions == [1]
    assert server.state.weights == pytest.approx(np.ones(4))


def test_state_survives_saving() -> None:
    server, engine = begin("fedbuff", cohort=10, average=0.9)
    for client in (0, 1, 2):
        answer(server, engine, client)
    state = server.state
    twin, _ = begin("fedbuff", cohort=10, average=0.9)
    import json

    numbers = json.loads(json.dumps(server.numbers()))
    twin.restore(numbers, state.weights, state.average, [item.values for item in state.buffer])
    assert twin.numbers() == server.numbers()
    assert twin.state.invited == server.state.invited


def test_what_clients_train_from_is_what_travelled() -> None:
    for steps in ([], ["quantize:8"]):
        config = load_config({"server": {"broadcast": steps}})
        weights = np.random.default_rng(0).normal(size=4).astype(np.float32)
        model = Server(config, LAYOUT, weights).broadcast()
        received = unpack(model.frame, LAYOUT, max_bytes=len(model.frame))
        assert np.array_equal(model.values, received.values)
        assert received.base_version == model.version
        assert np.abs(model.values - weights).max() <= (2 * np.abs(weights).max() / 254 if steps else 0)


def test_a_broadcast_that_leaves_weights_out_is_refused() -> None:
    with pytest.raises(UsageError, match="leave weights out"):
        Server(load_config({"server": {"broadcast": ["topk:0.1"]}}), LAYOUT, np.zeros(4, np.float32))


PRIVATE = {"privacy": {"epsilon": 8.0, "delta": 1e-5, "clip": 1.0}, "stop": {"rounds": 20}}


def quick_one(server: Server, engine: Engine, client: int = 0) -> int:
    """A client answers as often as it is asked, while the others are silent; how often that was before a version."""
    count = 0
    while client in engine.out and not server.state.version:
        assert answer(server, engine, client)
        count += 1
    return count


@pytest.mark.parametrize("method", ["fedbuff", "ftte-style", "budjoule"])
@pytest.mark.parametrize("rule", ["median", "trimmed-mean:0.2", "norm-bound:2", "epsilon"])
def test_a_version_takes_one_update_a_client_where_noise_or_a_minority_counts_on_it(method: str, rule: str) -> None:
    changes: dict[str, Any] = PRIVATE if rule == "epsilon" else {"server": {"aggregate": rule}}
    keys = {"method": method, "cohort": 10, "buffer_size": 4, "staleness": "polynomial"}
    config = load_config({"server": keys, "update": {"compress": []}}, overrides=[changes])
    server, engine = Server(config, LAYOUT, np.zeros(4, np.float32), noise_seed=0), Engine()
    server.begin(engine)
    assert quick_one(server, engine) == 1
    assert server.state.version == 0
    for client in (1, 2, 3):
        assert answer(server, engine, client)
    assert engine.versions == [4]
    assert 0 in engine.out  # and is asked again for the next


def test_a_mean_takes_what_comes() -> None:
    server, engine = begin("fedbuff", cohort=10, buffer_size=4)
    assert quick_one(server, engine) == 4
    assert engine.versions == [4]


def test_where_all_have_spoken_a_version_is_made_of_fewer() -> None:
    server, engine = begin("fedbuff", cohort=10, buffer_size=10, aggregate="median")
    for client in (8, 9):
        engine.out.pop(client)
        engine.retire(client)
        server.give_up(engine, client)
    for client in range(8):
        assert answer(server, engine, client)
    assert engine.versions == [8]
    assert len(engine.out) == 8


def test_one_long_update_does_not_undo_damping_where_updates_are_clipped() -> None:
    """Damping looks at what is added: clipped updates, of which a long one counts for no more than another."""
    steps = []
    for last in ([1, 1, 1, 0], [0, 0, 0, -1e9]):
        document = {"server": {"method": "budjoule", "cohort": 5, "buffer_size": 5, "damping": True, "average": 0.0}}
        document |= {"update": {"compress": []}, "privacy": {"clip": 5.0}, "schedule": {"slot": "none"}}
        server, engine = Server(load_config(document), LAYOUT, np.zeros(4, np.float32)), Engine()
        server.begin(engine)
        server.state.version = 9  # all of them were invited nine versions ago
        for count, client in enumerate(list(engine.out)):
            assert answer(server, engine, client, frame(client, 0, last if count == 4 else [1, 1, 1, 0]))
        steps.append(float(server.state.weights[0]))
    assert 0 < steps[0] < 0.2
    assert steps[1] < 2.5 * steps[0]  # a fifth of the buffer strays; undamped it would be eight times as far


def test_refusals_are_counted_by_kind_whatever_numbers_they_name(tmp_path: Path) -> None:
    with closing(
        Record(tmp_path / "e.jsonl", target_accuracy_frac=1.0, evaluate_every=1, evaluate=Mock(), spent_j=Mock())
    ) as record:
        record.restart()
        server, engine = begin("fedbuff")
        engine.rejected = lambda client, reason, **_: record.rejected(0.0, client, reason)  # type: ignore[method-assign]
        client = next(iter(engine.out))
        for size in range(1, 60):
            server.receive(engine, client, b"x" * size)
            server.receive(engine, client, b"x" * (1000 + size))
            server.receive(engine, client, frame(client, size))
        assert sum(record.totals.rejects.values()) == 3 * 59
        assert len(record.totals.rejects) <= 6
