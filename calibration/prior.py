"""What is believed of a device before it has run anything: the literature's priors, or a similar device's fit, moved by what the datasheets say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from budjoule.energy.coefficients import COEFFICIENTS, INDEX
from budjoule.energy.device import DeviceProfile, DeviceSpec, prior_profile

FORECAST_RESIDUAL = (
    0.25  # beside the base's own, on a device without any run: A10 from A100 and back were 20 and 44 % off in energy
)


def prior_for(
    spec: DeviceSpec | None,
    base: DeviceProfile | None,
    *,
    name: str | None = None,
    title: str | None = None,
    idle_power_w: Sequence[tuple[float, float]] | None = None,
    voltage: Sequence[tuple[float, float]] | None = None,
) -> DeviceProfile:
    """The prior of a fit as a profile: the literature's, or another device's posterior widened by how far devices differ.

    From another device, joules a FLOP move half-way (in logarithms) with the ratio of power limit to peak: a newer process shows in both.

    Args:
        spec: The new device's datasheet figures; None for the base's own device again.
        base: A fitted profile to start from; None for the literature.
        name: The new profile's name.
        title: Its name for people.
        idle_power_w: Idle power against clock, where it was read: `(clock_hz, power_w)` pairs.
        voltage: Core voltage over its lowest value against clock: `(clock_hz, ratio)` pairs.
    """
    idle = tuple((float(c), float(p)) for c, p in idle_power_w or ())
    ratios = tuple((float(c), float(v)) for c, v in voltage or ())
    if base is None:
        assert spec is not None
        profile = prior_profile(
            name or "device", spec, title=title or name or "device", idle_power_w=idle, voltage=ratios
        )
        return replace(profile, log_cov=np.diag([row.sd**2 + row.device_sd**2 for row in COEFFICIENTS]))
    same = spec is None
    spec = spec or base.spec
    mean = base.log_mean.copy()
    cov = base.log_cov.copy()
    if not same:
        if base.status != "forecast":  # a forecast's covariance has it already
            cov += np.diag([row.device_sd**2 for row in COEFFICIENTS])
        for coefficient, precision in (("e_tensor_j", "bf16"), ("e_tf32_j", "tf32"), ("e_fp32_j", "fp32")):
            mean[INDEX[coefficient]] += 0.5 * np.log(
                _limit_per_flop(spec, precision) / _limit_per_flop(base.spec, precision)
            )
    return replace(
        base,
        name=name or base.name,
        title=title or name or base.title,
        status=base.status if same else "forecast",
        spec=spec,
        log_mean=mean,
        log_cov=cov,
        residual_time=base.residual_time if same else float(np.hypot(base.residual_time, FORECAST_RESIDUAL)),
        residual_energy=base.residual_energy if same else float(np.hypot(base.residual_energy, FORECAST_RESIDUAL)),
        idle_power_w=idle or (base.idle_power_w if same else ()),
        voltage=ratios or (base.voltage if same else ()),
    )


def _limit_per_flop(spec: DeviceSpec, precision: str) -> float:
    return spec.power_limit_w / (spec.units * spec.peak_flop_per_clock(precision) * spec.clock_hz)
