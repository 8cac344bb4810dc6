"""Laws of the fit: a synthetic device gives its coefficients back, few runs move a prior, what no run exercised stays wide."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.fit import (
    GROUP_RUNS,
    PRIOR_RESIDUAL,
    _maximum,
    _residual,
    _soft,
    _weights,
    covering,
    fit_pooled,
)
from budjoule.calibration.prior import prior_for
from budjoule.energy.coefficients import INDEX, NAMES
from budjoule.energy.device import DeviceProfile
from budjoule.energy.predict import HALF_WIDTH_SCALES


def synthetic(seed: int = 0) -> DeviceProfile:
    """A device whose true coefficients lie half a prior's width off."""
    base = prior_for(bj.load_profile("a100-pcie-40gb").spec, None, name="synthetic")
    shift = 0.5 * np.sqrt(np.diag(base.log_cov)) * np.random.default_rng(seed).choice([-1.0, 1.0], len(NAMES))
    return replace(base, log_mean=base.log_mean + shift)


def runs(device: DeviceProfile, noise: float = 0.0, energy: bool = True) -> list[bj.Observation]:
    random = np.random.default_rng(1)
    found = []
    for precision in ("fp32", "bf16"):
        for width, batch in ((64, 1), (256, 64), (1024, 256), (2048, 4096), (4096, 16384), (128, 262144), (8192, 16)):
            work = bj.trace(
                nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)),
                torch.empty(batch, width),
                precision=precision,
            )
            for clock_hz in (700e6, 1100e6, 1400e6):
                e = bj.predict(work, device=device, clock_hz=clock_hz)
                wobble = np.exp(noise * random.standard_normal(2))
                found.append(
                    bj.Observation(
                        workload=work,
                        duration_s=e.duration_s * wobble[0],
                        energy_j=e.energy_j * wobble[1] if energy else None,
                        clock_hz=e.clock_hz,
                    )
                )
    return found


def test_a_synthetic_device_gives_its_identifiable_coefficients_back() -> None:
    true = synthetic()
    fitted = bj.fit_profile(runs(true, noise=0.01), spec=true.spec, name="synthetic", starts=1)
    pinned = [name for name in NAMES if fitted.log_sd_[name] < 0.05]
    assert len(pinned) >= 3
    for name in pinned:
        assert fitted.coef_[name] == pytest.approx(true.coef_[name], rel=0.1), name


def test_coefficients_lie_within_their_posterior() -> None:
    true = synthetic(1)
    fitted = bj.fit_profile(runs(true, noise=0.02), spec=true.spec, name="synthetic", starts=1)
    off = np.abs(fitted.log_mean - true.log_mean) / np.sqrt(np.diag(fitted.log_cov))
    assert np.mean(off < 2.5) > 0.9


def test_a_fit_to_runs_under_power_limits_ends_at_the_same_place_wherever_it_starts() -> None:
    true, random = synthetic(3), np.random.default_rng(2)
    rows = []
    for width, batch in ((256, 64), (512, 256), (1024, 256), (2048, 1024), (2048, 4096)):
        work = bj.trace(nn.Sequential(nn.Linear(width, width), nn.GELU()), torch.empty(batch, width), precision="bf16")
        for limit_w in np.arange(75.0, 251.0, 25.0):
            e = bj.predict(work, device=true, power_limit_w=limit_w)
            wobble = np.exp(0.05 * random.standard_normal(2))
            rows.append(
                bj.Observation(
                    workload=work,
                    duration_s=e.duration_s * wobble[0],
                    energy_j=e.energy_j * wobble[1],
                    power_limit_w=limit_w,
                )
            )
    prior = prior_for(true.spec, None, name="synthetic")
    root = np.linalg.cholesky(prior.log_cov)
    starts = [prior.log_mean + 0.5 * root @ random.standard_normal(len(NAMES)) for _ in range(3)]
    found = [_maximum([(rows, prior)], prior.log_mean, root, start) for start in starts]
    for place, _, objective in found[1:]:
        assert objective == pytest.approx(found[0][2], rel=1e-5)
        assert np.max(np.abs(np.linalg.solve(root, place - found[0][0]))) < 0.02


def test_runs_under_limits_tell_what_the_limit_did() -> None:
    """Energies under limits alone: who took them for free runs would find a clock and a power that there were not."""
    true = synthetic(4)
    rows = []
    for width, batch in ((1024, 4096), (2048, 4096), (4096, 8192)):
        work = bj.trace(nn.Sequential(nn.Linear(width, width), nn.GELU()), torch.empty(batch, width), precision="bf16")
        for limit_w in (120.0, 140.0, 160.0, 180.0, 200.0):
            e = bj.predict(work, device=true, power_limit_w=limit_w)
            assert e.power_limited
            rows.append(
                bj.Observation(
                    workload=work, duration_s=e.duration_s, energy_j=e.energy_j, power_limit_w=limit_w, group=str(width)
                )
            )
    fitted = bj.fit_profile(rows, spec=true.spec, name="synthetic", starts=1)
    for o in rows:
        e = bj.predict(o.workload, device=fitted, power_limit_w=o.power_limit_w)
        assert (e.duration_s, e.energy_j) == pytest.approx((o.duration_s, o.energy_j), rel=0.02)
    assert fitted.coef_["eff_tensor"] == pytest.approx(true.coef_["eff_tensor"], rel=0.1)


