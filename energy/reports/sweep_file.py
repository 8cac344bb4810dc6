"""Reads a sweep (`budjoule profile --sweep --json`) back into the settings that the sweep's table and page show."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from budjoule.energy.errors import RunError, UsageError
from budjoule.energy.estimate import Estimate
from budjoule.energy.reports.run_folder import checked
from budjoule.energy.whatif.budget import Budget
from budjoule.energy.whatif.choice import Choice, parse_goal
from budjoule.energy.whatif.sweep import AXES, SCHEMA, Point, Sweep
from budjoule.energy.workload import Workload

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFile:
    """A row of a sweep's `points`."""

    device: str
    status: str
    model: str
    mode: str
    precision: str
    optimizer: str | None
    clock_hz: Positive
    power_limited: bool
    energy_j: Positive
    energy_low_j: Positive
    energy_high_j: Positive
    idle_energy_j: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    duration_s: Positive
    duration_low_s: Positive
    duration_high_s: Positive
    unruled_energy_frac: Annotated[float, Field(ge=0, le=1)]
    batch: Annotated[int, Field(gt=0)]
    wanted_clock_hz: Positive | None
    power_limit_w: Positive | None
    efficient: bool
    peak_memory_bytes: int = 0
    fits: bool = True
    budget_j: Positive | None = None
    epoch_examples: Annotated[int, Field(gt=0)] | None = None

    def point(self) -> Point:
        """The setting, with an estimate that knows no ops."""
        work = Workload(
            model=self.model,
            mode=self.mode,
            precision=self.precision,
            optimizer=self.optimizer,
            ops=(),
            examples=self.batch,
            peak_memory_bytes=self.peak_memory_bytes,
        )
        kept = {f.name: getattr(self, f.name) for f in fields(Estimate) if hasattr(self, f.name)}
        estimate = Estimate(work=work, notes=(), row_energy_j=np.empty(0), row_duration_s=np.empty(0), **kept)
        return Point(
            batch=self.batch,
            wanted_clock_hz=self.wanted_clock_hz,
            power_limit_w=self.power_limit_w,
            estimate=estimate,
            efficient=self.efficient,
            fits=self.fits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceFile(PointFile):
    """A row of a sweep's `choices`."""

    saving_frac: Number
    saving_low_frac: Number
    saving_high_frac: Number
    default: PointFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRows:
    """A sweep's document, checked."""

    axes: dict[str, list[Positive]]
    points: Annotated[list[PointFile], Field(min_length=1)]
    notes: list[str] = field(default_factory=list)
    goal: str | None = None
    choices: list[ChoiceFile] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """A sweep read back, what was chosen of it, and the document it came from."""

    sweep: Sweep
    choices: tuple[Choice, ...]
    budget: Budget | None
    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The document as it was read."""
        return self.document


def sweep_file(document: dict[str, Any], where: str) -> SweepFile:
    """Check a document of schema `budjoule.sweep/1`.

    Raises:
        RunError: It is no whole sweep; names `where` and the key.
    """
    rows = checked(TypeAdapter(SweepRows), document, where)
    if not rows.axes or set(rows.axes) - set(AXES):
        raise RunError(f"{where}: axes: one or more of {', '.join(AXES)}")
    points = tuple(row.point() for row in rows.points)
    sweep = Sweep(axes={k: tuple(v) for k, v in rows.axes.items()}, points=points, notes=tuple(rows.notes))
    try:
        goal = parse_goal(rows.goal) if rows.goal is not None else None
    except UsageError as error:
        raise RunError(f"{where}: goal: {error}") from None
    if rows.choices and goal is None:
        raise RunError(f"{where}: choices without a goal")
    if missing := {c.device for c in rows.choices} - set(sweep.devices):
        raise RunError(f"{where}: choices: {', '.join(sorted(missing))} has no points")
    choices = tuple(
        Choice(
            goal=goal,
            point=row.point(),
            default=row.default.point(),
            saving_frac=row.saving_frac,
            saving_low_frac=row.saving_low_frac,
            saving_high_frac=row.saving_high_frac,
        )
        for row in rows.choices
        if goal is not None
    )
    first = rows.points[0]
    budget = Budget(energy_j=first.budget_j, epoch_examples=first.epoch_examples) if first.budget_j else None
    return SweepFile(sweep=sweep, choices=choices, budget=budget, document=document)


__all__ = ["SCHEMA", "SweepFile", "sweep_file"]
