"""What is known of a device: `DeviceSpec` (its datasheet) and `DeviceProfile` (its fitted coefficients), kept as TOML."""

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from budjoule.energy.coefficients import COEFFICIENTS, NAMES
from budjoule.energy.errors import UsageError
from budjoule.energy.files import write_atomic

SCHEMA = "budjoule.profile/1"
STATUSES = ("fitted", "few-shot", "forecast", "literature")

# Core voltage over its lowest value, against the share of the top clock: flat, then a steep rise.
# Read on an A100 PCIe board at each locked clock (core_voltage_mv_by_clock_mhz, data of arXiv 2604.20105).
TYPICAL_VOLTAGE = ((0.0, 1.0), (0.72, 1.0), (0.83, 1.08), (0.915, 1.17), (1.0, 1.288))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """A device's datasheet figures.

    Args:
        kind: `gpu` works through a queue of launches; `cpu` runs each op as the host calls it.
        units: Streaming multiprocessors, or cores.
        lanes: fp32 lanes of one unit.
        clock_hz: Top clock of the units. [Hz]
        flop_per_clock: FLOP a clock of one unit, by precision of its matrix or vector unit (fp32, tf32, bf16, ...).
        dram_bytes_per_s: Peak DRAM bandwidth. [B/s]
        cache_bytes: Last-level cache. [B]
        memory_bytes: Device memory. [B]
        power_limit_w: Highest sustained power. [W]
        idle_w: Power with nothing running. [W]
        min_clock_hz: Lowest clock the power limit can push to. [Hz]
        integers_share_lanes: Some fp32 lanes also run the integer instructions, as on Pascal and on consumer-class Ampere and Ada.
        integer_multiplies_per_clock: 32-bit integer multiplications a clock of one unit of a GPU. Volta and what followed it make 64;
            Pascal makes each of three 16-bit ones (arithmetic throughput table of the CUDA C++ programming guide).
    """

    kind: str
    units: int
    lanes: int
    clock_hz: float
    flop_per_clock: Mapping[str, float]
    dram_bytes_per_s: float
    cache_bytes: float
    memory_bytes: float
    power_limit_w: float
    idle_w: float
    min_clock_hz: float = 0.0
    integers_share_lanes: bool = False
    integer_multiplies_per_clock: float = 64.0

    def __post_init__(self) -> None:
        if self.kind not in ("gpu", "cpu"):
            raise UsageError(f"kind is {self.kind!r}; a device spec's kind is 'gpu' or 'cpu'")
        for item in fields(self):
            value = getattr(self, item.name)
            if (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and not (value > 0 or (item.name in ("min_clock_hz", "idle_w") and value == 0))
            ):
                raise UsageError(f"{item.name} is {value}; a device spec needs a positive number")
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{item.name} is {value}; a device spec needs finite numbers")
        if self.min_clock_hz > self.clock_hz:
            raise UsageError(
                f"min_clock_hz is {self.min_clock_hz:g}, above the top clock of {self.clock_hz:g}; give the lowest clock"
            )
        if "fp32" not in self.flop_per_clock:
            raise UsageError("flop_per_clock has no fp32; give the FLOP a clock of one unit for fp32 at least")

    @property
    def lowest_hz(self) -> float:
        """The clock below which no power limit pushes. [Hz]"""
        return max(self.min_clock_hz, 0.1 * self.clock_hz)

    @property
    def highest_hz(self) -> float:
        """The clock above which nothing is estimated: boards boost past what their datasheets say. [Hz]"""
        return 1.1 * self.clock_hz

    def peak_flop_per_clock(self, precision: str) -> float:
        """FLOP a clock of one unit in a precision; what the unit lacks runs at the fp32 rate."""
        return self.flop_per_clock.get(precision, self.flop_per_clock["fp32"])


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Coefficients of the time and energy model on one device, with their uncertainty and where they come from.

    Args:
        name: Short name, such as `a100-pcie-40gb`.
        title: Name for people.
        status: fitted, few-shot, forecast or literature.
        spec: Datasheet figures.
        log_mean: Logarithms of the coefficients, in the order of `coefficients.NAMES`. `(coefficient,)`
        log_cov: Their covariance. `(coefficient, coefficient)`
        residual_time: Scale of the model's own error of log time.
        residual_energy: The same of log energy.
        exercised: Coefficients that at least one run pinned (posterior narrower than the prior).
        idle_power_w: Idle power against clock, as `(clock_hz, power_w)` pairs; empty if only `spec.idle_w` is known.
        voltage: Core voltage over its lowest value against clock, as `(clock_hz, ratio)` pairs; empty for the typical curve.
        provenance: Date, meter, runs, errors, sources: plain values.
    """

    name: str
    title: str
    status: str
    spec: DeviceSpec
    log_mean: np.ndarray
    log_cov: np.ndarray = field(repr=False)
    residual_time: float
    residual_energy: float
    exercised: tuple[str, ...] = ()
    idle_power_w: tuple[tuple[float, float], ...] = ()
    voltage: tuple[tuple[float, float], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise UsageError(f"profile {self.name!r}: status is {self.status!r}; it is one of {', '.join(STATUSES)}")
        count = len(NAMES)
        if self.log_mean.shape != (count,) or self.log_cov.shape != (count, count):
            raise UsageError(
                f"profile {self.name!r} holds {self.log_mean.size} coefficients; this version has {count}: fit it again"
            )

    @property
    def has_runs(self) -> bool:
        """Whether a run on the device itself stands behind the profile, if only one whose time was measured."""
        if self.status in ("literature", "forecast"):
            return bool(self.exercised) and "pooled_with" not in self.provenance
        return True

    @cached_property
    def coef_(self) -> dict[str, float]:
        """Each coefficient's median, in SI units."""
        return dict(zip(NAMES, np.exp(self.log_mean).tolist(), strict=True))

    @cached_property
    def log_sd_(self) -> dict[str, float]:
        """Each coefficient's standard deviation of the logarithm."""
        return dict(zip(NAMES, np.sqrt(np.diag(self.log_cov)).tolist(), strict=True))

    @cached_property
    def factor(self) -> np.ndarray:
        """A square root of the covariance, columns of no weight left out. `(coefficient, direction)`"""
        values, vectors = np.linalg.eigh(self.log_cov)
        keep = values > 1e-12
        root: np.ndarray = vectors[:, keep] * np.sqrt(values[keep])
        return root

    @cached_property
    def settings(self) -> np.ndarray:
        """The coefficients' medians in logarithms, then a deviation along each direction of their covariance. `(setting, coefficient)`"""
        return np.vstack([self.log_mean, self.log_mean + self.factor.T])

    def idle_w(self, clock_hz: np.ndarray | float) -> np.ndarray:
        """Idle power at a clock. [W]"""
        if not self.idle_power_w:
            return np.full_like(np.asarray(clock_hz, dtype=float), self.spec.idle_w)
        power_w: np.ndarray = np.interp(clock_hz, *self._idle_curve)
        return power_w

    def voltage_ratio(self, clock_hz: np.ndarray | float) -> np.ndarray:
        """Core voltage over its lowest value at a clock."""
        ratio: np.ndarray = np.interp(clock_hz, *self._voltage_curve)
        return ratio

    @cached_property
    def drive_curve(self) -> np.ndarray:
        """Logarithms of the clock [Hz] and of ``V^2 f``, which dynamic power follows; both rise along their rows."""
        clock_hz = np.geomspace(1e-3, 2.0, 512) * self.spec.clock_hz
        return np.log([clock_hz, self.voltage_ratio(clock_hz) ** 2 * clock_hz])

    @cached_property
    def _idle_curve(self) -> np.ndarray:
        return np.array(self.idle_power_w).T

    @cached_property
    def _voltage_curve(self) -> np.ndarray:
        """Clock and ratio, in rows; the typical curve where the device's own is not known."""
        typical = [(share * self.spec.clock_hz, ratio) for share, ratio in TYPICAL_VOLTAGE]
        return np.array(self.voltage or typical).T

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain data, as its TOML holds it."""
        sd = np.sqrt(np.diag(self.log_cov))
        scale = np.where(sd > 0, sd, 1.0)
        correlation = self.log_cov / np.outer(scale, scale)
        return {
            "schema": SCHEMA,
            "name": self.name,
            "title": self.title,
            "status": self.status,
            "provenance": dict(self.provenance),
            "spec": asdict(self.spec),
            "residual": {"time": _short(self.residual_time), "energy": _short(self.residual_energy)},
            "clocks": {
                "idle_power_w": [[_short(c), _short(p)] for c, p in self.idle_power_w],
                "voltage_ratio": [[_short(c), _short(v)] for c, v in self.voltage],
            },
            "coefficients": {
                row.name: {
                    "value": _short(float(np.exp(mean))),
                    "sd_log": _short(float(s)),
                    "unit": row.unit,
                    "exercised": row.name in self.exercised,
                    "correlation": [round(float(c), 3) + 0.0 for c in correlation[i, :i]],
                }
                for i, (row, mean, s) in enumerate(zip(COEFFICIENTS, self.log_mean, sd, strict=True))
            },
        }

    def save(self, path: str | Path, *, force: bool = True) -> Path:
        """Write the profile as TOML, whole or not at all.

        Raises:
            RunError: The file cannot be written, or exists while `force` is off.
        """
        import tomli_w

        write_atomic(path, tomli_w.dumps(self.to_dict()), force=force)
        return Path(path)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def prior_profile(name: str, spec: DeviceSpec, *, status: str = "literature", **rest: Any) -> DeviceProfile:
    """A profile made of the literature priors alone: no run on the device stands behind it, and its interval says so."""
    median = np.array([row.gpu if spec.kind == "gpu" else row.cpu for row in COEFFICIENTS])
    # a datasheet fixes neither efficiencies nor energies: nothing is known better than to a factor of about exp(0.35)
    sd = np.array([max(row.sd, 0.35) if row.name != "idle_frac" else 0.15 for row in COEFFICIENTS])
    rest.setdefault("title", name)
    return DeviceProfile(
        name=name,
        status=status,
        spec=spec,
        log_mean=np.log(median),
        log_cov=np.diag(sd**2),
        residual_time=0.2,
        residual_energy=0.2,
        **rest,
    )


def from_dict(data: Mapping[str, Any], where: str) -> DeviceProfile:
    """Read a profile from the data of its TOML.

    A table without `coefficients` is a literature profile: the priors stand, except those that `[override]` names.

    Raises:
        UsageError: A key is missing or malformed; the message names it.
    """
    try:
        if data.get("schema") != SCHEMA:
            raise UsageError(f"{where}: schema is {data.get('schema')!r}, not {SCHEMA!r}; is this a device profile?")
        spec = DeviceSpec(**data["spec"])
        clocks = data.get("clocks", {})
        common = {
            "name": data["name"],
            "title": data["title"],
            "status": data["status"],
            "idle_power_w": tuple((float(c), float(p)) for c, p in clocks.get("idle_power_w", ())),
            "voltage": tuple((float(c), float(v)) for c, v in clocks.get("voltage_ratio", ())),
            "provenance": data.get("provenance", {}),
        }
        if "coefficients" not in data:
            return _overridden(prior_profile(spec=spec, **common), data.get("override", {}), where)
        rows = data["coefficients"]
        if unknown := set(rows) ^ set(NAMES):
            raise UsageError(
                f"{where}: coefficients {', '.join(sorted(unknown))} do not match this version; fit it again"
            )
        sd = np.array([rows[name]["sd_log"] for name in NAMES], dtype=float)
        correlation = np.eye(len(NAMES))
        for i, name in enumerate(NAMES):
            correlation[i, :i] = rows[name]["correlation"]
        correlation = correlation + np.tril(correlation, -1).T
        return DeviceProfile(
            spec=spec,
            log_mean=np.log([rows[name]["value"] for name in NAMES]),
            log_cov=correlation * np.outer(sd, sd),
            residual_time=float(data["residual"]["time"]),
            residual_energy=float(data["residual"]["energy"]),
            exercised=tuple(name for name in NAMES if rows[name]["exercised"]),
            **common,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where} is not a complete device profile: {type(error).__name__} {error}; compare it with a shipped one"
        ) from None


def _overridden(profile: DeviceProfile, override: Mapping[str, Any], where: str) -> DeviceProfile:
    mean, cov = profile.log_mean.copy(), profile.log_cov.copy()
    for name, row in override.items():
        if name not in NAMES:
            raise UsageError(f"{where}: unknown coefficient {name!r} in [override]; the names are {', '.join(NAMES)}")
        i = NAMES.index(name)
        mean[i] = np.log(row["value"])
        cov[i, i] = row["sd_log"] ** 2
    return DeviceProfile(
        **{f.name: getattr(profile, f.name) for f in fields(profile)} | {"log_mean": mean, "log_cov": cov}
    )


def user_profile_folder() -> Path:
    """Where `budjoule calibrate` saves this machine's profile."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "budjoule" / "profiles"


