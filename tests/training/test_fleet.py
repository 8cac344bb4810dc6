"""Who the clients are: shares in whole numbers, stragglers as asked, truths within the stated error."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.clients.fleet import draw_fleet
from budjoule.training.config.config import load_config


@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(1, 60),
    share=st.floats(0.01, 0.99),
    frac=st.floats(0, 1),
    error=st.floats(0, 0.9),
    seed=st.integers(0, 9),
)
def test_a_fleet_is_what_was_asked_for(clients: int, share: float, frac: float, error: float, seed: int) -> None:
    device = {"raspberry-pi-5": share, "jetson-orin-nano": 1 - share}
    fleet = {"clients": clients, "device": device, "straggler_frac": frac, "energy_error_frac": error}
    config = load_config({"fleet": fleet}, seed=seed)
    members = draw_fleet(config)
    assert [member.client for member in members] == list(range(clients))
    assert abs(sum(member.device == "raspberry-pi-5" for member in members) - share * clients) < 1
    assert sum(member.straggler for member in members) == round(frac * clients)
    for member in members:
        assert abs(member.compute_truth - 1) <= error + 1e-12
        assert abs(member.link_truth - 1) <= error + 1e-12
        assert 0 <= member.phase_s < 60
    assert members == draw_fleet(config)


def test_one_trait_does_not_move_another() -> None:
    plain = draw_fleet(load_config({}))
    slowed = draw_fleet(load_config({"fleet": {"straggler_frac": 0.9, "link": {"lte-2012": 0.5, "wifi-pi": 0.5}}}))
    assert [m.compute_truth for m in plain] == [m.compute_truth for m in slowed]
    assert [m.phase_s for m in plain] == [m.phase_s for m in slowed]


@pytest.mark.parametrize(("link", "reason"), [("radio-broadcast", "broadcast"), ("string-and-cans", "unknown link")])
def test_links_that_carry_no_updates_are_refused(link: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        draw_fleet(load_config({"fleet": {"link": link}}))


def test_slowness_lies_between_its_ends_and_is_exact_where_they_meet() -> None:
    drawn = draw_fleet(load_config({"fleet": {"straggler_frac": 1.0, "straggler_slowdown": [5.0, 20.0]}}))
    assert all(5.0 <= member.slowdown <= 20.0 for member in drawn)
    assert len({member.slowdown for member in drawn}) == len(drawn)
    same = draw_fleet(load_config({"fleet": {"straggler_frac": 1.0, "straggler_slowdown": 10.0}}))
    assert {member.slowdown for member in same} == {10.0}


def test_slowness_lies_evenly_on_a_logarithmic_scale() -> None:
    fleet = {"straggler_frac": 1.0, "straggler_slowdown": [1.0, 100.0], "clients": 1000}
    slowdowns = [member.slowdown for member in draw_fleet(load_config({"fleet": fleet}))]
    assert sum(slowdown < 10.0 for slowdown in slowdowns) == pytest.approx(500, abs=60)


def test_what_is_true_of_computing_says_nothing_of_the_link() -> None:
    members = draw_fleet(load_config({"fleet": {"clients": 500, "energy_error_frac": 0.3}}))
    compute, link = ([getattr(m, name) for m in members] for name in ("compute_truth", "link_truth"))
    assert abs(statistics.correlation(compute, link)) < 0.15
