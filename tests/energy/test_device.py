"""Laws of profiles: save and load is identity, malformed files are named, every shipped profile says where it comes from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import budjoule as bj
from budjoule.energy.device import profile_paths


@pytest.fixture(autouse=True)
def _no_user_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.mark.parametrize("name", ["a100-pcie-40gb", "cpu-generic"])
def test_save_and_load_is_identity(name: str, tmp_path: Path) -> None:
    profile = bj.load_profile(name)
    copy = bj.load_profile(profile.save(tmp_path / "copy.toml"))
    assert (copy.name, copy.status, copy.spec, copy.exercised, copy.idle_power_w) == (
        profile.name,
        profile.status,
        profile.spec,
        profile.exercised,
        profile.idle_power_w,
    )
    np.testing.assert_allclose(copy.log_mean, profile.log_mean, atol=1e-4)
    np.testing.assert_allclose(copy.log_cov, profile.log_cov, atol=2e-3 * profile.log_cov.max())


def test_covariance_is_positive_after_loading() -> None:
    for name, _ in profile_paths():
        assert np.linalg.eigvalsh(bj.load_profile(name).log_cov).min() > -1e-4


def test_every_shipped_profile_says_where_it_comes_from() -> None:
    for name, _ in profile_paths():
        profile = bj.load_profile(name)
        assert profile.name == name
        assert len(profile.provenance["source"]) > 20
        assert profile.provenance["date"]
        if profile.status == "fitted":
            unseen = [value for key, value in profile.provenance.items() if key.startswith("leave_one_")]
            assert len(unseen) == (2 if "int8" in profile.provenance["precisions"] else 1)
            # its interval covers what it was wrong by on models that the fit had not seen
            assert all(0 < each["energy_error_frac"] < 2.132 * profile.residual_energy for each in unseen)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"clock_hz": float("inf")}, "finite"),
        ({"power_limit_w": float("inf")}, "finite"),
        ({"min_clock_hz": 1e10}, "lowest clock"),
        ({"integer_multiplies_per_clock": 0.0}, "positive"),
    ],
)
def test_a_spec_that_no_device_has_is_refused(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(bj.BudjouleError, match=text):
        replace(bj.load_profile("a100-pcie-40gb").spec, **wrong)  # type: ignore[arg-type]


def test_user_profile_comes_before_the_shipped_one(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "budjoule" / "profiles"
    folder.mkdir(parents=True)
    bj.load_profile("cpu-generic").save(folder / "this-machine.toml")
    assert bj.load_profile("this-machine").name == "cpu-generic"


def test_this_machine_uncalibrated_names_the_remedy() -> None:
    with pytest.raises(bj.BudjouleError, match="budjoule calibrate"):
        bj.load_profile("this-machine")


@pytest.mark.parametrize(
    "text", ["not toml [", "schema = 'other'", "schema = 'budjoule.profile/1'\nname = 'x'", "\x00"]
)
def test_malformed_profile_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(bj.BudjouleError, match=r"broken\.toml"):
        bj.load_profile(path)


def test_spec_refuses_what_is_not_positive() -> None:
    good = {
        "kind": "gpu",
        "units": 1,
        "lanes": 1,
        "clock_hz": 1e9,
        "flop_per_clock": {"fp32": 2},
        "dram_bytes_per_s": 1e9,
        "cache_bytes": 1e6,
        "memory_bytes": 1e9,
        "power_limit_w": 1.0,
        "idle_w": 0.1,
    }
    bj.DeviceSpec(**good)
    for name, value in (("units", 0), ("clock_hz", -1.0), ("kind", "tpu"), ("flop_per_clock", {})):
        with pytest.raises(bj.BudjouleError, match=name):
            bj.DeviceSpec(**{**good, name: value})


@pytest.mark.parametrize(("device", "nearest"), [("khadas-vim4", "odroid-n2-plus"), ("l40s", "a40-pcie-48gb")])
def test_a_forecast_has_seen_no_more_than_what_it_starts_from(device: str, nearest: str) -> None:
    forecast, base = (bj.load_profile(name).provenance for name in (device, nearest))
    for key in ("modes", "precisions"):
        assert forecast[key] == base[key]
    assert forecast.get("runtime") == base.get("runtime")
