"""Divides what a window cost among the modules or ops of a model: the measured total, in an estimate's shares."""

from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import UsageError
from budjoule.energy.measurement import Measurement

if TYPE_CHECKING:
    from torch.profiler import profile

    from budjoule.energy.estimate import Estimate

BY = ("module", "op")


def split(
    measurement: Measurement, estimate: "Estimate", *, by: str = "module", profiler: "profile | None" = None
) -> list[dict[str, Any]]:
    """Rows `{name, share_frac, energy_j, source}` that add up to the measured total, largest first.

    No counter sees a module. The shares are an estimate's, for one step of what ran any number of times in the window:

    ``E_row = E_measured e_row / sum(e)``

    With a profile of such steps the ops take their time from it, and the estimate gives their power:

    ``e_row = E_estimated,row T_profiled(op) / T_estimated(op)``

    where an op that the profile does not name keeps its estimated time, scaled as all others together were.

    Args:
        measurement: What the window cost.
        estimate: Of the same model, inputs and mode; whatever its device, only its shares count.
        by: `module` or `op`.
        profiler: A finished `torch.profiler.profile` of one or more such steps.

    Raises:
        UsageError: There is no such division, or the profile names none of the estimate's ops.
    """
    if by not in BY:
        raise UsageError(f"cannot split by {by!r}; give one of {', '.join(BY)}")
    ops = estimate.work.ops
    factors = dict.fromkeys((op.name for op in ops), 1.0) if profiler is None else _factors(estimate, profiler)
    weights: dict[str, float] = {}
    for op, energy_j in zip(ops, estimate.row_energy_j, strict=True):
        name = op.module if by == "module" else op.name
        weights[name] = weights.get(name, 0.0) + float(energy_j) * factors[op.name]
    total = sum(weights.values())
    how = "estimated share" if profiler is None else "share by profiled time and estimated power"
    article = "an" if measurement.source == "estimated" else "a"
    source = f"{how} of {article} {measurement.source} total"
    rows = [
        {"name": name, "share_frac": each / total, "energy_j": measurement.energy_j * each / total, "source": source}
        for name, each in weights.items()
    ]
    return sorted(rows, key=lambda row: -row["share_frac"])


def _factors(estimate: "Estimate", profiler: "profile") -> dict[str, float]:
    """By what each op's time was longer in the profile than in the estimate; of the whole, where the profile lacks it."""
    estimated_s: dict[str, float] = {}
    for op, duration_s in zip(estimate.work.ops, estimate.row_duration_s, strict=True):
        estimated_s[op.name] = estimated_s.get(op.name, 0.0) + float(duration_s)
    events = list(profiler.key_averages())
    on_device = any(event.device_time_total for event in events)
    profiled = {_name(event.key): event.device_time_total if on_device else event.cpu_time_total for event in events}
    known = [name for name, duration_s in estimated_s.items() if duration_s > 0 and profiled.get(name, 0) > 0]
    if not known:
        raise UsageError("the profile names none of the estimate's ops; profile steps of the model that was estimated")
    whole = sum(profiled[name] for name in known) / sum(estimated_s[name] for name in known)
    return {name: profiled[name] / estimated_s[name] if name in known else whole for name in estimated_s}


def _name(key: str) -> str:
    """The estimate's name of a profiler's event.

    >>> _name("aten::addmm"), _name("Optimizer.step#AdamW.step")
    ('aten.addmm', 'optimizer.adamw')
    """
    if key.startswith("Optimizer.step#"):
        return f"optimizer.{key.removeprefix('Optimizer.step#').removesuffix('.step').lower()}"
    return key.replace("::", ".")
