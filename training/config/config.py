"""A training configuration: TOML merged over a preset and the defaults, checked key by key at the file's border.

`load_config` is the only way in. The result keeps the merged document, so that a run records every key it used.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from budjoule.energy.errors import UsageError
from budjoule.training.config.config_keys import KEYS, whole
from budjoule.training.memory.limit import MemoryLimit
from budjoule.training.server.combinations import check_combinations
from budjoule.training.server.methods import METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt, from whose data."""

    data: str
    model: str
    partition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Who learns, on what, over which link.

    `awake_frac` of the time a device would be on without training; clients join evenly over `arrival_s` and stay for
    `lifetime_s` on average.
    """

    clients: int
    device_shares: Mapping[str, float]
    link_shares: Mapping[str, float]
    link_state: str
    straggler_frac: float
    straggler_slowdown: tuple[float, float]
    dropout_frac: float
    availability: str
    arrival_s: float
    lifetime_s: float
    battery_j: float
    energy_error_frac: float
    awake_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What each client may spend over the horizon; infinite where the file says "none"."""

    energy_j: float
    horizon_s: float
    upload_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One local block; its rate is multiplied by `learning_rate_decay` for each version of the model it starts from."""

    optimizer: str
    learning_rate: float
    learning_rate_decay: float
    batch_size: int
    local_steps: int
    logit_adjustment: bool
    memory: Mapping[str, MemoryLimit]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """How an update is made small."""

    compress: tuple[str, ...]
    error_feedback: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a client speaks; an infinite `slot_s` paces by the block's own duration."""

    policy: str
    slot_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How updates become versions, and how versions travel down.

    An update over `outlier_factor` times as long as usual is refused; infinite where the file says "none".
    """

    method: str
    cohort: int
    buffer_size: int
    learning_rate: float
    average: float
    staleness: str
    damping: bool
    broadcast: tuple[str, ...]
    aggregate: str
    outlier_factor: float
    deadline_s: float | None
    evaluate_every: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a device may work; `hours` of its day, None for any."""

    charging: bool
    unmetered: bool
    idle: bool
    battery_frac: float
    hours: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """How updates are protected; infinite where the file says "none", and `participations` None for "auto"."""

    epsilon: float
    delta: float
    clip: float
    participations: int | None
    secure_aggregation: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What ends a run, whichever comes first; infinite where the file says "none"."""

    target_accuracy_frac: float
    duration_s: float
    rounds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole, checked configuration.

    Args:
        document: Every key as a file would spell it, defaults included; loading it gives an equal configuration.
    """

    name: str
    seed: int
    task: Task
    fleet: FleetConfig
    budget: Budget
    training: Training
    update: UpdateConfig
    schedule: Schedule
    server: ServerConfig
    conditions: Conditions
    privacy: Privacy
    stop: Stop
    document: Mapping[str, Any]

    @property
    def slots(self) -> int:
        """T, the local blocks that fit in the horizon at one a slot; 0 where no slot is set."""
        return (
            max(1, int(self.budget.horizon_s / self.schedule.slot_s + 1e-9))
            if self.schedule.slot_s < float("inf")
            else 0
        )


_SECTIONS: dict[str, Any] = {
    "task": Task,
    "fleet": FleetConfig,
    "budget": Budget,
    "training": Training,
    "update": UpdateConfig,
    "schedule": Schedule,
    "server": ServerConfig,
    "conditions": Conditions,
    "privacy": Privacy,
    "stop": Stop,
}


