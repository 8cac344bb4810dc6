"""Presence: conditions gate work, changes are foreseen exactly, and nobody works while away."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.clients.conditions import DAY_S, HOUR_S, Moment, hold
from budjoule.training.config.config import load_config
from budjoule.training.run import train
from budjoule.training.simulation.presence import STEP_S, Presence, draw_presences
from budjoule.training.simulation.timeline import timelines

Bits = Callable[..., tuple[dict[str, Any], bytes]]


def presences(conditions: dict[str, Any] | None = None, *, free: bool = True, **fleet: Any) -> list[Presence]:
    document = {"fleet": {"clients": 8, **fleet}, "budget": {"horizon": "72 h"}, "conditions": conditions or {}}
    config = load_config(document)
    return draw_presences(config, [free] * 8)


@pytest.mark.parametrize("key", ["charging", "unmetered", "idle"])
def test_a_condition_holds_exactly_where_its_fact_does(key: str) -> None:
    asked = load_config({"conditions": {key: True}}).conditions
    assert hold(asked, Moment())
    assert not hold(asked, Moment(**{key: False}))
    others = {other: False for other in ("charging", "unmetered", "idle") if other != key}
    assert hold(asked, Moment(**others, battery_frac=0.0))


@given(begin=st.integers(0, 95), length=st.integers(1, 95), at=st.integers(0, 95))
def test_hours_and_their_complement_share_the_day(begin: int, length: int, at: int) -> None:
    def at_quarter(number: int) -> str:
        return f"{number % 96 // 4}:{number % 4 * 15:02}"

    ends = at_quarter(begin), at_quarter(begin + length)
    held = [
        hold(load_config({"conditions": {"hours": f"{a}-{b}"}}).conditions, Moment(day_s=at * STEP_S))
        for a, b in (ends, ends[::-1])
    ]
    assert sum(held) == 1


@pytest.mark.parametrize("hours", ["22", "22-22", "25-3", "9:10-17", "a-b", "9-10-11"])
def test_hours_that_cannot_be_read_are_refused(hours: str) -> None:
    with pytest.raises(UsageError, match="hours of the day"):
        load_config({"conditions": {"hours": hours}})


@pytest.mark.parametrize(
    ("conditions", "fleet"),
    [
        ({}, {"availability": "charging-at-night"}),
        ({"idle": True, "battery_frac": 0.8}, {"availability": "charging-at-night"}),
        ({"hours": "1:15-3"}, {}),
        ({}, {"arrival": "5 h", "lifetime": "10 h"}),
        ({"hours": "23-4"}, {"availability": "charging-at-night", "arrival": "20 h", "lifetime": "20 h"}),
    ],
)
def test_a_change_is_foreseen_exactly(conditions: dict[str, Any], fleet: dict[str, Any]) -> None:
    for presence in presences(conditions, **fleet):
        time_s, changes = 0.0, []
        while (time_s := presence.changes_s(time_s)) < 72 * HOUR_S:
            changes.append(time_s)
        assert changes == sorted(set(changes))
        for begin_s, end_s in pairwise([0.0, *changes, 72 * HOUR_S]):
            inside = [begin_s + (end_s - begin_s) * share for share in (0.0, 0.3, 0.7, 0.999999)]
            assert len({presence.may_work(at_s) for at_s in inside}) == 1
        for change_s in changes:
            assert presence.may_work(change_s) != presence.may_work(change_s - 1e-6)


def test_most_devices_charge_at_night_and_none_at_noon() -> None:
    nights = presences(availability="charging-at-night")
    for day in range(3):
        assert not any(presence.may_work(day * DAY_S + 12 * HOUR_S) for presence in nights)
    at_two = [presence.may_work(day * DAY_S + 2 * HOUR_S) for day in range(1, 3) for presence in nights]
    assert sum(at_two) > 0.9 * len(at_two)


def test_a_device_that_always_trains_empties_its_battery() -> None:
    (presence, *_) = presences(battery="100 J")
    assert presence.may_work(0.0, 99.0)
    assert not presence.may_work(0.0, 100.0)
    assert presence.moment(0.0, 30.0).battery_frac == pytest.approx(0.7)
    assert not presences({"charging": True}, battery="100 J")[0].may_work(0.0)


def test_mobile_networks_are_metered() -> None:
    assert not presences({"unmetered": True}, free=False)[0].may_work(0.0)
    assert presences({"unmetered": True}, free=True)[0].may_work(0.0)


TRACE = "client,from_s,to_s,charging,battery_frac\na,0,100,1,0.5\na,250,400,0,0.4\nb,50.5,60,1,1\n"


def test_a_trace_says_who_is_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    first, second, third, *_ = presences(availability=f"trace:{path}")
    assert [first.changes_s(at_s) for at_s in (0.0, 100.0, 250.0, 400.0)] == [100.0, 250.0, 400.0, float("inf")]
    assert [second.changes_s(0.0), second.changes_s(50.5)] == [50.5, 60.0]
    assert third.changes_s(0.0) == 100.0
    gated = presences({"charging": True}, availability=f"trace:{path}")[0]
    assert gated.may_work(50.0)
    assert not gated.may_work(300.0)


def test_where_a_trace_does_not_say_the_link_and_the_mains_decide(tmp_path: Path) -> None:
    silent, says = tmp_path / "silent.csv", tmp_path / "says.csv"
    silent.write_text("client,from_s,to_s\na,0,100\n")
    says.write_text("client,from_s,to_s,charging,unmetered\na,0,100,1,0\nb,0,100,0,1\nc,0,100,,\n")
    for free in (True, False):
        (heard, *_) = presences({"unmetered": True}, free=free, availability=f"trace:{silent}")
        assert heard.may_work(0.0) is free
        found = presences({"unmetered": True}, free=free, availability=f"trace:{says}")
        assert [presence.may_work(0.0) for presence in found[:3]] == [False, True, free]
    for battery, charged in (("none", True), ("9 J", False)):
        found = presences({"charging": True}, availability=f"trace:{says}", battery=battery)
        assert [presence.may_work(0.0) for presence in found[:3]] == [True, False, charged]


SPELLS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 9), st.sampled_from([0.0, 0.4, 0.9]), st.booleans()),
    min_size=1,
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(spells=SPELLS, battery=st.sampled_from(["none", "50 J"]))
def test_a_trace_is_as_its_first_spell_that_holds(
    spells: list[tuple[int, int, float, bool]], battery: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    rows = [f"a,{at},{at + length},{int(charging)},{level}" for at, length, level, charging in spells]
    path.write_text("client,from_s,to_s,charging,battery_frac\n" + "\n".join(rows))
    (presence, *_) = presences({"battery_frac": 0.3}, availability=f"trace:{path}", battery=battery)

    def first(time_s: float) -> tuple[float, bool]:
        held = ((level, charging) for at, length, level, charging in spells if at <= time_s < at + length)
        return next(held, (0.0, False))

    quarters = [quarter / 4 for quarter in range(170)]
    for time_s in quarters:
        level, charging = first(time_s)
        assert presence.may_work(time_s) == (level >= 0.3)
        assert level < 0.3 or presence.habit(time_s).charging == charging
    works = [first(time_s)[0] >= 0.3 for time_s in quarters]
    changes = [at_s for at_s, before, after in zip(quarters[1:], works, works[1:], strict=False) if before != after]
    assert [presence.changes_s(at_s) for at_s in quarters] == [
        next((change_s for change_s in changes if change_s > at_s), float("inf")) for at_s in quarters
    ]


def test_edges_that_change_nothing_are_looked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [f"a,{at},{at + 1},{at % 2},{at % 7 / 10 + 0.1}" for at in range(1000)]
    path.write_text("client,from_s,to_s,charging,battery_frac\n" + "\n".join(rows))

    def edges(conditions: dict[str, Any], **fleet: Any) -> int:
        return len(presences(conditions, availability=f"trace:{path}", **fleet)[0].edges_s)

    assert (edges({}), edges({"charging": True})) == (2, 1000)
    assert edges({}, battery="1 kJ") == 1001


def test_clients_join_evenly_over_the_arrival(small: dict[str, Any], tmp_path: Path) -> None:
    config = load_config({"fleet": {"clients": 400, "arrival": "10 h"}})
    fleet = draw_presences(config, [True] * 400)
    there = [sum(presence.may_work(hour * HOUR_S) for presence in fleet) for hour in range(11)]
    assert there == sorted(there)
    assert there[0] == 0
    assert 150 < there[5] < 250
    assert there[10] == 400
    arriving = {
        "fleet": {**small["fleet"], "link": "wifi-pi", "arrival": "20 min"},
        "schedule": {"policy": "every-block"},
    }
    train(small | arriving, output=tmp_path / "run")
    joins_s = [presence.joins_s for presence in draw_presences(load_config(small | arriving), [True] * 6)]
    firsts = {event["client"]: event["time_s"] for event in reversed(sent(tmp_path / "run"))}
    assert len(firsts) == 6
    assert all(joins_s[client] < time_s for client, time_s in firsts.items())
    assert max(firsts.values()) > 10 * 60


PERCENT = "client,from_s,to_s,battery_frac\n1,0,2,80\n"


@pytest.mark.parametrize(
    "text", ["", "client,from_s\n1,2\n", "client,from_s,to_s\n1,5,2\n", PERCENT, PERCENT.replace("80", "nan")]
)
def test_traces_that_say_nothing_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match="trace"):
        presences(availability=f"trace:{path}")


def test_an_unknown_availability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="charging-at-night"):
        presences(availability="sometimes")


def sent(folder: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "send"]


def changing(small: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A fleet whose clients come and go in the middle of blocks."""
    path = tmp_path / "trace.csv"
    rows = [f"{client},{at},{at + 150 + 7 * client}" for client in range(6) for at in range(31 * client, 1200, 300)]
    path.write_text("client,from_s,to_s\n" + "\n".join(rows))
    fleet = {**small["fleet"], "availability": f"trace:{path}", "straggler_frac": 0.5, "straggler_slowdown": 2000.0}
    return small | {"fleet": fleet, "budget": {"energy": "300 J", "horizon": "20 min"}, "schedule": {"slot": "20 s"}}


