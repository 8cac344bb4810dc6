"""The rows of a run folder's files, checked: events, clients and totals. Extra keys are a later version's and ignored."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

CAUSES = ("compute", "uplink", "downlink", "idle")

Number = Annotated[float, Field(allow_inf_nan=False)]
ClientName = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """The server's model was evaluated; totals over all clients up to then."""

    time_s: Number
    version: int
    accuracy_frac: Number
    spent_j: Number
    uplink_bytes: Number
    downlink_bytes: Number
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A client sent an update, made from the model of `base_version`; `spent_j` is what it had spent by then in all."""

    time_s: Number
    client: ClientName
    size_bytes: Number
    energy_j: Number
    base_version: int | None = None
    staleness: Number | None = None
    level: int | str | None = None
    spent_j: Number | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """The server averaged a buffer of updates into a new version."""

    time_s: Number
    version: int
    updates: int
    mean_staleness: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The server refused an update."""

    time_s: Number
    reason: str
    client: ClientName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client's row of the summary."""

    client: ClientName
    device: str = "-"
    link: str = "-"
    examples: int | None = None
    budget_j: Number | None = None
    spent_j: Number = 0.0
    spent_by_cause_j: dict[str, Number] = field(default_factory=dict)
    overspent_j: Number = 0.0
    uplink_bytes: Number = 0
    downlink_bytes: Number = 0
    sends: int = 0
    taken: int = 0
    blocks: int | None = None
    straggler: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The summary's sums over clients and its results; None where a run has no such number, or not yet."""

    accuracy_frac: Number | None = None
    target_accuracy_frac: Number | None = None
    time_to_target_s: Number | None = None
    energy_to_target_j: Number | None = None
    uplink_bytes_to_target: Number | None = None
    budget_j: Number | None = None
    spent_j: Number | None = None
    spent_by_cause_j: dict[str, Number] = field(default_factory=dict)
    uplink_bytes: Number | None = None
    downlink_bytes: Number | None = None
    peak_memory_bytes: Number | None = None
    simulated_duration_s: Number | None = None
    wall_duration_s: Number | None = None
    rounds: int | None = None
    clients: int | None = None
    overspent_clients: int | None = None
    worst_decile_accuracy_frac: Number | None = None
    participating_clients: int | None = None
    method: str | None = None
    stopped_by: str | None = None
    seed: int | None = None
    model_sha256: str | None = None
