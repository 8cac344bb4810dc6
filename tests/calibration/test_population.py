"""Laws of a population: each device is fitted with the others, and what they share is a better start than the literature."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.population import fit_population
from budjoule.calibration.prior import prior_for
from budjoule.energy.coefficients import COEFFICIENTS, INDEX
from budjoule.energy.device import DeviceProfile

SPEC = bj.load_profile("a100-pcie-40gb").spec
SHARED = 0.4  # how far all of these devices lie from the literature, in logarithms


def device(seed: int) -> DeviceProfile:
    """A device near what all have in common, which lies away from the literature."""
    prior = prior_for(SPEC, None, name=f"device-{seed}")
    mean = prior.log_mean.copy()
    for name in ("e_fp32_j", "t_launch_s"):
        mean[INDEX[name]] += SHARED + 0.05 * np.random.default_rng(seed).standard_normal()
    return replace(prior, log_mean=mean)


def runs(true: DeviceProfile) -> list[bj.Observation]:
    found = []
    for width, batch in ((16, 1), (256, 64), (2048, 4096), (4096, 8192)):
        work = bj.trace(nn.Sequential(nn.Linear(width, width), nn.ReLU()), torch.empty(batch, width))
        e = bj.predict(work, device=true, clock_hz=1.2e9)
        found.append(bj.Observation(workload=work, duration_s=e.duration_s, energy_j=e.energy_j, clock_hz=e.clock_hz))
    return found


@pytest.fixture(scope="module")
def profiles() -> dict[str, DeviceProfile]:
    names = [f"device-{i}" for i in range(4)]
    priors = {name: prior_for(SPEC, None, name=name) for name in names}
    return fit_population(
        {name: runs(device(i)) for i, name in enumerate(names)}, priors, prior_for(SPEC, None, name="common")
    )


def test_what_devices_share_is_learnt(profiles: dict[str, DeviceProfile]) -> None:
    literature = prior_for(SPEC, None)
    i = INDEX["e_fp32_j"]
    assert profiles["common"].log_mean[i] - literature.log_mean[i] == pytest.approx(SHARED, abs=0.15)


def test_next_device_starts_nearer_from_the_population_than_from_the_literature(
    profiles: dict[str, DeviceProfile],
) -> None:
    true = device(9)

    def off(start: DeviceProfile) -> float:
        return float(
            np.mean(
                [
                    abs(np.log(bj.predict(o.workload, device=start, clock_hz=o.clock_hz).energy_j / o.energy_j))
                    for o in runs(true)
                    if o.energy_j
                ]
            )
        )

    assert off(prior_for(SPEC, profiles["common"], name="next")) < 0.6 * off(prior_for(SPEC, None, name="next"))


def test_how_far_devices_differ_is_counted_once(profiles: dict[str, DeviceProfile]) -> None:
    assert profiles["common"].status == "forecast"
    assert np.allclose(prior_for(SPEC, profiles["common"], name="next").log_cov, profiles["common"].log_cov)
    own = np.array([row.device_sd for row in COEFFICIENTS])
    assert np.all(np.diag(profiles["common"].log_cov) > own**2)
    from_one = prior_for(SPEC, profiles["device-0"], name="next")
    assert np.allclose(np.diag(from_one.log_cov - profiles["device-0"].log_cov), own**2)


def test_devices_without_runs_are_no_part_of_the_result_but_the_common_one(profiles: dict[str, DeviceProfile]) -> None:
    assert set(profiles) == {"device-0", "device-1", "device-2", "device-3", "common"}
    assert profiles["device-0"].provenance["pooled_with"] == ["device-1", "device-2", "device-3"]