@pytest.mark.parametrize("method", ["budjoule", "fedavg-deadline", "fedavg"])
def test_nobody_sends_while_away_and_what_ran_is_paid(small: dict[str, Any], tmp_path: Path, method: str) -> None:
    config = changing(small, tmp_path)
    config["server"] = {**config["server"], "method": method}
    summary = train(config, output=tmp_path / method).summary
    assert summary["interrupted"] > 0
    assert summary["overspent_clients"] == 0
    there = draw_presences(load_config(config), [False] * 6)
    arrived = [event for event in sent(tmp_path / method) if "lost" not in event]
    assert len(arrived) > 5
    assert all(there[event["client"]].may_work(event["time_s"]) for event in arrived)


def test_a_run_with_comings_and_goings_repeats(small: dict[str, Any], tmp_path: Path, run_bits: Bits) -> None:
    config = changing(small, tmp_path)
    assert run_bits(config) == run_bits(config)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_battery_is_never_spent_beyond_its_charge_and_to_within_a_task_of_it(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = {
        "fleet": {"clients": 4, "link": "lte-2012", "battery": "60 J"},
        "budget": {"energy": "none", "horizon": "30 min"},
        "training": {"local_steps": 2, "batch_size": 4},
        "stop": {"target_accuracy_frac": "none"},
        "schedule": {"policy": "every-block"},
        "server": {"cohort": 4, "buffer_size": 2},
    }
    summary = train(config, seed=seed, output=tmp_path_factory.mktemp("run")).summary
    assert all(60.0 - 35.0 < row["spent_j"] <= 60.0 for row in summary["by_client"])


def test_a_block_that_is_cut_off_is_paid_for_as_long_as_it_ran(small: dict[str, Any], tmp_path: Path) -> None:
    """Blocks that outlast every spell: none ends, and who is there twice as long pays twice as much."""
    path = tmp_path / "trace.csv"
    rows = [f"{client},{at},{at + stay}" for client, stay in (("a", 40), ("b", 20)) for at in range(0, 400, 100)]
    path.write_text("client,from_s,to_s\n" + "\n".join(rows))
    fleet = {"clients": 6, "availability": f"trace:{path}", "straggler_frac": 0.0, "energy_error_frac": 0.0}
    free = {"schedule": {"slot": "none"}, "budget": {"energy": "none", "horizon": "100 h"}, "server": {"cohort": 6}}
    endless = {"fleet": fleet, "training": {"local_steps": 10**6}, **free}
    summary = train(endless, output=tmp_path / "run").summary
    assert (summary["interrupted"], summary["sends"]) == (4 * 6, 0)
    spent_j = [row["spent_by_cause_j"]["compute"] for row in summary["by_client"]]
    assert spent_j[1] > 0.01
    assert spent_j == pytest.approx([2 * spent_j[1], spent_j[1]] * 3, rel=0.05)


DRAINING = {
    "fleet": {"clients": 3, "straggler_frac": 0.0, "link": "lte-2012", "battery": "60 J"},
    "budget": {"energy": "none", "horizon": "2 h"},
    "training": {"local_steps": 2, "batch_size": 4},
    "schedule": {"policy": "every-block", "slot": "30 s"},
    "server": {"cohort": 3, "buffer_size": 2},
    "stop": {"target_accuracy_frac": "none", "duration": "none", "rounds": 100_000},
}


def drain(folder: Path, spells: str) -> dict[str, Any]:
    """The summary of a run whose clients are all charged as these rows say."""
    path = folder.with_suffix(".csv")
    path.write_text(f"client,from_s,to_s,charging\n{spells}")
    return dict(train(DRAINING, output=folder, overrides=[{"fleet": {"availability": f"trace:{path}"}}]).summary)


CHARGING = {
    "while it is away": "a,0,1000,0\na,1100,1200,1\na,1300,7200,0\n",
    "while it is there": "a,0,1000,0\na,1000,1200,1\na,1200,7200,0\n",
    "for a second that it has no other reason to look at": "a,0,70,0\na,70,71,1\na,71,7200,0\n",
}


@pytest.mark.parametrize("when", CHARGING)
def test_a_charger_fills_the_battery_again(when: str, tmp_path: Path) -> None:
    charged, never = drain(tmp_path / "charged", CHARGING[when]), drain(tmp_path / "never", "a,0,7200,0\n")
    charger_s = next(float(row.split(",")[1]) for row in CHARGING[when].splitlines() if row.endswith("1"))
    for row, without in zip(charged["by_client"], never["by_client"], strict=True):
        assert 60.0 - 35.0 < without["spent_j"] <= 60.0
        times_s = [event["time_s"] for event in sent(tmp_path / "charged") if event["client"] == row["client"]]
        assert max(times_s) > charger_s + 40.0
        assert row["spent_j"] > without["spent_j"] + 30.0


def test_what_is_spent_on_a_charger_drains_nothing(tmp_path: Path) -> None:
    """Unplugged while its first frame is on the way, a client has as much left for all others as it had for all."""
    never = drain(tmp_path / "never", "a,0,7200,0\n")
    first = min(sent(tmp_path / "never"), key=lambda event: event["time_s"])
    unplugged_s = first["time_s"] - 1e-6
    charged = drain(tmp_path / "charged", f"a,0,{unplugged_s},1\na,{unplugged_s},7200,0\n")
    rows = [summary["by_client"][first["client"]] for summary in (charged, never)]
    assert rows[0]["spent_j"] > rows[1]["spent_j"] + 0.9 * first["energy_j"]


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("true", "false"), ("True", "no"), ("1.0", "0.0")])
def test_a_trace_says_yes_and_no_in_words_or_numbers(yes: str, no: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"client,from_s,to_s,charging,idle\na,0,100,{yes},{no}\n")
    moment = timelines(str(path), charging=False, unmetered=True)[0](50.0)
    assert (moment.charging, moment.idle) == (True, False)


def test_a_trace_that_says_neither_is_refused_with_what_it_may_say(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("client,from_s,to_s,charging\na,0,100,maybe\n")
    with pytest.raises(UsageError, match="true or false"):
        timelines(str(path), charging=False, unmetered=True)