def presets() -> dict[str, dict[str, Any]]:
    """The named starting points, each a partial document."""
    return tomllib.loads((files("budjoule.training.config") / "presets.toml").read_text(encoding="utf-8"))


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # a key may stand in the wrong section: compare the last part
        by_last = {key.rsplit(".", 1)[-1]: key for key in known}
        close = [by_last[hit] for hit in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_last, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else f"; the known ones are {', '.join(known)}"


def _merge(document: dict[str, Any], extra: Mapping[str, Any], origin: str) -> None:
    """Lay `extra` over `document` key by key, refusing what is not known."""
    everything = ["seed", "preset", *(f"{section}.{key}" for section, keys in KEYS.items() for key in keys)]
    for section, value in extra.items():
        if section in ("seed", "preset"):
            document[section] = value
        elif section not in KEYS:
            if isinstance(value, Mapping):
                raise UsageError(f"{origin}: unknown section [{section}]{_nearest(section, KEYS)}")
            raise UsageError(f"{origin}: unknown key {section!r}{_nearest(section, everything)}")
        elif not isinstance(value, Mapping):
            raise UsageError(f"{origin}: {section!r} is a section; write [{section}] and its keys below")
        else:
            for key, item in value.items():
                if key not in KEYS[section]:
                    raise UsageError(
                        f"{origin}: unknown key '{section}.{key}'{_nearest(f'{section}.{key}', everything)}"
                    )
                document[section][key] = item


def parse_override(override: str) -> dict[str, Any]:
    """One `section.key=value` of the command line as a partial document; the value is TOML, else a string.

    >>> parse_override("fleet.clients=5"), parse_override("budget.energy=2 kJ")
    ({'fleet': {'clients': 5}}, {'budget': {'energy': '2 kJ'}})
    """
    name, equals, value = override.partition("=")
    parts = name.strip().split(".")
    if not equals or len(parts) > 2 or not all(parts):
        raise UsageError(f"cannot read --set {override!r}; write it like fleet.clients=50")
    try:
        item = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        item = value.strip()
    return {parts[0]: item} if len(parts) == 1 else {parts[0]: {parts[1]: item}}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The document in a TOML file.

    Raises:
        UsageError: The file is absent, unreadable or no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"cannot read the configuration {path}: {reason}; give the path of a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def load_config(
    source: "str | Path | Mapping[str, Any] | Config",
    *,
    overrides: Iterable[str | Mapping[str, Any]] = (),
    seed: int | None = None,
) -> Config:
    """Read, merge and check a configuration: defaults, then the preset, then the file, then the overrides.

    Args:
        source: A TOML file, a document of the same shape, or a configuration.
        overrides: Later documents, or `section.key=value` strings.
        seed: Replaces the file's seed.

    Raises:
        UsageError: A key is unknown, a value is out of range or unreadable, or its part is not built yet.
    """
    if isinstance(source, Config):
        name, given, origin = source.name, dict(source.document), "configuration"
    elif isinstance(source, Mapping):
        name, given, origin = "run", dict(source), "configuration"
    else:
        name, given, origin = Path(source).stem, read_toml(source), str(source)
    layers = [(origin, given)]
    layers += [
        (f"--set {item}", parse_override(item)) if isinstance(item, str) else ("override", dict(item))
        for item in overrides
    ]
    preset = next((layer["preset"] for _, layer in reversed(layers) if "preset" in layer), None)
    document: dict[str, Any] = {"seed": 0} | {
        section: {key: row.default for key, row in keys.items()} for section, keys in KEYS.items()
    }
    known = presets() if preset is not None else {}
    if preset is not None:
        if not isinstance(preset, str) or preset not in known:
            raise UsageError(f"{origin}: unknown preset {preset!r}{_nearest(str(preset), known)}")
        _merge(document, known[preset], f"preset {preset!r}")
    for layer_origin, layer in layers:
        _merge(document, layer, layer_origin)
    if seed is not None:
        document["seed"] = seed
    said = [layer for _, layer in layers]
    if preset is not None and known[preset]["server"]["method"] == document["server"]["method"]:
        said.append(known[preset])  # of another method's preset the staleness is not this one's
    if not any("staleness" in layer.get("server", {}) for layer in said):
        method = document["server"]["method"]
        document["server"]["staleness"] = METHODS[method].staleness if method in [*METHODS] else "constant"
    return _check(name, document, origin)


def _check(name: str, document: dict[str, Any], origin: str) -> Config:
    sections: dict[str, Any] = {}
    for section, keys in KEYS.items():
        fields = {}
        for key, row in keys.items():
            try:
                fields[row.field] = row.read(document[section][key])
            except UsageError as error:
                raise UsageError(f"{origin}: {section}.{key}: {error}") from None
        sections[section] = _SECTIONS[section](**fields)
    try:
        seed = whole(0, 2**63 - 1)(document["seed"])
    except UsageError as error:
        raise UsageError(f"{origin}: seed: {error}") from None
    config = Config(name=name, seed=seed, document=json.loads(json.dumps(document)), **sections)
    try:
        check_combinations(config)
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from None
    return config
