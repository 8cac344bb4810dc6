"""Package power against processor load: the model behind the estimate that stands in where no counter exists.

``P(u, f) = idle + s(u) (busy + clock (f / f_max)^e)`` with ``s(u) = u (1 + knee) / (u + knee)``: power grows fast with the
first busy cores and saturates, as the clock does when more of them are busy. The concave shape is that of Fan, Weber,
Barroso, Power provisioning for a warehouse-sized computer, ISCA 2007, doi:10.1145/1250662.1250665; `knee` was set on the
RAPL measurements of four x86 machines that the CodeCarbon project published (MIT licence, January 2025).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.rapl import thermal_design_power_w

_KNEE = 0.5
_SPREAD, _SPREAD_WEIGHT = 0.25, 3
# Typical package power over many machines: full load is 0.5 to 1.2 of the thermal design power, idle 0.05 to 0.3 of it.
_FULL_PER_TDP, _IDLE_PER_TDP, _TDP_FACTOR = 0.65, 0.1, 3.3
# Published thermal design powers are 1.5 W (boards) to 24 W (overclocked desktops) for each physical core.
_FULL_PER_CORE_W, _IDLE_PER_CORE_W, _CORE_FACTOR = 6.0, 1.2, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadModel:
    """Package power against load and clock.

    Args:
        idle_w: Power at no load. [W]
        busy_w: What full load adds, whatever the clock. [W]
        clock_w: What full load adds at the top clock. [W]
        clock_exponent: How that falls with the clock; 2 is a supply voltage that falls with it.
        knee_frac: Load at which half of the saturation is reached; small is sharply saturating, large a straight line.
        max_clock_hz: The clock that `clock_w` is for; None if the clock is not looked at. [Hz]
        factor: The true power lies within this factor either way (central 90 %).
        basis: Where the figures come from, in words.
    """

    idle_w: float
    busy_w: float
    clock_w: float = 0.0
    clock_exponent: float = 2.0
    knee_frac: float = _KNEE
    max_clock_hz: float | None = None
    factor: float
    basis: str

    def __post_init__(self) -> None:
        figures = (self.idle_w, self.busy_w, self.clock_w, self.clock_exponent, self.knee_frac, self.factor)
        if not all(map(math.isfinite, figures)) or self.idle_w <= 0 or self.busy_w < 0 or self.clock_w < 0:
            raise MeterError(
                f"a load model needs positive powers, not {self.idle_w}, {self.busy_w} and {self.clock_w} W"
            )
        if self.knee_frac <= 0 or self.factor < 1 or (self.clock_w > 0 and not self.max_clock_hz):
            raise MeterError(
                "a load model needs a knee above 0, a factor of at least 1, and a top clock where one counts"
            )

    def power_w(self, load_frac: float, clock_hz: float | None = None) -> float:
        """Package power. [W]

        Args:
            load_frac: Share of the processor's threads that are busy.
            clock_hz: Mean clock; None for the top one. [Hz]
        """
        load_frac = min(max(load_frac, 0.0), 1.0)
        clock_frac = min(clock_hz / self.max_clock_hz, 1.0) if clock_hz and self.max_clock_hz else 1.0
        saturated = load_frac * (1 + self.knee_frac) / (load_frac + self.knee_frac)
        return float(self.idle_w + saturated * (self.busy_w + self.clock_w * clock_frac**self.clock_exponent))


class LoadSample(NamedTuple):
    """One observation for `fit_load_model`: what a counter or wall meter said at a load.

    Args:
        load_frac: Share of the processor's threads that were busy.
        power_w: Power of the package, or of whatever the estimate shall stand for. [W]
        clock_hz: Mean clock, None if unknown. [Hz]
    """

    load_frac: float
    power_w: float
    clock_hz: float | None = None


def fit_load_model(samples: Sequence[LoadSample], *, basis: str = "this machine's calibration") -> LoadModel:
    """Fit one machine's model: maximum a posteriori on log power, so that two samples (idle and busy) do already.

    The priors are wide for the three powers (a factor of 7), narrower for the knee (2.7) and the exponent (1.35); the loss
    is soft-L1, so that one odd sample does not carry the fit. The interval comes from the residuals and, where samples are
    few, from a prior.

    Args:
        samples: At least two, at different loads.
        basis: What to say of the model's origin.

    Raises:
        MeterError: Fewer than two loads, or a figure that is no power or load.
    """
    if len({round(sample.load_frac, 3) for sample in samples}) < 2:
        raise MeterError("fitting a load model needs samples at two loads at least, such as idle and busy")
    if not all(sample.power_w > 0 and 0 <= sample.load_frac <= 1 for sample in samples):
        raise MeterError("a sample needs a positive power and a load between 0 and 1")
    import numpy as np
    from scipy.optimize import least_squares

    log_power = np.log([sample.power_w for sample in samples])
    top_w, low_w = float(np.exp(log_power.max())), float(np.exp(log_power.min()))
    clocks = [sample.clock_hz for sample in samples]
    max_clock_hz = max((clock for clock in clocks if clock), default=None) if all(clocks) else None

    def model(theta: "np.ndarray") -> LoadModel:
        idle_w, busy_w, clock_w, knee, exponent = (float(value) for value in np.exp(theta))
        return LoadModel(
            idle_w=idle_w,
            busy_w=busy_w,
            clock_w=clock_w if max_clock_hz else 0.0,
            clock_exponent=exponent,
            knee_frac=knee,
            max_clock_hz=max_clock_hz,
            factor=1.0,
            basis=basis,
        )

    start = np.log([low_w, max(top_w - low_w, 0.1 * top_w) / 2, max(top_w - low_w, 0.1 * top_w) / 2, _KNEE, 2.0])
    prior_sd = np.array([2.0, 2.0, 2.0, 1.0, 0.3])

    def residuals(theta: "np.ndarray") -> "np.ndarray":
        fitted = model(theta)
        predicted = np.log([fitted.power_w(sample.load_frac, sample.clock_hz) for sample in samples])
        return np.concatenate([(predicted - log_power) / 0.1, (theta - start) / prior_sd])

    theta = least_squares(residuals, start, loss="soft_l1").x
    errors = residuals(theta)[: len(samples)] * 0.1
    # Few samples say little of the model's own error: a prior worth three samples stands in for the others.
    weight = max(len(samples) - len(theta), 0) + _SPREAD_WEIGHT
    spread = math.sqrt((float(np.sum(errors**2)) + _SPREAD_WEIGHT * _SPREAD**2) / weight)
    fitted = asdict(model(theta))
    return LoadModel(**{**fitted, "factor": math.exp(1.645 * spread)})


def model_from_tdp(tdp_w: float) -> LoadModel:
    """A load model for a processor of which only the thermal design power is known: good within a factor of 3.3."""
    return LoadModel(
        idle_w=_IDLE_PER_TDP * tdp_w,
        busy_w=(_FULL_PER_TDP - _IDLE_PER_TDP) * tdp_w,
        factor=_TDP_FACTOR,
        basis=f"a thermal design power of {tdp_w:g} W",
    )


def model_from_cores(cores: int) -> LoadModel:
    """A load model for a processor of which only the number of cores is known: good within a factor of 5."""
    return LoadModel(
        idle_w=_IDLE_PER_CORE_W * cores,
        busy_w=(_FULL_PER_CORE_W - _IDLE_PER_CORE_W) * cores,
        factor=_CORE_FACTOR,
        basis=f"{cores} cores of typical power, which is a guess",
    )


def saved_model_path() -> Path:
    """Where this machine's calibrated load model lies."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "budjoule" / "cpu-load.toml"


