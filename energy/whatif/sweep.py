"""What would it cost otherwise? One workload over batch sizes, clocks and power limits, and the settings worth choosing.

Each batch size is traced once; every clock and limit of every device is then a prediction.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from budjoule.energy.device import DeviceProfile
from budjoule.energy.errors import UsageError
from budjoule.energy.estimate import Estimate
from budjoule.energy.predict import predict
from budjoule.energy.units import show
from budjoule.energy.whatif.grid import predict_clocks
from budjoule.energy.workload import Workload

SCHEMA = "budjoule.sweep/1"
AXES = ("batch", "clock-mhz", "power-limit-w")
MOST_VALUES = 1000
MOST_POINTS = 20_000
EXAMPLE = "batch=1,2,4..256 or clock-mhz=510..1410:90"
_NUMBER = r"\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting of a sweep.

    Args:
        batch: Examples of a step.
        wanted_clock_hz: The clock asked for, None for the device's highest; `estimate.clock_hz` is what the power limit leaves. [Hz]
        power_limit_w: The limit asked for, None for the device's own. [W]
        estimate: What one step costs.
        efficient: No other setting of this device needs less energy an example without needing more time.
        fits: The step's tensors fit in the device's memory.
    """

    batch: int
    wanted_clock_hz: float | None
    power_limit_w: float | None
    estimate: Estimate
    efficient: bool = False
    fits: bool = True

    @property
    def example_energy_j(self) -> float:
        """Energy of one example. [J]"""
        return self.estimate.energy_j / self.batch

    @property
    def example_duration_s(self) -> float:
        """Time of one example, that of the step shared out. [s]"""
        return self.estimate.duration_s / self.batch

    @property
    def energy_delay(self) -> float:
        """Energy-delay product of one example. [J s]"""
        return self.example_energy_j * self.example_duration_s

    def to_dict(self) -> dict[str, Any]:
        """The setting and its cost as plain data, without the estimate's parts."""
        parts = ("schema", "by_op", "by_module", "notes")
        return {key: value for key, value in self.estimate.to_dict().items() if key not in parts} | {
            "batch": self.batch,
            "wanted_clock_hz": self.wanted_clock_hz,
            "power_limit_w": self.power_limit_w,
            "example_energy_j": self.example_energy_j,
            "example_duration_s": self.example_duration_s,
            "efficient": self.efficient,
            "fits": self.fits,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The settings tried, device by device.

    Args:
        axes: The values of each axis that was varied.
        points: Every setting that the device can run at.
        notes: What was left out, and the notes of the best settings' estimates.
    """

    axes: Mapping[str, tuple[float, ...]]
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices with at least one setting, in their order."""
        return tuple(dict.fromkeys(point.estimate.device for point in self.points))

    def of(self, device: str) -> list[Point]:
        """The settings of one device."""
        return [point for point in self.points if point.estimate.device == device]

    def usable(self, device: str) -> list[Point]:
        """Those that fit in its memory, or all where none does."""
        points = self.of(device)
        return [point for point in points if point.fits] or points

    def frontier(self, device: str) -> list[Point]:
        """The efficient settings of one device, the quickest first."""
        return sorted((p for p in self.of(device) if p.efficient), key=lambda p: p.example_duration_s)

    def best(self, device: str) -> dict[str, Point]:
        """The settings of least energy an example, and of least energy-delay product."""
        points = self.usable(device)
        return {
            "energy": min(points, key=lambda p: (p.example_energy_j, p.example_duration_s)),
            "energy_delay": min(points, key=lambda p: p.energy_delay),
        }

    def to_dict(self) -> dict[str, Any]:
        """The sweep as plain data, ready for JSON; `best` holds indices into `points`."""
        place = {id(point): index for index, point in enumerate(self.points)}
        return {
            "schema": SCHEMA,
            "axes": {name: list(values) for name, values in self.axes.items()},
            "points": [point.to_dict() for point in self.points],
            "best": {
                device: {name: place[id(point)] for name, point in self.best(device).items()} for device in self.devices
            },
            "notes": list(self.notes),
        }


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Read the axes of a sweep.

    Args:
        texts: Each `NAME=VALUES`, a name of `AXES`. Values are numbers and ranges with commas between: `a..b:step`, or `a..b`,
            which doubles from a to b, or goes on evenly where the two numbers before it and its start are evenly spaced.

    Raises:
        UsageError: A text is no such axis.

    >>> parse_axes(["batch=1,2,4..64"])
    {'batch': (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)}
    >>> parse_axes(["clock-mhz=510..690:90", "batch=1,2,3..5"])
    {'clock-mhz': (510.0, 600.0, 690.0), 'batch': (1.0, 2.0, 3.0, 4.0, 5.0)}
    """
    axes: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        name = name.strip()
        if not equals or name not in AXES:
            raise UsageError(f"cannot sweep {text!r}; write {EXAMPLE}, with one of {', '.join(AXES)}")
        if name in axes:
            raise UsageError(f"{name} is given twice; give all its values at once")
        values = _values(listed, text)
        if name == "batch" and any(value != int(value) for value in values):
            raise UsageError(f"{text!r} has a batch size that is no whole number")
        axes[name] = values
    return axes


def _values(listed: str, text: str) -> tuple[float, ...]:
    values: list[float] = []
    for part in listed.split(","):
        part = part.strip()
        if match := _RANGE.fullmatch(part):
            low, high, step = (float(group) if group else None for group in match.groups())
            assert low is not None
            assert high is not None
            values += _range(values, low, high, step, text)
        elif re.fullmatch(_NUMBER, part):
            values.append(float(part))
        else:
            raise UsageError(f"cannot read {part!r} in {text!r}; write {EXAMPLE}")
    if min(values) <= 0:
        raise UsageError(f"{text!r} has a value of 0; the values of a sweep are positive")
    return tuple(dict.fromkeys(values))


def _range(before: Sequence[float], low: float, high: float, step: float | None, text: str) -> list[float]:
    if high < low or step == 0 or low == 0:
        raise UsageError(f"the range in {text!r} is empty; write {EXAMPLE}")
    if step is None and len(before) >= 2 and before[-1] - before[-2] == low - before[-1] > 0:
        step = low - before[-1]
    if step is not None:
        count = int((high - low) / step + 1e-9) + 1
        made = [low + i * step for i in range(min(count, MOST_VALUES + 1))]
    else:
        made = [low]
        while made[-1] * 2 <= high and len(made) <= MOST_VALUES:
            made.append(made[-1] * 2)
    if len(made) > MOST_VALUES:
        raise UsageError(f"the range in {text!r} has over {MOST_VALUES} values; take a larger step")
    return made


def sweep(
    work_of: Callable[[int | None], Workload],
    devices: Sequence[DeviceProfile],
    axes: Mapping[str, Sequence[float]],
    *,
    clock_hz: float | None = None,
    power_limit_w: float | None = None,
) -> Sweep:
    """Predict a workload at every setting that the devices can run at.

    Args:
        work_of: Traces the step at a batch size, None for the inputs' own; called once a size.
        devices: Where to run it.
        axes: Values by axis, as `parse_axes` gives them.
        clock_hz: The clock where none is swept. [Hz]
        power_limit_w: The limit where none is swept. [W]

    Raises:
        UsageError: There are too many settings, or no device can run at any of them.
    """
    batches: list[int | None] = [int(b) for b in axes["batch"]] if "batch" in axes else [None]
    clocks = [mhz * 1e6 for mhz in axes["clock-mhz"]] if "clock-mhz" in axes else [clock_hz]
    limits = list(axes["power-limit-w"]) if "power-limit-w" in axes else [power_limit_w]
    count = len(batches) * len(clocks) * len(limits) * len(devices)
    if count > MOST_POINTS:
        raise UsageError(f"the sweep has {count} settings, over {MOST_POINTS}; take larger steps")
    names = [profile.name for profile in devices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{', '.join(twice)} is given twice; give each device once, and different profiles different names"
        )
    works = [work_of(batch) for batch in batches]
    points: list[Point] = []
    notes: dict[str, None] = {}
    for profile in devices:
        usable = _within(profile, clocks, limits, notes)
        tried = [point for work in works for point in _points(work, profile, *usable)]
        held = [point for point in tried if _held(point, profile)]
        if len(held) < len(tried):
            notes[
                f"{profile.name}: {len(tried) - len(held)} settings left out, as its lowest clock draws more than their power limit"
            ] = None
        points += marked(held)
        if too_large := sorted({point.batch for point in held if not point.fits}):
            sizes = ", ".join(str(batch) for batch in too_large)
            notes[
                f"{profile.name}: its {show(profile.spec.memory_bytes, 'B')} of memory are too small for batch {sizes}"
            ] = None
    if not points:
        raise UsageError(f"no setting can be run: {'; '.join(notes)}")
    found = Sweep(axes={name: tuple(values) for name, values in axes.items()}, points=tuple(points))
    said: dict[str, list[str]] = {}
    for device in found.devices:
        for note in dict.fromkeys(note for point in found.best(device).values() for note in point.estimate.notes):
            said.setdefault(note, []).append(device)
    everywhere = len(found.devices)
    notes |= {note if len(of) == everywhere else f"{note} ({', '.join(of)})": None for note, of in said.items()}
    return replace(found, notes=tuple(notes))


def _within(
    profile: DeviceProfile, clocks: Sequence[float | None], limits: Sequence[float | None], notes: dict[str, None]
) -> tuple[list[float | None], list[float | None]]:
    """The clocks and limits that a device has; what it has not is noted."""
    spec = profile.spec
    low_hz = max(spec.min_clock_hz, 0.05 * spec.clock_hz)
    usable_hz = [c for c in clocks if c is None or low_hz <= c <= spec.clock_hz]
    usable_w = [w for w in limits if w is None or w <= spec.power_limit_w]
    if len(usable_hz) < len(clocks):
        notes[f"{profile.name}: clocks outside {low_hz / 1e6:g} to {spec.clock_hz / 1e6:g} MHz left out"] = None
    if len(usable_w) < len(limits):
        notes[f"{profile.name}: power limits above its own {spec.power_limit_w:g} W left out"] = None
    return usable_hz, usable_w


def _points(
    work: Workload, profile: DeviceProfile, clocks_hz: Sequence[float | None], limits_w: Sequence[float | None]
) -> list[Point]:
    """Every clock under every limit, limits varying fastest."""
    locked_hz = [clock_hz for clock_hz in clocks_hz if clock_hz is not None]
    columns = [
        predict_clocks(work, profile, locked_hz, limit_w)
        if locked_hz
        else [predict(work, device=profile, power_limit_w=limit_w) for _ in clocks_hz]
        for limit_w in limits_w
    ]
    return [
        Point(
            batch=max(1, work.examples),
            wanted_clock_hz=clock_hz,
            power_limit_w=limit_w,
            estimate=columns[column][row],
            fits=work.peak_memory_bytes <= profile.spec.memory_bytes,
        )
        for row, clock_hz in enumerate(clocks_hz)
        for column, limit_w in enumerate(limits_w)
    ]


def _held(point: Point, profile: DeviceProfile) -> bool:
    return point.power_limit_w is None or point.estimate.power_w <= 1.02 * point.power_limit_w


def marked(points: Sequence[Point]) -> list[Point]:
    """The same settings, the efficient ones marked: no other that fits is as good in time and energy an example and better in one."""
    best_j = float("inf")
    efficient: set[int] = set()
    fitting = [i for i, point in enumerate(points) if point.fits] or range(len(points))
    for index in sorted(fitting, key=lambda i: (points[i].example_duration_s, points[i].example_energy_j)):
        if points[index].example_energy_j < best_j:
            best_j = points[index].example_energy_j
            efficient.add(index)
    return [replace(point, efficient=index in efficient) for index, point in enumerate(points)]
