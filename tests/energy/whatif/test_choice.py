"""Laws of choosing: the chosen setting has the least of what was asked for, and its saving is the ratio of two estimates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import budjoule as bj
from budjoule.energy.device import DeviceProfile
from budjoule.energy.model_spec import parse_inputs
from budjoule.energy.predict import HALF_WIDTH_SCALES, UNRULED_SD
from budjoule.energy.whatif.choice import Choice, _log_energies, best_of, choose, parse_goal, split_axes
from budjoule.energy.whatif.sweep import Sweep, parse_axes, sweep
from budjoule.energy.workload import Workload

DEVICE = "v100-pcie-32gb"
AXES = ("batch=2,8,32", "power-limit-w=100..250:10")


@pytest.fixture(scope="module")
def works() -> dict[int | None, Workload]:
    with torch.device("meta"):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3))
    traced = {
        batch: bj.trace(net, parse_inputs("8x3x64x64", batch=batch), mode="training", optimizer="sgd")
        for batch in (2, 8, 32)
    }
    return {**traced, None: traced[8]}


@pytest.fixture(scope="module")
def found(works: dict[int | None, Workload]) -> Sweep:
    return sweep(works.__getitem__, [bj.load_profile(DEVICE)], parse_axes(AXES))


def chosen(found: Sweep, works: dict[int | None, Workload], goal: str, **at: float) -> Choice:
    (choice,) = choose(found, parse_goal(goal), [bj.load_profile(DEVICE)], works[None], **at)
    return choice


def test_choice_has_the_least_of_what_was_asked(found: Sweep, works: dict[int | None, Workload]) -> None:
    assert chosen(found, works, "energy").point.example_energy_j == min(p.example_energy_j for p in found.points)
    assert chosen(found, works, "edp").point.energy_delay == min(p.energy_delay for p in found.points)
    quickest_s = min(p.example_duration_s for p in found.points)
    for slowdown in (1.0, 1.05, 1.3):
        point = chosen(found, works, f"energy@{slowdown}x-time").point
        allowed = [p for p in found.points if p.example_duration_s <= slowdown * quickest_s]
        assert point in allowed
        assert point.example_energy_j == min(p.example_energy_j for p in allowed)


def test_more_time_never_costs_energy_and_ends_at_the_least(found: Sweep, works: dict[int | None, Workload]) -> None:
    default = chosen(found, works, "energy").default
    energies = [
        best_of(found.points, parse_goal(f"energy@{1 + i / 10}x-time"), default).example_energy_j for i in range(40)
    ]
    assert energies == sorted(energies, reverse=True)
    assert len(set(energies)) > 2
    assert energies[-1] == best_of(found.points, parse_goal("energy"), default).example_energy_j


def test_saving_is_the_ratio_of_two_predictions_within_its_interval(
    found: Sweep, works: dict[int | None, Workload]
) -> None:
    choice = chosen(found, works, "energy")
    default = bj.predict(works[8], device=DEVICE)
    here = bj.predict(works[choice.point.batch], device=DEVICE, power_limit_w=choice.point.power_limit_w)
    assert choice.default.estimate.energy_j == default.energy_j
    ratio = (here.energy_j / choice.point.batch) / (default.energy_j / 8)
    assert choice.saving_frac == pytest.approx(1 - ratio)
    assert choice.saving_low_frac < choice.saving_frac < choice.saving_high_frac < 1
    alone = (1 - choice.saving_low_frac) / (1 - choice.saving_frac)
    # what the two estimates share does not widen their ratio
    assert alone < default.energy_high_j / default.energy_j * here.energy_high_j / here.energy_j


def test_saving_turns_round_with_what_is_compared(works: dict[int | None, Workload]) -> None:
    profile = bj.load_profile(DEVICE)

    def compared(axis: str, **at: float) -> Choice:
        one = sweep(works.__getitem__, [profile], parse_axes([axis]))
        return chosen(one, works, "energy", **at)

    there = compared("power-limit-w=150")
    back = compared("power-limit-w=250", power_limit_w=150.0)
    assert 1 - there.saving_frac == pytest.approx(1 / (1 - back.saving_frac))
    assert 1 - there.saving_low_frac == pytest.approx(1 / (1 - back.saving_high_frac))
    assert 1 - there.saving_high_frac == pytest.approx(1 / (1 - back.saving_low_frac))
    assert (1 + there.slowdown_frac) * (1 + back.slowdown_frac) == pytest.approx(1)


def test_default_chosen_saves_nothing_for_certain(works: dict[int | None, Workload]) -> None:
    one = sweep(works.__getitem__, [bj.load_profile(DEVICE)], parse_axes(["batch=8"]))
    choice = chosen(one, works, "edp")
    assert (choice.saving_low_frac, choice.saving_frac, choice.saving_high_frac) == (0, 0, 0)
    assert choice.slowdown_frac == 0


def test_a_limit_that_does_not_bind_saves_nothing_but_not_for_certain() -> None:
    """That it does not bind is itself an estimate."""
    profile = bj.load_profile(DEVICE)
    with torch.device("meta"):
        small = bj.trace(torch.nn.Linear(64, 64), torch.empty(8, 64), mode="training", optimizer="sgd")
    assert not bj.predict(small, device=profile, power_limit_w=249.0).power_limited
    one = sweep({None: small}.__getitem__, [profile], parse_axes(["power-limit-w=249"]))
    (choice,) = choose(one, parse_goal("energy"), [profile], small)
    assert choice.saving_frac == 0
    assert choice.saving_low_frac < 0 < choice.saving_high_frac < 0.3


def test_slow_down_counts_from_what_runs_now(works: dict[int | None, Workload]) -> None:
    """All of these limits are slower than that by more than a hundredth, so nothing is to be changed."""
    profile = bj.load_profile(DEVICE)
    one = sweep(works.__getitem__, [profile], parse_axes(["power-limit-w=100,110"]))
    quickest_s = min(p.example_duration_s for p in one.points)
    choice = chosen(one, works, "energy@1.01x-time")
    assert quickest_s > 1.01 * choice.default.example_duration_s
    assert choice.point is choice.default
    assert (choice.saving_low_frac, choice.saving_frac, choice.saving_high_frac, choice.slowdown_frac) == (0, 0, 0, 0)


def test_no_saving_reaches_beyond_what_the_two_estimates_allow(works: dict[int | None, Workload]) -> None:
    board = bj.load_profile("khadas-vim4")
    free_w = bj.predict(works[8], device=board).power_w
    low_w = bj.predict(works[8], device=board, clock_hz=board.spec.lowest_hz).power_w
    one = sweep(works.__getitem__, [board], parse_axes([f"power-limit-w={0.7 * low_w + 0.3 * free_w:.3f}"]))
    (choice,) = choose(one, parse_goal("energy"), [board], works[8])
    here, there = choice.point.estimate, choice.default.estimate
    assert choice.saving_low_frac >= 1 - here.energy_high_j / there.energy_low_j
    assert choice.saving_high_frac <= 1 - here.energy_low_j / there.energy_high_j


def test_nothing_is_chosen_that_the_memory_cannot_hold(works: dict[int | None, Workload]) -> None:
    small = bj.load_profile(DEVICE)
    small = replace(small, spec=replace(small.spec, memory_bytes=1e6))
    found = sweep(works.__getitem__, [small], parse_axes(["batch=8,32"]))
    with pytest.raises(bj.BudjouleError, match="smaller batches"):
        choose(found, parse_goal("energy"), [small], works[8])


def test_a_device_given_twice_is_refused(works: dict[int | None, Workload]) -> None:
    profile = bj.load_profile(DEVICE)
    with pytest.raises(bj.BudjouleError, match="given twice"):
        sweep(works.__getitem__, [profile, replace(profile, title="another")], parse_axes(["batch=8"]))


def test_of_the_models_own_error_half_counts_between_limits_and_all_between_batch_sizes(
    works: dict[int | None, Workload],
) -> None:
    """With coefficients that are known for certain nothing else is left, but for ops without a rule."""
    sure = bj.load_profile(DEVICE)
    sure = replace(sure, log_cov=np.zeros_like(sure.log_cov), residual_energy=0.05)
    for axis, share in (("power-limit-w=200", 0.5), ("batch=32", 1.0)):
        choice = chosen_by(sure, works, axis)
        expected = np.exp(2 * HALF_WIDTH_SCALES * share * 0.05)
        assert (1 - choice.saving_low_frac) / (1 - choice.saving_high_frac) == pytest.approx(expected)
    unruled = {
        batch: replace(work, ops=tuple(replace(op, ruled=op.kind != "conv") for op in work.ops))
        for batch, work in works.items()
    }
    choice = chosen_by(sure, unruled, "power-limit-w=200")
    frac = max(choice.point.estimate.unruled_energy_frac, choice.default.estimate.unruled_energy_frac)
    assert frac > 0.3
    expected = np.exp(2 * HALF_WIDTH_SCALES * np.hypot(0.5 * 0.05, UNRULED_SD * frac))
    assert (1 - choice.saving_low_frac) / (1 - choice.saving_high_frac) == pytest.approx(expected)


def test_a_locked_clock_is_compared_at_that_clock(works: dict[int | None, Workload]) -> None:
    """Where only the residual counts, a saving between two clocks is what two predictions at these clocks say, limits or not."""
    profile = bj.load_profile(DEVICE)
    one = sweep(works.__getitem__, [profile], parse_axes(["clock-mhz=900"]))
    choice = chosen(one, works, "energy", clock_hz=1.2e9)
    here, there = (bj.predict(works[8], device=profile, clock_hz=hz) for hz in (0.9e9, 1.2e9))
    assert choice.saving_frac == pytest.approx(1 - here.energy_j / there.energy_j)
    each = _log_energies(choice.point, profile) - _log_energies(choice.default, profile)
    scale = np.sqrt(np.sum((each[1:] - each[0]) ** 2) + (0.5 * profile.residual_energy) ** 2)
    assert each[0] == pytest.approx(np.log(here.energy_j / there.energy_j))
    width = np.log((1 - choice.saving_low_frac) / (1 - choice.saving_high_frac))
    assert width == pytest.approx(2 * HALF_WIDTH_SCALES * scale)


def chosen_by(profile: DeviceProfile, works: dict[int | None, Workload], axis: str) -> Choice:
    found = sweep(works.__getitem__, [profile], parse_axes([axis]))
    (choice,) = choose(found, parse_goal("energy"), [profile], works[None])
    return choice


def test_limit_is_surer_than_another_batch_size(works: dict[int | None, Workload]) -> None:
    profile = bj.load_profile(DEVICE)
    widths = []
    for axis in ("power-limit-w=200", "batch=32"):
        choice = chosen(sweep(works.__getitem__, [profile], parse_axes([axis])), works, "energy")
        widths.append((1 - choice.saving_low_frac) / (1 - choice.saving_high_frac))
    assert 1 < widths[0] < widths[1]


def test_axes_in_one_text_are_those_given_apart() -> None:
    for axes in (list(AXES), ["clock-mhz=510..600:90"], ["batch=1,2,4..16", "clock-mhz=600,700", "power-limit-w=100"]):
        assert parse_axes(split_axes(",".join(axes))) == parse_axes(axes)


@pytest.mark.parametrize(
    "text", ["", "time", "energy@x-time", "energy@0.9x-time", "energy@1.1", "Energy", "edp@2x-time"]
)
def test_goal_that_cannot_be_read_is_a_clear_error(text: str) -> None:
    with pytest.raises(bj.BudjouleError, match=r"energy|time"):
        parse_goal(text)