def save_load_model(model: LoadModel) -> Path:
    """Keep a calibrated model for this machine; every later estimate uses it.

    Raises:
        RunError: The folder cannot be written.
    """
    path = saved_model_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    import tomli_w

    from budjoule.energy.files import write_atomic

    write_atomic(path, tomli_w.dumps({key: value for key, value in asdict(model).items() if value is not None}))
    return path


def this_machine(root: Path | None = None) -> LoadModel:
    """The best load model known for this machine: calibrated, else by thermal design power, else by number of cores.

    A calibrated model that cannot be used is passed over, which `basis` says: a broken file must not end a training run.
    """
    path = saved_model_path()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return _typical(root)
    import tomllib

    try:
        return LoadModel(**tomllib.loads(text))
    except (tomllib.TOMLDecodeError, TypeError, MeterError) as error:
        typical = _typical(root)
        broken = f"the calibrated model in {path} cannot be used ({error}); delete the file or calibrate again"
        return replace(typical, basis=f"{typical.basis} ({broken})")


def _typical(root: Path | None) -> LoadModel:
    tdp_w = thermal_design_power_w(root)
    return model_from_tdp(tdp_w) if tdp_w else model_from_cores(_cores())


def energy_unseen_j(model: LoadModel, duration_s: float) -> tuple[float, float, float]:
    """Energy of a window of which nothing is known but its length: value, lower and upper end of the interval. [J]"""
    idle_w, full_w = model.power_w(0.0), model.power_w(1.0)
    return (idle_w * full_w) ** 0.5 * duration_s, idle_w / model.factor * duration_s, full_w * model.factor * duration_s


def _cores() -> int:
    import psutil

    return int(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)
