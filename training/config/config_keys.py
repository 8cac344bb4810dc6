"""Every key of a training configuration: its default, how its value is read, and which parts are not built yet.

One row a key. A reader turns the TOML value into SI numbers and raises `UsageError` with the values and the remedy; a key
whose part is not built is refused with that reason unless it keeps its default, so that nothing is silently ignored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from budjoule.energy.errors import UsageError
from budjoule.energy.units import joules, seconds, size_bytes
from budjoule.training.memory.limit import memory_limits
from budjoule.training.server.methods import METHODS, STALENESS

Read = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: the default as it would stand in a file, the reader, and the field of the section it fills."""

    default: Any
    read: Read
    field: str


def text(value: Any) -> str:
    """A non-empty string."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"{value!r} is not a name; write a string")
    return value


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Read:
    """A real number in `[low, high]`, or in `(low, high]`."""
    bounds = f"{'above' if open_low else 'at least'} {low:g}" + ("" if high == math.inf else f" and at most {high:g}")

    def read(value: Any) -> float:
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not real or not low <= value <= high or (open_low and value == low):
            raise UsageError(f"{value!r} is out of range; write a number {bounds}")
        return float(value)

    return read


def whole(low: int, high: int | None = None) -> Read:
    """A whole number in `[low, high]`."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise UsageError(
                f"{value!r} is not a whole number of at least {low}" + ("" if high is None else f" and at most {high}")
            )
        return value

    return read


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{value!r} is neither true nor false")
    return value


def choice(*names: str) -> Read:
    """One of a few names."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise UsageError(f"{value!r} is not one of {', '.join(names)}")
        return str(value)

    return read


def at_most_none(read: Callable[[Any], float], example: str, *, low: float = 0.0) -> Read:
    """A quantity, or "none" for no limit (infinity)."""

    def limit(value: Any) -> float:
        if value == "none":
            return math.inf
        quantity = read(value) if isinstance(value, (str, int, float)) else math.nan
        if not quantity >= low or quantity == 0:
            raise UsageError(f"{value!r} is out of range; write a positive quantity such as {example!r}, or 'none'")
        return quantity

    return limit


def positive(read: Callable[[Any], float], example: str, *, or_zero: bool = False) -> Read:
    """A finite quantity above zero, or from zero on."""

    def quantity(value: Any) -> float:
        result = read(value) if isinstance(value, (str, int, float)) else math.nan
        if not 0 <= result < math.inf or (result == 0 and not or_zero):
            raise UsageError(f"{value!r} is out of range; write a positive quantity such as {example!r}")
        return result

    return quantity


def shares(value: Any) -> dict[str, float]:
    """One name for all clients, or `{ name = share, ... }` whose shares add up to 1."""
    if isinstance(value, str) and value:
        return {value: 1.0}
    if not isinstance(value, dict) or not value:
        raise UsageError(
            f'{value!r} is neither a name nor shares such as {{ "raspberry-pi-5" = 0.7, "jetson-orin-nano" = 0.3 }}'
        )
    table = {str(name): number(0, 1, open_low=True)(share) for name, share in value.items()}
    if abs(sum(table.values()) - 1) > 1e-6:
        raise UsageError(f"the shares {table} add up to {sum(table.values()):g}; make them add up to 1")
    return table


def span(low: float, high: float) -> Read:
    """A number, or the two ends `[low, high]` between which each client's lies."""

    def read(value: Any) -> tuple[float, float]:
        ends = value if isinstance(value, (list, tuple)) and len(value) == 2 else (value, value)
        first, last = (number(low, high)(end) for end in ends)
        if first > last:
            raise UsageError(f"{value!r} falls; write the smaller number first")
        return first, last

    return read


def hours(value: Any) -> tuple[float, float] | None:
    """Hours of the day such as "22-6" or "9:30-17", to the quarter of an hour; "" is any."""
    if value == "":
        return None
    ends = value.split("-") if isinstance(value, str) else []
    try:
        parts = [(int(hour), int(minute or 0)) for hour, _, minute in (end.strip().partition(":") for end in ends)]
    except ValueError:
        parts = []
    read = [hour + minute / 60 for hour, minute in parts if 0 <= minute < 60]
    if len(read) != 2 or read[0] == read[1] or not all(0 <= end <= 24 and end * 4 % 1 == 0 for end in read):
        raise UsageError(f'{value!r} are no hours of the day; write quarters of an hour, such as "22-6" or "9:30-17"')
    return read[0], read[1]


def names(value: Any) -> tuple[str, ...]:
    """A list of strings; "none" is the empty list."""
    if value == "none":
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise UsageError(f'{value!r} is not a list of strings such as ["topk:0.01", "quantize:8"]')
    return tuple(value)


def unbuilt(default: Any, why: str) -> Read:
    """A key whose part does not exist yet: only its default is accepted."""

    def read(value: Any) -> Any:
        if value != default:
            raise UsageError(f"{value!r} is refused: {why}; leave it at {default!r}")
        return value

    return read


