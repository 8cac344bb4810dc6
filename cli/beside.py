"""`budjoule profile --measure`: the step that was estimated, run on this machine and measured beside its estimate."""

import time
from collections.abc import Callable
from typing import Any

from budjoule.cli.aside import stdout_aside
from budjoule.energy.errors import UsageError
from budjoule.energy.units import show

WARM_S, MEASURED_S, BLOCK_S = 1.0, 5.0, 0.05


def measured_step(model: str, inputs: str, how: dict[str, Any]) -> dict[str, Any]:
    """Run the step for some seconds and measure one: `{energy_j, energy_low_j, energy_high_j, duration_s, ...}`.

    Args:
        model: What the user typed as MODEL.
        inputs: What the user typed as --input.
        how: mode, optimizer, precision and fused, as the estimate was made.

    Raises:
        UsageError: The model cannot be run as it was estimated.
    """
    if how["fused"]:
        raise UsageError("--measure runs the model without torch.compile; leave --fused out")
    import torch

    from budjoule.energy.model_spec import build_model, parse_inputs
    from budjoule.energy.real_step import real_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {name: how[name] for name in ("mode", "optimizer", "precision")}
    with stdout_aside():
        step = real_step(build_model(model, real=True), parse_inputs(inputs), device=device, **settings)
        synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
        try:
            return {"device": device, **_repeated(step, synchronize)}
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{model} does not run on this machine's {device}: {reason}; leave --measure out"
            ) from error


def _repeated(step: Callable[[], None], synchronize: Callable[[], object]) -> dict[str, Any]:
    """Mean of as many steps as fit into the time, after a warm-up."""
    from budjoule.energy.measure import measure

    warm = _run_for(WARM_S, step, synchronize, block=1)
    block = max(1, round(warm * BLOCK_S / WARM_S))  # a GPU that is waited for after every step would idle between them
    with measure("steps", synchronize=synchronize) as window:
        steps = _run_for(MEASURED_S, step, synchronize, block=block)
    m = window.measurement
    keys = ("energy_j", "energy_low_j", "energy_high_j", "duration_s")
    return {
        **{key: getattr(m, key) / steps for key in keys},
        "power_w": m.power_w,
        "steps": steps,
        "source": m.source,
        "method": m.method,
        "notes": list(m.notes),
    }


def _run_for(duration_s: float, step: Callable[[], None], synchronize: Callable[[], object], *, block: int) -> int:
    steps, end_s = 0, time.perf_counter() + duration_s
    while steps == 0 or time.perf_counter() < end_s:
        for _ in range(block):
            step()
        synchronize()
        steps += block
    return steps


def beside(measured: dict[str, Any], estimates: list[dict[str, Any]]) -> list[str]:
    """Lines that set what was measured beside each estimate."""
    energy = f"{show(measured['energy_j'], 'J')} ({show(measured['energy_low_j'], 'J')} to {show(measured['energy_high_j'], 'J')})"
    rows = [
        f"run here ({measured['device']}, {measured['steps']} steps): {energy} and {show(measured['duration_s'], 's')} a step, "
        f"{show(measured['power_w'], 'W')}; energy {measured['source']}: {measured['method']}"
    ]
    for row in estimates:
        energy_ratio, time_ratio = (
            f"{row[key] / measured[key]:.3g}" if measured[key] else "-" for key in ("energy_j", "duration_s")
        )
        rows.append(
            f"  the estimate for {row['device']} is {energy_ratio} times that energy and {time_ratio} times that time"
        )
    return [*rows, *(f"  note: {note}" for note in measured["notes"])]
