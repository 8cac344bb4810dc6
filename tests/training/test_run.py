"""Whole runs on the virtual clock: they repeat to the bit, never pass a budget, and reduce to the methods they build on."""

import dataclasses
import gc
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from budjoule.energy.errors import RunError, UsageError
from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.compression.compress import SELECTIONS
from budjoule.training.config.config import load_config
from budjoule.training.ledger.ledger import Ledger
from budjoule.training.run import DivergenceError, Progress, train
from budjoule.training.simulation import blocks, build
from budjoule.training.simulation.checkpoint import Checkpoint
from budjoule.training.simulation.record import DIVERGED_BLOCKS
from budjoule.training.simulation.simulator import Simulator
from budjoule.training.simulation.spread import run_seeds
from budjoule.training.task.data import load_data
from budjoule.training.task.models import build_model

Bits = Callable[..., tuple[dict[str, Any], bytes]]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_a_run_repeats_to_the_bit_and_follows_its_seed(small: dict[str, Any], run_bits: Bits) -> None:
    one, again, other = run_bits(small), run_bits(small), run_bits(small, seed=1)
    assert one == again
    assert one[0]["model_sha256"] != other[0]["model_sha256"]


def test_a_run_does_not_depend_on_the_threads_it_is_offered(small: dict[str, Any], run_bits: Bits) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for offered in (1, 4):
            torch.set_num_threads(offered)
            found.append(run_bits(small))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_run_keeps_the_collector_from_what_was_loaded_and_leaves_it_as_it_was(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    begin = Simulator.begin

    def look(simulator: Simulator) -> None:
        seen.append((gc.isenabled(), gc.get_freeze_count() > 10_000))
        begin(simulator)

    def collector(name: str) -> tuple[bool, int]:
        train(small, output=tmp_path / name)
        return gc.isenabled(), gc.get_freeze_count()

    monkeypatch.setattr(Simulator, "begin", look)

    assert collector("free") == (True, 0)
    assert seen == [(True, True)]
    gc.disable()
    try:
        assert collector("off") == (False, 0)
    finally:
        gc.enable()
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        assert collector("frozen")[1] > 0.9 * frozen  # some die without the collector
    finally:
        gc.unfreeze()
    with pytest.raises(UsageError):
        train(small, overrides=["task.data=no.such:data"], output=tmp_path / "bad")
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)


