"""Laws of the scikit-learn estimator: it is `fit_profile` in scikit-learn's form, and cross-validates over model families."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.utils import estimator_checks
from torch import nn

import budjoule as bj
from budjoule.calibration.estimator import EnergyEstimator
from budjoule.calibration.prior import prior_for
from budjoule.energy.coefficients import COEFFICIENTS, NAMES
from budjoule.energy.device import DeviceProfile

SPEC = bj.load_profile("a100-pcie-40gb").spec
MEAN_ERROR = "neg_mean_absolute_percentage_error"


def true_device() -> DeviceProfile:
    base = prior_for(SPEC, None, name="synthetic")
    shift = 0.5 * np.sqrt(np.diag(base.log_cov)) * np.random.default_rng(3).choice([-1.0, 1.0], len(NAMES))
    return replace(base, log_mean=base.log_mean + shift)


def family(name: str, width: int) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    if name == "norms":
        return nn.Sequential(nn.LayerNorm(width), nn.Softmax(-1), nn.Linear(width, width))
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    true, random = true_device(), np.random.default_rng(0)
    rows, energies, times, families = [], [], [], []
    for name in ("mlp", "norms", "relu"):
        for width, batch in ((256, 512), (1024, 4096), (2048, 65536), (4096, 64)):
            with torch.device("meta"):
                work = bj.trace(family(name, width), torch.empty(batch, width), precision="bf16")
            for clock_hz, limit_w in ((700e6, None), (None, 180.0)):
                e = bj.predict(work, device=true, clock_hz=clock_hz, power_limit_w=limit_w)
                rows.append((work, clock_hz, limit_w))
                energies.append(e.energy_j * np.exp(0.01 * random.standard_normal()))
                times.append(e.duration_s * np.exp(0.01 * random.standard_normal()))
                families.append(name)
    return {
        "X": np.array(rows, dtype=object),
        "y": np.array(energies),
        "duration_s": np.array(times),
        "groups": np.array(families),
    }


@pytest.mark.parametrize("timed", [True, False])
def test_families_never_seen_are_predicted_in_cross_validation(data: dict[str, Any], timed: bool) -> None:
    scores = cross_val_score(
        EnergyEstimator(spec=SPEC),
        data["X"],
        data["y"],
        groups=data["groups"],
        cv=LeaveOneGroupOut(),
        scoring=MEAN_ERROR,
        params={"duration_s": data["duration_s"]} if timed else None,
    )
    assert scores.shape == (3,)
    assert np.all(scores > -0.15)
    prior = prior_for(SPEC, None)
    unfitted = np.array([bj.predict(w, device=prior, clock_hz=c, power_limit_w=p).energy_j for w, c, p in data["X"]])
    assert np.mean(np.abs(unfitted / data["y"] - 1)) > 2 * -scores.mean()


def test_fit_is_fit_profile_and_predict_is_predict(data: dict[str, Any]) -> None:
    observations = [
        bj.Observation(workload=w, duration_s=t, energy_j=e, clock_hz=c, power_limit_w=p)
        for (w, c, p), e, t in zip(data["X"], data["y"], data["duration_s"], strict=True)
    ]
    profile = bj.fit_profile(observations, spec=SPEC, name="x", starts=1)
    by_rows = EnergyEstimator(spec=SPEC, name="x").fit(data["X"], data["y"], duration_s=data["duration_s"])
    by_observations = EnergyEstimator(spec=SPEC, name="x").fit(observations, data["y"])
    for estimator in (by_rows, by_observations):
        assert estimator.coef_ == profile.coef_
        np.testing.assert_array_equal(estimator.profile_.log_cov, profile.log_cov)
    expected = [bj.predict(w, device=profile, clock_hz=c, power_limit_w=p).energy_j for w, c, p in data["X"]]
    np.testing.assert_array_equal(by_rows.predict(data["X"]), expected)
    np.testing.assert_array_equal(by_rows.predict(observations), expected)
    assert by_rows.score(data["X"], data["y"]) > 0.99
    assert [e.energy_j for e in by_rows.estimates(data["X"][:2])] == expected[:2]


def test_group_shares_its_errors(data: dict[str, Any]) -> None:
    rows, y, times = (np.repeat(data[key][:2], 20, axis=0) for key in ("X", "y", "duration_s"))
    alone = EnergyEstimator(spec=SPEC).fit(rows, y, duration_s=times)
    together = EnergyEstimator(spec=SPEC).fit(rows, y, duration_s=times, groups=["one"] * len(y))
    assert np.trace(together.profile_.log_cov) > np.trace(alone.profile_.log_cov)


def test_energies_alone_leave_what_they_do_not_show_at_the_prior(data: dict[str, Any]) -> None:
    profile = EnergyEstimator(spec=SPEC).fit(data["X"], data["y"]).profile_
    timed = EnergyEstimator(spec=SPEC).fit(data["X"], data["y"], duration_s=data["duration_s"]).profile_
    prior = prior_for(SPEC, None)
    time = [row.name for row in COEFFICIENTS if row.scope == "time"]
    assert all(profile.log_sd_[name] > 0.95 * timed.log_sd_[name] for name in time)
    assert any(profile.log_sd_[name] > 1.5 * timed.log_sd_[name] for name in time)
    assert profile.log_sd_["e_tensor_j"] < 0.7 * prior.log_sd_["e_tensor_j"]
    off = np.abs(profile.log_mean - true_device().log_mean) / np.sqrt(np.diag(profile.log_cov))
    assert np.mean(off < 2.5) > 0.9
    assert profile.residual_time == prior.residual_time
    assert np.linalg.eigvalsh(profile.log_cov).min() > 0
    assert profile.provenance["in_sample"]["runs"] == len(data["y"])


def test_single_workload_may_stand_for_its_row(data: dict[str, Any]) -> None:
    works = [row[0] for row in data["X"][:3]]
    fitted = EnergyEstimator(prior="a100-pcie-40gb").fit(works, data["y"][:3])
    np.testing.assert_array_equal(fitted.predict(works), fitted.predict([(w, None, float("nan")) for w in works]))
    np.testing.assert_array_equal(fitted.predict(works), fitted.predict(np.array(works, dtype=object)[:, None]))
    assert fitted.profile_.status == "few-shot"
    assert fitted.profile_.name == "a100-pcie-40gb"


def test_pickle_keeps_the_fit_and_clone_forgets_it(data: dict[str, Any]) -> None:
    estimator = EnergyEstimator(spec=SPEC, name="x", starts=2, seed=5)
    fitted = estimator.fit(data["X"][:2], data["y"][:2])
    elsewhere = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(elsewhere.predict(data["X"]), fitted.predict(data["X"]))
    copy = clone(fitted)
    assert copy.get_params() == estimator.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(data["X"])


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_mixin_order,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learn_takes_it_for_an_estimator(check: Any) -> None:
    check("EnergyEstimator", EnergyEstimator())


def test_bad_rows_are_clear_errors(data: dict[str, Any]) -> None:
    good = EnergyEstimator(spec=SPEC)
    for rows, energies, text in (
        ([1.0], [1.0], "row of X"),
        ([(1, 2, 3)], [1.0], "row of X"),
        ([(*data["X"][0], 1)], [1.0], "row of X"),
        (data["X"][:2], [1.0], "2 rows"),
        (data["X"][:1], [-1.0], "positive"),
        ([], [], "at least one"),
    ):
        with pytest.raises(bj.BudjouleError, match=text):
            good.fit(rows, energies)
    with pytest.raises(bj.BudjouleError, match="spec="):
        EnergyEstimator().fit(data["X"][:1], data["y"][:1])
    with pytest.raises(bj.BudjouleError, match="duration_s"):
        good.fit(data["X"][:2], data["y"][:2], duration_s=[1.0])