def prefixed(read: Read, refused: dict[str, str]) -> Read:
    """A string of which some spellings are not built yet, each with its reason."""

    def check(value: Any) -> Any:
        result = read(value)
        for start, why in refused.items():
            if isinstance(value, str) and (value == start or value.startswith(f"{start}:")):
                raise UsageError(f"{value!r} is refused: {why}")
        return result

    return check


_TEXT = "learning from text is not built yet; give package.module:callable or file.py:callable"

OPTIMIZERS = ("sgd", "sgd-momentum", "adam", "adamw")

KEYS: dict[str, dict[str, Key]] = {
    "task": {
        "data": Key("digits", prefixed(text, {"text": _TEXT}), "data"),
        "model": Key("mlp", prefixed(text, {"text": _TEXT}), "model"),
        "partition": Key("dirichlet:0.3", text, "partition"),
    },
    "fleet": {
        "clients": Key(20, whole(1, 1_000_000), "clients"),
        "device": Key("raspberry-pi-5", shares, "device_shares"),
        "link": Key("wifi-pi", shares, "link_shares"),
        "link_state": Key("constant", text, "link_state"),
        "straggler_frac": Key(0.3, number(0, 1), "straggler_frac"),
        "straggler_slowdown": Key(10.0, span(1, 1e6), "straggler_slowdown"),
        "dropout_frac": Key(0.0, number(0, 0.99), "dropout_frac"),
        "availability": Key("always", text, "availability"),
        "arrival": Key("0 s", positive(seconds, "2 h", or_zero=True), "arrival_s"),
        "lifetime": Key("none", at_most_none(seconds, "3 h"), "lifetime_s"),
        "battery": Key("none", at_most_none(joules, "50 kJ"), "battery_j"),
        "energy_error_frac": Key(0.15, number(0, 0.95), "energy_error_frac"),
        "awake_frac": Key(1.0, number(0, 1), "awake_frac"),
    },
    "budget": {
        "energy": Key("400 J", at_most_none(joules, "400 J"), "energy_j"),
        "horizon": Key("1 h", positive(seconds, "1 h"), "horizon_s"),
        "upload": Key("none", at_most_none(size_bytes, "20 MB", low=1.0), "upload_bytes"),
    },
    "training": {
        "optimizer": Key("sgd", choice(*OPTIMIZERS), "optimizer"),
        "learning_rate": Key(0.05, number(0, 1e3, open_low=True), "learning_rate"),
        "learning_rate_decay": Key(1.0, number(0, 1, open_low=True), "learning_rate_decay"),
        "batch_size": Key(16, whole(1, 1_000_000), "batch_size"),
        "local_steps": Key(10, whole(1, 1_000_000), "local_steps"),
        "logit_adjustment": Key(False, flag, "logit_adjustment"),
        "memory": Key("none", memory_limits, "memory"),
    },
    "update": {
        "compress": Key(["topk:0.01", "quantize:8"], names, "compress"),
        "error_feedback": Key(True, flag, "error_feedback"),
    },
    "schedule": {
        "policy": Key("price-threshold", text, "policy"),
        "slot": Key("60 s", at_most_none(seconds, "60 s"), "slot_s"),
    },
    "server": {
        "method": Key("budjoule", choice(*METHODS), "method"),
        "cohort": Key(10, whole(1, 1_000_000), "cohort"),
        "buffer_size": Key(10, whole(1, 1_000_000), "buffer_size"),
        "learning_rate": Key(1.0, number(0, 1e3, open_low=True), "learning_rate"),
        "average": Key(0.9, number(0, 0.999999), "average"),
        "staleness": Key("polynomial", choice(*STALENESS), "staleness"),
        "damping": Key(False, flag, "damping"),
        "broadcast": Key([], names, "broadcast"),
        "aggregate": Key("mean", text, "aggregate"),
        "outlier_factor": Key(100.0, at_most_none(number(1, open_low=True), "100.0"), "outlier_factor"),
        "deadline": Key(
            "auto", lambda value: None if value == "auto" else positive(seconds, "12 s")(value), "deadline_s"
        ),
        "evaluate_every": Key("auto", lambda value: None if value == "auto" else whole(1)(value), "evaluate_every"),
    },
    "conditions": {
        "charging": Key(False, flag, "charging"),
        "unmetered": Key(False, flag, "unmetered"),
        "idle": Key(False, flag, "idle"),
        "battery_frac": Key(0.0, number(0, 1), "battery_frac"),
        "hours": Key("", hours, "hours"),
    },
    "privacy": {
        "epsilon": Key("none", at_most_none(number(0, open_low=True), "8.0"), "epsilon"),
        "delta": Key("none", at_most_none(number(0, 1, open_low=True), "1e-5"), "delta"),
        "clip": Key("none", at_most_none(number(0, open_low=True), "1.0"), "clip"),
        "participations": Key("auto", lambda value: None if value == "auto" else whole(1)(value), "participations"),
        "secure_aggregation": Key(False, flag, "secure_aggregation"),
    },
    "stop": {
        "target_accuracy_frac": Key(0.9, at_most_none(number(0, 1, open_low=True), "0.9"), "target_accuracy_frac"),
        "duration": Key("1 h", at_most_none(seconds, "1 h"), "duration_s"),
        "rounds": Key(200, at_most_none(whole(1), "200"), "rounds"),
    },
}
