"""Links: the sources' own numbers, the laws of promotion and tail, bounds that hold, and rates that depend on the seed alone."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.links.link_state import parse_link_state
from budjoule.training.links.links import links, load_link

RADIOS = [name for name, link in links().items() if not link.broadcast]
TAILED = [name for name in RADIOS if load_link(name).tail_s]


def test_every_link_of_the_table_is_there_with_its_source():
    assert set(links()) == {
        "lte-2012",
        "wifi-2012",
        "3g-2012",
        "lte-2021",
        "5g-low-2021",
        "5g-mmwave-2021",
        "wifi-pi",
        "radio-broadcast",
    }
    for link in links().values():
        assert len(link.source) > 20
        assert set(link.assumed) <= set(link.__slots__)


@pytest.mark.parametrize(
    ("name", "rate_mbit_per_s", "up_mw", "down_mw"),
    [
        ("lte-2012", 2, 1288 + 438.4 * 2, 1288 + 52.0 * 2),
        ("wifi-2012", 3, 132.9 + 283.2 * 3, 132.9 + 137.0 * 3),
        ("3g-2012", 1, 817.9 + 869.0, 817.9 + 122.1),
        ("lte-2021", 10, 2868 + 810, 2709 + 151),
        ("5g-low-2021", 10, 3207 + 325, 2893 + 150),
        ("5g-mmwave-2021", 100, 5643 + 914, 5226 + 176),
        ("wifi-pi", 10, 64 + 48, 57 + 48),
    ],
)
def test_power_while_transferring_is_the_sources_line(name, rate_mbit_per_s, up_mw, down_mw):
    link, rate = load_link(name), rate_mbit_per_s * 1e6
    one_second_bytes = round(rate / 8)
    # Inside a tail that is paid in full, a second more is a second of the transfer's power.
    up_j = link.uplink_energy_j(one_second_bytes, rate_bit_per_s=rate, tail_paid_s=link.tail_s or 1)
    down_j = link.downlink_energy_j(one_second_bytes, rate_bit_per_s=rate, tail_paid_s=link.tail_s or 1)
    base_w = 0.0 if name == "wifi-pi" else link.base_w  # PowerPi's line is above idle already
    assert up_j + base_w == pytest.approx(up_mw / 1000, rel=1e-9)
    assert down_j + base_w == pytest.approx(down_mw / 1000, rel=1e-9)


def test_a_small_upload_on_lte_is_its_tail():
    link = load_link("lte-2012")
    assert link.tail_w * link.tail_s == pytest.approx(12.3, abs=0.01)
    whole_j = link.uplink_energy_j(10_000)
    assert link.uplink_energy_j(10_000, tail_paid_s=link.tail_s) == pytest.approx(0.0533, abs=1e-3)
    assert whole_j > 12.6


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(RADIOS),
    size=st.integers(0, 10**7),
    more=st.integers(0, 10**6),
    paid_frac=st.floats(0, 1),
    slower=st.floats(0.01, 1),
)
def test_energy_grows_with_bytes_and_falls_with_the_tail_already_paid(name, size, more, paid_frac, slower):
    link = load_link(name)
    paid_s = paid_frac * link.tail_s
    for energy_j, rate in (
        (link.uplink_energy_j, link.rate_up_bit_per_s),
        (link.downlink_energy_j, link.rate_down_bit_per_s),
    ):
        now_j = energy_j(size, tail_paid_s=paid_s)
        assert 0 <= now_j <= energy_j(size) + 1e-12
        assert energy_j(size + more, tail_paid_s=paid_s) >= now_j
        assert energy_j(size, rate_bit_per_s=slower * rate, tail_paid_s=paid_s) >= now_j * (1 - 1e-12)
    slow = link.upload_duration_s(size, rate_bit_per_s=slower * link.rate_up_bit_per_s)
    assert slow >= link.upload_duration_s(size) >= link.upload_duration_s(size, awake=True) >= 0
    assert link.download_duration_s(size) >= link.download_duration_s(size, awake=True)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(RADIOS),
    up=st.integers(0, 10**6),
    down=st.integers(0, 10**6),
    lowest=st.floats(0.01, 1),
    above=st.floats(0, 1),
    paid_frac=st.floats(0, 1),
)
def test_no_transfer_costs_more_than_its_upper_bound(name, up, down, lowest, above, paid_frac):
    link = load_link(name)
    rate_frac = lowest + above * (1 - lowest)
    up_j, down_j = link.exchange_energy_j(up, down, rate_frac=rate_frac, tail_paid_s=paid_frac * link.tail_s)
    bound_up_j = link.uplink_upper_j(up, lowest_rate_frac=lowest)
    bound_down_j = link.downlink_upper_j(down, lowest_rate_frac=lowest)
    assert up_j <= bound_up_j * (1 + 1e-12)
    assert down_j <= bound_down_j * (1 + 1e-12)
    assert link.uplink_upper_j(up, lowest_rate_frac=lowest, retries=2) == pytest.approx(3 * bound_up_j)


@pytest.mark.parametrize("name", RADIOS)
def test_an_exchange_pays_one_promotion_and_one_tail(name):
    link = load_link(name)
    apart_j = link.uplink_energy_j(1000) + link.downlink_energy_j(2000)
    saved_j = apart_j - sum(link.exchange_energy_j(1000, 2000))
    assert saved_j == pytest.approx(link.promotion_w * link.promotion_s + link.tail_w * link.tail_s)


@pytest.mark.parametrize("name", TAILED)
def test_two_sends_in_one_tail_cost_no_more_than_the_radio_was_awake_for(name):
    link = load_link(name)
    gap_s = link.tail_s / 3
    first_j = link.uplink_energy_j(0)
    second_j = link.uplink_energy_j(0, tail_paid_s=link.tail_s - gap_s)
    awake_j = link.promotion_w * link.promotion_s + link.tail_w * (gap_s + link.tail_s)
    assert first_j + second_j == pytest.approx(awake_j)


def test_a_broadcast_receiver_pays_by_multiplication_and_sends_nothing():
    radio = load_link("radio-broadcast")
    assert radio.broadcast_energy_j(10**9) == pytest.approx(6e-6)
    assert radio.broadcast_energy_j(10**9, audio=True) == pytest.approx(2.8e-6)
    with pytest.raises(UsageError, match="is a broadcast"):
        radio.uplink_energy_j(1)
    with pytest.raises(UsageError, match="is no broadcast"):
        load_link("lte-2012").broadcast_energy_j(1)


def test_an_unknown_link_and_impossible_transfers_are_refused():
    with pytest.raises(UsageError, match="unknown link 'lte'; give one of lte-2012"):
        load_link("lte")
    link = load_link("lte-2012")
    with pytest.raises(UsageError, match="moves nothing"):
        link.uplink_energy_j(1, rate_bit_per_s=0)
    with pytest.raises(UsageError, match="may be negative"):
        link.uplink_energy_j(-1)
    with pytest.raises(UsageError, match="may be negative"):
        link.uplink_energy_j(1, tail_paid_s=-1)


SPECS = ["constant", "two-state:8", "two-state:3:10 s", "diurnal:8", "diurnal:4:1 h", "adversarial:8", "busy:5 min"]


@settings(max_examples=40, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    seed=st.integers(0, 2**31),
    client=st.integers(0, 10_000),
    times=st.lists(st.floats(0, 20_000), min_size=1, max_size=20),
)
def test_rates_depend_on_seed_client_and_time_alone_and_stay_above_the_lowest(spec, seed, client, times):
    state = parse_link_state(spec, seed=seed, client=client)
    shares = [state.rate_frac(time_s) for time_s in times]
    fresh = parse_link_state(spec, seed=seed, client=client)
    others = [state.other_traffic_s(time_s) for time_s in times]
    assert [fresh.rate_frac(time_s) for time_s in reversed(times)] == shares[::-1]
    assert [fresh.other_traffic_s(time_s) for time_s in reversed(times)] == others[::-1]
    assert all(state.lowest_rate_frac - 1e-12 <= share <= 1 for share in shares)


def test_two_state_dwells_a_minute_in_each_of_two_states():
    state = parse_link_state("two-state:8", seed=1, client=2)
    path = [state.rate_frac(float(time_s)) for time_s in range(200_000)]
    assert set(path) == {1.0, 0.125}
    switches = sum(a != b for a, b in pairwise(path))
    # 3,333 dwells expected; seconds between two looks hide the shortest.
    assert 200_000 / switches == pytest.approx(60, rel=0.08)
    assert path.count(1.0) / len(path) == pytest.approx(0.5, abs=0.05)


def test_clients_have_paths_of_their_own():
    for spec in ("two-state:8", "diurnal:8", "adversarial:8"):
        paths = {
            tuple(parse_link_state(spec, seed=0, client=client).rate_frac(60.0 * n) for n in range(50))
            for client in range(20)
        }
        assert len(paths) == 20


def test_diurnal_comes_back_every_period_and_reaches_both_ends():
    state = parse_link_state("diurnal:8:1 h", seed=3, client=1)
    day = [state.rate_frac(float(time_s)) for time_s in range(0, 3600, 5)]
    assert min(day) == pytest.approx(1 / 8, rel=1e-3)
    assert max(day) == pytest.approx(1, rel=1e-3)
    assert state.rate_frac(7200.0 + 77) == pytest.approx(state.rate_frac(77.0))


def test_adversarial_legs_double_and_turn_round():
    state = parse_link_state("adversarial:8:100 s", seed=5, client=0)
    leg_s = state.leg_s
    assert 100 / 2**0.5 <= leg_s <= 100 * 2**0.5
    turns = [state.rate_frac(leg_s * (2**leg - 1)) for leg in range(6)]
    assert turns == pytest.approx([1 / 8, 1, 1 / 8, 1, 1 / 8, 1])
    for leg in range(5):
        path = [state.rate_frac(leg_s * (2**leg * (1 + place / 50) - 1)) for place in range(50)]
        steps = [after > before for before, after in pairwise(path)]
        assert all(steps) if leg % 2 == 0 else not any(steps)


def test_other_traffic_comes_as_often_as_said_and_never_from_the_future():
    state = parse_link_state("busy:5 min", seed=2, client=7)
    assert state.other_traffic_s(0.0) < 0
    seen = {state.other_traffic_s(float(time_s)) for time_s in range(0, 300_000, 3)} - {-math.inf}
    assert len(seen) == pytest.approx(1000, rel=0.1)  # those of the same three seconds are seen as one
    assert all(state.other_traffic_s(time_s) == time_s for time_s in seen)
    assert all(state.other_traffic_s(float(time_s)) <= time_s for time_s in range(0, 3000, 7))


def test_a_trace_is_replayed_over_and_over(tmp_path):
    file = tmp_path / "walk.csv"
    file.write_text("time_s,rate_frac\n0,1\n10,0.25\n20,0.5\n")
    state = parse_link_state(f"trace:{file}", seed=0, client=0)
    assert state.lowest_rate_frac == 0.25
    path = [state.rate_frac(float(time_s)) for time_s in range(60)]
    assert path[:30] == path[30:]
    assert sorted(set(path)) == [0.25, 0.5, 1.0]
    assert path.count(1.0) == path.count(0.25) == path.count(0.5) == 20


@pytest.mark.parametrize(
    "rows",
    [
        "",
        "time_s,rate_frac\n",
        "time_s,rate_frac\n5,1\n",
        "time_s,rate_frac\n0,1\n0,1\n",
        "time_s,rate_frac\n0,0\n",
        "a,b\n1,2\n",
        "time_s,rate_frac\n0,x\n",
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path, rows):
    file = tmp_path / "bad.csv"
    file.write_text(rows)
    with pytest.raises(UsageError, match="the link trace"):
        parse_link_state(f"trace:{file}", seed=0, client=0)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "steady",
        "two-state",
        "two-state:0.5",
        "two-state:x",
        "diurnal:inf",
        "adversarial",
        "busy",
        "busy:0 s",
        "two-state:8:-1 s",
        "trace:",
        "trace:/no/such/file",
    ],
)
def test_a_state_that_means_nothing_is_refused(spec):
    with pytest.raises(UsageError):
        parse_link_state(spec, seed=0, client=0)
