"""Fit several similar devices at once, and what they have in common: the prior that one more such device can start from."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from budjoule.calibration.fit import PRIOR_RESIDUAL, fit_pooled, posterior
from budjoule.calibration.observation import Observation
from budjoule.energy.coefficients import COEFFICIENTS
from budjoule.energy.device import DeviceProfile


def fit_population(
    runs: Mapping[str, Sequence[Observation]],
    starts_from: Mapping[str, DeviceProfile],
    common: DeviceProfile,
    provenance: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, DeviceProfile]:
    """The fitted profile of each device, and under `common.name` what is known of devices of their kind.

    Args:
        runs: Observations of each device.
        starts_from: The prior of each device, from the literature.
        common: The prior of a device without runs; its spec is what the common profile's figures refer to.
        provenance: What to record about each device's runs, and about what they have in common.

    Source: the predictive distribution of one more group of a multilevel model, Gelman and Hill, 2007, chapter 12.
    """
    fits = fit_pooled({**runs, common.name: []}, {**starts_from, common.name: common})
    profiles = {
        d: posterior(
            fits[d], starts_from[d], None, {"pooled_with": sorted(set(runs) - {d}), **(provenance or {}).get(d, {})}
        )
        for d in runs
    }
    exercised = {name for profile in profiles.values() for name in profile.exercised}
    profiles[common.name] = replace(
        common,
        status="forecast",
        log_mean=fits[common.name].log_mean,
        log_cov=fits[common.name].log_cov,  # of one more device: how far it may lie from the others is in it
        residual_time=PRIOR_RESIDUAL,
        residual_energy=PRIOR_RESIDUAL,
        exercised=tuple(row.name for row in COEFFICIENTS if row.name in exercised),
        provenance={
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "prior": "literature",
            "pooled_with": sorted(runs),
            "source": "what the fitted devices have in common: a prior for fit_profile, to be given with a new device's spec",
            "runs": "none of its own",
            **(provenance or {}).get(common.name, {}),
        },
    )
    return profiles