def test_a_covering_profile_holds_nine_in_ten_of_what_its_fit_had_not_seen() -> None:
    true = synthetic()
    fitted = bj.fit_profile(runs(true, noise=0.01), spec=true.spec, name="synthetic", starts=1)
    errors = np.random.default_rng(0).standard_t(3, (400, 2)) * (0.2, 0.3)
    unseen = np.expm1(errors)
    wide = covering(fitted, unseen)
    for residual, column in ((wide.residual_energy, 0), (wide.residual_time, 1)):
        assert np.mean(np.abs(errors[:, column]) <= HALF_WIDTH_SCALES * residual) == pytest.approx(0.9, abs=0.01)
    assert covering(wide, 1e-3 * unseen).residual_energy == wide.residual_energy  # never narrower


@pytest.mark.parametrize("scale", [0.01, 0.04])
def test_the_models_own_error_is_that_of_its_runs(scale: float) -> None:
    """Of many Gaussian errors the median tells the scale; of few, mostly the prior does."""
    errors = scale * np.random.default_rng(0).standard_normal(4000)
    assert _residual(errors, PRIOR_RESIDUAL) == pytest.approx(scale, rel=0.15)
    assert _residual(errors[:2], PRIOR_RESIDUAL) > 0.8 * PRIOR_RESIDUAL


def test_a_group_of_any_size_weighs_as_so_many_runs() -> None:
    run = runs(synthetic())[0]
    single = [replace(run, group="") for _ in range(int(GROUP_RUNS))]
    for size in (GROUP_RUNS, 4 * GROUP_RUNS, 7 * GROUP_RUNS):
        crowd = [replace(run, group="model") for _ in range(int(size))]
        assert np.sum(_weights(crowd) ** 2) == pytest.approx(np.sum(_weights(single) ** 2))
    few = [replace(run, group="model")] * 2
    assert np.all(_weights(few) == 1)


def test_joules_a_flop_move_half_way_with_what_the_datasheets_say() -> None:
    base = bj.load_profile("a100-pcie-40gb")
    twice = replace(base.spec, flop_per_clock={name: 4 * rate for name, rate in base.spec.flop_per_clock.items()})
    moved = prior_for(twice, base, name="new")
    for name in ("e_tensor_j", "e_tf32_j", "e_fp32_j"):
        assert moved.coef_[name] == pytest.approx(base.coef_[name] / 2)
    assert moved.residual_energy > base.residual_energy + 0.1
    assert moved.residual_time > base.residual_time + 0.1


def test_what_no_run_exercised_keeps_its_prior() -> None:
    true = synthetic()
    fitted = bj.fit_profile(runs(true), spec=true.spec, name="synthetic", starts=1)
    prior = prior_for(true.spec, None)
    for name in ("eff_depthwise", "t_conv_s", "zeros_frac"):
        assert name not in fitted.exercised
        assert fitted.log_sd_[name] == pytest.approx(prior.log_sd_[name], rel=0.02)
    assert "eff_tensor" in fitted.exercised


def test_time_alone_leaves_energy_at_its_prior() -> None:
    true = synthetic()
    fitted = bj.fit_profile(runs(true, energy=False), spec=true.spec, name="synthetic", starts=1)
    assert fitted.log_mean[INDEX["e_tensor_j"]] == pytest.approx(
        prior_for(true.spec, None).log_mean[INDEX["e_tensor_j"]]
    )
    assert fitted.status != "fitted"
    assert "eff_tensor" in fitted.exercised


def test_few_runs_move_a_prior_from_another_device() -> None:
    true = synthetic(2)
    rows = runs(true)
    before = bj.load_profile("a10-pcie-24gb")
    profile = bj.fit_profile(rows[::9], spec=true.spec, prior=before, name="synthetic", starts=1)
    assert profile.status == "few-shot"
    unseen = rows[1::9]
    error = {
        name: np.mean(
            [abs(np.log(bj.predict(o.workload, device=p, clock_hz=o.clock_hz).energy_j / o.energy_j)) for o in unseen]
        )
        for name, p in (("prior", prior_for(true.spec, before)), ("fit", profile))
    }
    assert error["fit"] < 0.5 * error["prior"]


def test_pooling_lets_one_device_learn_from_another() -> None:
    a, b = synthetic(3), replace(synthetic(3), name="other")
    prior = prior_for(a.spec, None, name="a")
    fits = fit_pooled({"a": runs(a), "b": runs(b)[9:12]}, {"a": prior, "b": prior})
    alone = bj.fit_profile(runs(b)[9:12], spec=b.spec, name="b", starts=1)
    i = INDEX["e_fp32_j"]
    assert fits["b"].log_cov[i, i] < alone.log_cov[i, i]
    assert abs(fits["b"].log_mean[i] - b.log_mean[i]) < abs(alone.log_mean[i] - b.log_mean[i])


def test_soft_loss_is_square_near_zero_and_linear_far_away() -> None:
    z = np.array([1e-9, -1e-9, 1e6])
    np.testing.assert_allclose(_soft(z)[:2], z[:2])
    assert _soft(z)[2] ** 2 / 2 == pytest.approx(1e6, rel=1e-5)


def test_no_observation_or_no_device_is_a_clear_error() -> None:
    with pytest.raises(bj.BudjouleError, match="at least one"):
        bj.fit_profile([], prior="cpu-generic")
    with pytest.raises(bj.BudjouleError, match="spec="):
        bj.fit_profile(runs(synthetic())[:1])
    with pytest.raises(bj.BudjouleError, match="positive"):
        bj.Observation(workload=runs(synthetic())[0].workload, duration_s=0.0)