def test_the_record_adds_up(small: dict[str, Any], tmp_path: Path) -> None:
    overrides = ["fleet.awake_frac=0.25", "fleet.dropout_frac=0.2"]
    summary = train(small, output=tmp_path / "run", overrides=overrides).summary
    rows = summary["by_client"]
    for key in ("spent_j", "budget_j", "uplink_bytes", "downlink_bytes", "sends", "lost"):
        assert summary[key] == pytest.approx(sum(row[key] for row in rows))
    for row in rows:
        assert sum(row["spent_by_cause_j"].values()) == pytest.approx(row["spent_j"])
    assert all(summary["spent_by_cause_j"][cause] > 0 for cause in ("compute", "uplink", "downlink", "idle"))
    assert summary["lost"] > 0
    sends = events(tmp_path / "run", "send")
    assert sum(send["size_bytes"] for send in sends) == summary["uplink_bytes"]
    assert sum(send["energy_j"] for send in sends) == pytest.approx(summary["spent_by_cause_j"]["uplink"], abs=1e-6)
    assert len(sends) == summary["sends"]
    assert sum("lost" in send for send in sends) == summary["lost"]
    assert sum(event["updates"] for event in events(tmp_path / "run", "aggregate")) == len(sends) - summary["lost"]
    last = events(tmp_path / "run", "evaluate")[-1]
    assert (last["version"], last["accuracy_frac"]) == (summary["rounds"], summary["accuracy_frac"])
    assert last["spent_j"] == pytest.approx(summary["spent_j"])
    model = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert sum(value.numel() for value in model.values()) == summary["parameters"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    policy=st.sampled_from(sorted(build.make_scheduler.__globals__["SCHEDULERS"])),
    method=st.sampled_from(["fedavg", "fedavg-deadline", "fedbuff", "budjoule"]),
    link=st.sampled_from(["lte-2012", "wifi-pi", "3g-2012"]),
    state=st.sampled_from(["constant", "two-state:8", "diurnal:4", "adversarial:8:5 min", "busy:1 min"]),
    energy_j=st.floats(0.001, 120),
    error=st.floats(0, 0.9),
    awake=st.floats(0, 1),
    dropout=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
def test_no_client_ever_passes_its_budget(small: dict[str, Any], run_bits: Bits, **drawn: Any) -> None:
    fleet = {"link": drawn["link"], "link_state": drawn["state"], "energy_error_frac": drawn["error"]}
    fleet |= {"awake_frac": drawn["awake"], "dropout_frac": drawn["dropout"]}
    extra = {
        "fleet": fleet,
        "budget": {"energy": drawn["energy_j"]},
        "schedule": {"policy": drawn["policy"]},
        "server": {"method": drawn["method"]},
        "stop": {"duration": "10 min"},
    }
    summary, _ = run_bits(small, extra, seed=drawn["seed"])
    assert summary["overspent_clients"] == 0
    assert all(row["spent_j"] <= row["budget_j"] for row in summary["by_client"])


def test_the_tail_of_other_traffic_carries_sends_for_next_to_nothing(small: dict[str, Any], run_bits: Bits) -> None:
    """On LTE, where a send of its own costs 13 J: with a radio that others keep awake the same joules go much further."""

    def sends(state: str) -> int:
        summary, _ = run_bits(small, {"fleet": {"link_state": state}, "budget": {"energy": 60}})
        assert summary["overspent_clients"] == 0
        return int(summary["sends"])

    assert sends("busy:15 s") > 1.5 * sends("constant")


@pytest.mark.parametrize("policy", ["price-threshold", "every-block", "joule-queue"])
def test_budgets_of_any_size_hold_though_the_truth_is_far_from_the_profile(
    small: dict[str, Any], run_bits: Bits, policy: str
) -> None:
    """Ends of budgets, where a reservation too small would show: twelve sizes, true joules up to 1.9 times the profile's."""
    for energy_j in range(10, 82, 6):
        extra = {"fleet": {"energy_error_frac": 0.9}, "training": {"local_steps": 1}, "schedule": {"policy": policy}}
        summary, _ = run_bits(small, extra, f"budget.energy={energy_j}", "server.cohort=6")
        assert summary["overspent_clients"] == 0
        assert all(row["spent_j"] <= row["budget_j"] for row in summary["by_client"])


def test_a_profile_that_lies_is_overspent_in_the_open(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings at three times the estimate, outside every interval: booked in full, said so, and the run goes on."""
    honest = build.draw_fleet

    def lying(config: Any) -> Any:
        return [dataclasses.replace(member, link_truth=3.0) for member in honest(config)]

    monkeypatch.setattr(build, "draw_fleet", lying)
    summary = train(small, output=tmp_path / "run", overrides=["budget.energy=30 J"]).summary
    assert summary["overspent_clients"] > 0
    for row in summary["by_client"]:
        assert row["overspent_j"] == pytest.approx(max(0.0, row["spent_j"] - row["budget_j"]))


def test_a_profile_that_lies_is_found_out_by_the_first_reading(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the budget outlasts the first reading, every later reservation is wide enough, and nobody overspends."""
    honest = build.draw_fleet

    def lying(config: Any) -> Any:
        return [dataclasses.replace(member, link_truth=3.0, compute_truth=2.0) for member in honest(config)]

    monkeypatch.setattr(build, "draw_fleet", lying)
    summary = train(small, output=tmp_path / "run").summary
    assert summary["overspent_clients"] == 0
    assert summary["sends"] >= 6
    for row in summary["by_client"]:
        assert 36 < row["spent_j"] <= row["budget_j"]


def test_a_data_plan_is_a_second_budget(small: dict[str, Any], run_bits: Bits) -> None:
    free, _ = run_bits(small, "budget.energy=none")
    plan, _ = run_bits(small, "budget.energy=none", "budget.upload=9 kB")
    most = [max(row["uplink_bytes"] for row in run["by_client"]) for run in (free, plan)]
    assert most[0] > 9000 >= most[1] > 5000


def test_more_joules_buy_more_sends(small: dict[str, Any], run_bits: Bits) -> None:
    sends = [run_bits(small, f"budget.energy={energy}")[0]["sends"] for energy in ("20 J", "60 J", "200 J")]
    assert sends == sorted(sends)
    assert sends[0] < sends[2]


def test_with_every_block_and_no_compression_it_is_fedbuff(small: dict[str, Any], run_bits: Bits) -> None:
    free = {
        "budget": {"energy": "none"},
        "schedule": {"policy": "every-block"},
        "update": {"compress": [], "error_feedback": False},
        "fleet": {"link": "wifi-pi"},
        "server": {"staleness": "polynomial", "average": 0.0},
    }
    ours, fedbuff = (run_bits(small, free, f"server.method={method}") for method in ("budjoule", "fedbuff"))
    assert ours[0]["rounds"] > 3
    assert ours[1] == fedbuff[1]
    assert ours[0]["model_sha256"] == fedbuff[0]["model_sha256"]


def test_clients_alike_learn_where_their_steps_are_damped_and_diverge_where_they_are_not(run_bits: Bits) -> None:
    """40 in flight and a buffer of 2: updates are some 20 versions late, and all of them say the same."""
    document = {
        "task": {"data": "digits", "model": "mlp", "partition": "iid"},
        "fleet": {"clients": 40, "straggler_frac": 0.0},
        "budget": {"energy": "none"},
        "training": {"learning_rate": 0.6, "local_steps": 8},
        "update": {"compress": [], "error_feedback": False},
        "schedule": {"policy": "every-block", "slot": "none"},
        "server": {"cohort": 40, "buffer_size": 2, "average": 0.0},
        "stop": {"rounds": 100, "target_accuracy_frac": "none", "duration": "none"},
    }
    accuracy = [run_bits(document, f"server.damping={damping}")[0]["accuracy_frac"] for damping in ("true", "false")]
    assert accuracy[0] > 0.6
    assert accuracy[1] < 0.4


@pytest.mark.parametrize(("net", "off"), [("conv", 0.0), ("mlp", 1e-6)])
def test_one_client_with_a_buffer_of_one_is_plain_sgd(tmp_path: Path, net: str, off: float) -> None:
    """K = 1, one client, nothing compressed: each version is w + (local - w), local by torch's own SGD, to the bit.

    Dense nets, which train beside others, add up their products in another order.
    """
    document = {
        "fleet": {"clients": 1, "straggler_frac": 0.0},
        "task": {"partition": "iid", "model": net},
        "training": {"local_steps": 4, "batch_size": 8, "learning_rate": 0.1},
        "update": {"compress": [], "error_feedback": False},
        "schedule": {"policy": "every-block"},
        "server": {"method": "fedbuff", "cohort": 1, "buffer_size": 1, "average": 0.0},
        "stop": {"rounds": 5, "target_accuracy_frac": "none"},
    }
    run = train(document, output=tmp_path / "run")
    found = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    data = load_data("digits", 0)
    model = build_model(net, data.inputs[:2], 10, 0)
    with one_thread():
        for version in range(5):
            before = [p.detach().clone() for p in model.parameters()]
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            rng = np.random.default_rng((0, 0, 1, version))
            rng.integers(2**62)
            for batch in torch.from_numpy(rng.permutation(len(data.labels))[:32]).view(4, 8):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(data.inputs[batch]), data.labels[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                for parameter, old in zip(model.parameters(), before, strict=True):
                    parameter.copy_(old + (parameter - old))
    assert run.summary["rounds"] == 5
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=off)


def test_rounds_wait_for_stragglers_and_a_deadline_does_not(small: dict[str, Any], run_bits: Bits) -> None:
    free = {"preset": "fedavg", "fleet": {"straggler_frac": 0.3, "straggler_slowdown": 100.0}, "stop": {"rounds": 10}}
    waits, _ = run_bits(small, free, "budget.energy=none", "schedule.policy=every-block")
    cuts, _ = run_bits(
        small, free, "server.method=fedavg-deadline", "budget.energy=none", "schedule.policy=every-block"
    )
    assert waits["rounds"] == cuts["rounds"] == 10
    assert cuts["simulated_duration_s"] < waits["simulated_duration_s"]
    assert sum(cuts["rejects"].values()) > 0
    assert waits["rejects"] == {}


def test_a_diverging_client_is_counted_and_the_run_goes_on(
    small: dict[str, Any], run_bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tasks = blocks.run_tasks

    def diverging(tasks: Any, *rest: Any) -> Any:
        ends = run_tasks(tasks, *rest)
        return [end * np.float32(np.nan) if task.client == 2 else end for task, end in zip(tasks, ends, strict=True)]

    monkeypatch.setattr(blocks, "run_tasks", diverging)
    summary, log = run_bits(small)
    rejects = [event for event in map(json.loads, log.splitlines()) if event["event"] == "reject"]
    assert {event["client"] for event in rejects} == {2}
    assert sum(summary["rejects"].values()) == len(rejects) > 1
    assert summary["by_client"][2]["sends"] == 0
    assert summary["rounds"] > 0
    assert np.isfinite(summary["loss"])


def all_diverge(tasks: Any, *rest: Any) -> Any:
    return [task.start * np.float32(np.nan) for task in tasks]


def test_a_fleet_that_diverges_ends_with_the_remedy_and_a_whole_record(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "run_tasks", all_diverge)
    endless = ["stop.duration=none", "budget.energy=none", "budget.horizon=10000 h"]
    with pytest.raises(RunError, match=r"100 blocks in a row .* lower training\.learning_rate, now 0\.1"):
        train(small, output=tmp_path / "run", overrides=endless)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["stopped_by"], summary["rounds"]) == ("divergence", 0)
    assert sum(summary["rejects"].values()) == len(events(tmp_path / "run", "reject")) == DIVERGED_BLOCKS
    assert (tmp_path / "run" / "model.pt").is_file()
    with pytest.raises(DivergenceError, match="100 blocks"):  # also of a run that is only looked at again
        train(small, output=tmp_path / "run", overrides=endless, resume=True)


def test_seeds_that_diverge_keep_none_of_the_others_from_running(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tasks = blocks.run_tasks

    def first_diverges(tasks: Any, bench: Any, shards: Any, config: Any, *rest: Any) -> Any:
        return all_diverge(tasks) if config.seed == 0 else run_tasks(tasks, bench, shards, config, *rest)

    monkeypatch.setattr(blocks, "run_tasks", first_diverges)
    endless = ["stop.duration=20 min", "budget.energy=none", "budget.horizon=10000 h", "schedule.slot=none"]
    config = load_config(small, overrides=endless)
    for resume in (False, True):
        with pytest.raises(DivergenceError, match="with seed 0: local training diverged"):
            run_seeds(config, 2, output=tmp_path / "runs", resume=resume)
        assert json.loads((tmp_path / "runs" / "seed-1" / "summary.json").read_text())["stopped_by"] == "rounds"


def test_a_folder_in_the_way_of_a_later_seed_is_told_before_the_first_runs(
    small: dict[str, Any], tmp_path: Path
) -> None:
    train(small, output=tmp_path / "seed-1", seed=1)
    with pytest.raises(RunError, match="seed-1 holds a run"):
        run_seeds(load_config(small), 2, output=tmp_path)
    assert not (tmp_path / "seed-0" / "run.json").exists()


def test_a_run_that_is_still_going_on_is_not_replaced(small: dict[str, Any], tmp_path: Path) -> None:
    train(small, output=tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("of the run before")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.suffix != ".db"}
    with closing(Checkpoint(tmp_path / "run" / "ledger.db")):
        with pytest.raises(RunError, match="still going on"):
            train(small, output=tmp_path / "run", force=True, seed=5)
        assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    train(small, output=tmp_path / "run", force=True, seed=5)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 5
    assert not (tmp_path / "run" / "report.html").exists()
    (tmp_path / "run" / "ledger.db").write_bytes(b"damaged" * 1000)
    train(small, output=tmp_path / "run", force=True, seed=6)


def test_a_target_that_is_met_exactly_is_reached() -> None:
    """7 of 10 in float32 is less than 0.7."""
    bench = Workbench(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), load_config({}).training)
    bench.load(np.array([1, 0, 0, 1, 0, 0], np.float32))
    inputs = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert bench.evaluate(bench.values(), inputs, labels)[0] == 0.7


def test_sends_under_way_at_the_end_are_sends(small: dict[str, Any], run_bits: Bits) -> None:
    summary, _ = run_bits(small, {"stop": {"rounds": 2}, "schedule": {"policy": "every-block"}})
    assert summary["sends"] == sum(row["sends"] for row in summary["by_client"])
    assert summary["uplink_bytes"] == sum(row["uplink_bytes"] for row in summary["by_client"])


def test_discarded_blocks_count_on_across_a_crash_and_from_nought_after_a_good_one(
    small: dict[str, Any], run_bits: Bits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tasks, count = blocks.run_tasks, [0]

    def mostly_diverging(tasks: Any, *rest: Any) -> Any:
        count[0] += 1
        return run_tasks(tasks, *rest) if count[0] % 12 == 0 else all_diverge(tasks)

    monkeypatch.setattr(blocks, "run_tasks", mostly_diverging)
    long = ["stop.duration=2 h", "budget.energy=none", "budget.horizon=10000 h"]
    assert sum(run_bits(small, *long)[0]["rejects"].values()) > DIVERGED_BLOCKS

    monkeypatch.setattr(blocks, "run_tasks", all_diverge)
    monkeypatch.setattr("budjoule.training.run._CHECKPOINT_EVENTS", 7)
    step = Simulator.step

    def crashing(self: Simulator) -> bool:
        if self.events == 60:
            raise MemoryError
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "step", crashing)
        with pytest.raises(MemoryError):
            train(small, output=tmp_path / "run", overrides=long)
    with pytest.raises(RunError, match="in a row"):
        train(small, output=tmp_path / "run", overrides=long, resume=True)
    assert len(events(tmp_path / "run", "reject")) == DIVERGED_BLOCKS


def test_the_learning_rate_decays_with_every_version(small: dict[str, Any], tmp_path: Path) -> None:
    """With next to nothing left of the rate after the first version, the later ones are next to the first."""

    def model(decay: float, rounds: int) -> np.ndarray:
        overrides = [f"training.learning_rate_decay={decay}", f"stop.rounds={rounds}"]
        plain = {"update": {"compress": [], "error_feedback": False}, "server": {"average": 0.0}}
        free = {"budget": {"energy": "none"}, "schedule": {"policy": "every-block"}, "preset": "fedavg"}
        run = train(small, output=tmp_path / f"{decay}-{rounds}", overrides=[plain, free, *overrides])
        assert run.summary["rounds"] == rounds
        state = torch.load(run.folder / "model.pt", weights_only=True)
        return np.concatenate([value.numpy().ravel() for value in state.values()])

    assert np.abs(model(1e-6, 4) - model(1e-6, 1)).max() < 1e-5
    assert np.abs(model(1.0, 4) - model(1.0, 1)).max() > 1e-2


def test_progress_is_told_as_it_goes(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budjoule.training.run._PROGRESS_S", -1.0)
    told: list[Progress] = []
    summary = train(small, output=tmp_path / "run", progress=told.append).summary
    assert len(told) > summary["sends"]
    for figure in ("time_s", "spent_j", "version"):
        values = [getattr(one, figure) for one in told]
        assert values == sorted(values)
    assert 0 < told[0].done_frac < told[-1].done_frac <= 1
    assert (told[-1].time_s, told[-1].spent_j) == (summary["simulated_duration_s"], pytest.approx(summary["spent_j"]))


MODELS = """
from torch import nn
def batch_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
"""


@pytest.fixture
def normed(small: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A model with running statistics, and ways of sending that suit them."""
    (tmp_path / "normed.py").write_text(MODELS)
    free = {"budget": {"energy": "none"}, "schedule": {"policy": "every-block"}}
    sending = {"update": {"compress": "none", "error_feedback": False}}
    return small | free | sending | {"task": {"model": f"{tmp_path / 'normed.py'}:batch_norm"}}


def test_running_statistics_are_sent_whole_or_not_at_all(normed: dict[str, Any], tmp_path: Path) -> None:
    summary = train(normed, output=tmp_path / "whole", overrides=["stop.rounds=40"]).summary
    assert summary["accuracy_frac"] > 0.7
    assert summary["loss"] < 1.0
    for spoiling in (
        'update.compress=["topk:0.5"]',
        'update.compress=["quantize:8"]',
        "update.error_feedback=true",
        'server.broadcast=["quantize:8"]',
    ):
        key = spoiling.partition("=")[0].replace(".", r"\.")
        with pytest.raises(UsageError, match=rf"running statistics \(2\.running_mean, .*{key}: set it to .*GroupNorm"):
            train(normed, output=tmp_path / "run", overrides=[spoiling])
        assert not (tmp_path / "run").exists()


def test_a_single_example_that_cannot_be_normalized_is_said_before_anything_is_written(
    normed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"clients hold a single example.*lower fleet\.clients.*GroupNorm"):
        train(normed, output=tmp_path / "run", overrides=["fleet.clients=1400", "task.partition=iid"])
    assert not (tmp_path / "run").exists()


def test_the_target_stops_the_run_and_is_reported(small: dict[str, Any], run_bits: Bits) -> None:
    summary, log = run_bits(small, "stop.target_accuracy_frac=0.3", "fleet.link=wifi-pi")
    evaluations = [e for e in map(json.loads, log.splitlines()) if e["event"] == "evaluate"]
    assert summary["stopped_by"] == "target"
    assert evaluations[-1]["accuracy_frac"] >= 0.3 > max(e["accuracy_frac"] for e in evaluations[:-1])
    assert summary["time_to_target_s"] == evaluations[-1]["time_s"]
    assert summary["energy_to_target_j"] == evaluations[-1]["spent_j"]
    assert summary["uplink_bytes_to_target"] == evaluations[-1]["uplink_bytes"]


def test_other_stops_hold(small: dict[str, Any], run_bits: Bits) -> None:
    free = {"fleet": {"link": "wifi-pi"}, "schedule": {"policy": "every-block"}}
    rounds, _ = run_bits(small, free, "stop.rounds=3")
    assert (rounds["stopped_by"], rounds["rounds"]) == ("rounds", 3)
    duration, _ = run_bits(small, free, "stop.duration=4 min")
    assert (duration["stopped_by"], duration["simulated_duration_s"]) == ("duration", 240.0)


def test_every_partition_optimizer_and_model_runs(small: dict[str, Any], run_bits: Bits) -> None:
    short = {"stop": {"duration": "3 min"}, "fleet": {"link": "wifi-pi"}}
    for overrides in (
        ["task.model=conv", "task.partition=shard:2", "training.optimizer=adam", "training.learning_rate=0.001"],
        ["task.partition=quantity:0.3", "training.optimizer=sgd-momentum", 'update.compress=["randomk:0.1"]'],
        ["task.partition=iid", "training.optimizer=adamw", "update.compress=none", "training.logit_adjustment=true"],
        ["schedule.slot=none", "stop.rounds=5", "fleet.device={ raspberry-pi-5 = 0.5, jetson-orin-nano = 0.5 }"],
    ):
        summary, _ = run_bits(small, short, *overrides)
        assert summary["rounds"] > 0


@pytest.mark.parametrize("feedback", [True, False])
def test_every_way_to_compress_is_reached_from_a_configuration(
    small: dict[str, Any], run_bits: Bits, feedback: bool
) -> None:
    sizes = {}
    steps = (
        *(f"{name}:{example}" for name, example in SELECTIONS.items()),
        "quantize:4",
        "quantize:2",
        "ternary",
        "fp16",
    )
    for step in steps:
        overrides = [f'update.compress=["{step}"]', f"update.error_feedback={str(feedback).lower()}"]
        summary, _ = run_bits(small, "stop.duration=4 min", *overrides)
        assert summary["sends"] > 0
        sizes[step] = summary["uplink_bytes"] / summary["sends"]
    dense = 4 * summary["parameters"]
    assert all(size < dense for size in sizes.values())
    assert sizes["ternary"] < sizes["quantize:2"] < sizes["quantize:4"] < sizes["fp16"]


def test_lost_updates_stay_in_the_residual(small: dict[str, Any], tmp_path: Path) -> None:
    """What a client learnt and could not deliver is still owed: with every frame but few lost, residuals are large."""

    def owed(name: str, *overrides: str) -> float:
        train(small, output=tmp_path / name, overrides=["update.compress=none", *overrides])
        rows = sqlite3.connect(tmp_path / name / "ledger.db").execute("SELECT residual FROM sim_client").fetchall()
        return sum(float(np.abs(np.frombuffer(row[0], "<f4")).sum()) for row in rows if row[0] is not None)

    assert owed("kept") == 0.0
    assert owed("lost", "fleet.dropout_frac=0.9") > 1.0


def test_refused_updates_stay_in_the_residual(small: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is compressed, so that what is owed at the end is what came after a round was over."""
    late = {"server": {"method": "fedavg-deadline", "deadline": "1 min"}, "schedule": {"policy": "every-block"}}
    slow = {
        "fleet": {"link": "wifi-pi", "straggler_frac": 0.5, "straggler_slowdown": 8000.0},
        "update": {"compress": "none"},
    }
    run = train(
        small,
        output=tmp_path / "run",
        overrides=[late, slow, {"budget": {"energy": "none"}, "stop": {"duration": "none"}}],
    )
    assert sum(run.summary["rejects"].values()) > 0
    with closing(sqlite3.connect(tmp_path / "run" / "ledger.db")) as books:
        rows = books.execute("SELECT client, residual FROM sim_client WHERE residual IS NOT NULL").fetchall()
    owed = {client for client, residual in rows if np.abs(np.frombuffer(residual, "<f4")).sum() > 0.1}
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    last = {event["client"]: event["event"] for event in map(json.loads, lines) if event["event"] in ("send", "reject")}
    assert owed == {client for client, kind in last.items() if kind == "reject"} != set()


def test_a_small_cohort_still_reaches_every_client(small: dict[str, Any], tmp_path: Path) -> None:
    free = [
        "preset=fedbuff",
        "fleet.clients=12",
        "server.cohort=4",
        "budget.energy=none",
        "schedule.policy=every-block",
    ]
    train(small, output=tmp_path / "run", overrides=[*free, "stop.rounds=30"])
    assert {event["client"] for event in events(tmp_path / "run", "send")} == set(range(12))


def test_folders_in_the_way_are_left_alone(small: dict[str, Any], tmp_path: Path) -> None:
    short = ["stop.duration=2 min"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(RunError, match="holds no run"):
            train(small, output=other, force=force)
    assert (other / "thesis.txt").read_text() == "years of work"
    run = train(small, output=tmp_path / "run", overrides=short)
    with pytest.raises(RunError, match="--resume"):
        train(small, output=tmp_path / "run", overrides=short)
    assert train(small, output=tmp_path / "run", overrides=short, resume=True).summary == run.summary
    with pytest.raises(RunError, match=r"fleet\.clients = 6, not 5"):
        train(small, output=tmp_path / "run", overrides=[*short, "fleet.clients=5"], resume=True)
    again = train(small, output=tmp_path / "run", overrides=short, force=True)
    assert again.summary["model_sha256"] == run.summary["model_sha256"]
    with pytest.raises(RunError, match="nothing to resume"):
        train(small, output=tmp_path / "none", resume=True)
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(RunError, match="cannot write"):
        train(small, output=blocker / "run")


def test_a_configuration_that_cannot_run_leaves_no_folder(small: dict[str, Any], tmp_path: Path) -> None:
    for override in ("fleet.device=abacus", "task.model=nope", "schedule.policy=nope", "task.partition=iid:3"):
        with pytest.raises(UsageError):
            train(small, output=tmp_path / "run", overrides=[override])
    assert not (tmp_path / "run").exists()


def test_the_ledgers_of_a_run_open_as_ledgers(small: dict[str, Any], tmp_path: Path) -> None:
    summary = train(small, output=tmp_path / "run").summary
    for row in summary["by_client"]:
        with Ledger.open(tmp_path / "run" / "ledger.db", account=f"client-{row['client']}") as ledger:
            assert (ledger.spent_j, ledger.reserved_j) == (row["spent_j"], 0.0)
            assert ledger.spent_by_cause_j == row["spent_by_cause_j"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(small: dict[str, Any], tmp_path: Path) -> None:
    from budjoule.training.simulation.record import Record

    record = Record(
        Path("/dev/full"),
        target_accuracy_frac=1.0,
        evaluate_every=1,
        evaluate=lambda _: (0.0, 0.0),
        spent_j=lambda: 0.0,
    )
    record.rejected(0.0, 0, "for the test")
    with pytest.raises(RunError, match="make room"):
        record.numbers()
    with pytest.raises(OSError):  # noqa: PT011 - closing tries to write the rest once more
        record.close()


def test_the_document_in_the_record_loads_again(small: dict[str, Any], tmp_path: Path) -> None:
    train(small, output=tmp_path / "run", overrides=["stop.duration=1 min"], seed=7)
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    config = load_config(header["config"])
    assert (config.seed, header["seed"], config.stop.duration_s) == (7, 7, 60.0)