def profile_paths() -> Iterator[tuple[str, Path]]:
    """Name and path of every profile that ships or that this user calibrated; the user's come first."""
    seen = set()
    shipped = Path(str(resources.files("budjoule.calibration.profiles")))
    for folder in (user_profile_folder(), shipped):
        for path in sorted(folder.glob("*.toml")):
            if path.stem not in seen:
                seen.add(path.stem)
                yield path.stem, path


def load_profile(name_or_path: "str | Path | DeviceProfile") -> DeviceProfile:
    """Load a device profile.

    Args:
        name_or_path: The name of a shipped profile or of one calibrated here (`this-machine`), or a TOML's path.

    Raises:
        UsageError: There is no such profile, or its file is malformed; the message names the nearest ones.
    """
    if isinstance(name_or_path, DeviceProfile):
        return name_or_path
    text = str(name_or_path)
    if text.endswith(".toml") or os.sep in text:
        path = Path(text)
        if not path.is_file():
            raise UsageError(f"no device profile at {path}; 'budjoule devices' lists the shipped ones")
    else:
        known = dict(profile_paths())
        if text not in known:
            near = get_close_matches(text, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            if text == "this-machine":
                hint = "run 'budjoule calibrate' first; "
            raise UsageError(f"unknown device {text!r}; {hint}'budjoule devices' lists all {len(known)}")
        path = known[text]
    return _read(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: str, mtime_ns: int) -> DeviceProfile:
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read device profile {path}: {error}") from None
    return from_dict(data, path)
