"""Exports an estimate to the flame-graph viewers people have: speedscope and Chrome's trace viewer (also Perfetto).

A stack is model, phase, module path, op; its weight is joules, and seconds in a second profile.
"""

from collections.abc import Callable, Iterator
from typing import Any

from budjoule.energy.estimate import Estimate

Stack = tuple[str, ...]
_MICRO = 1e6


def speedscope(estimate: Estimate) -> dict[str, Any]:
    """An estimate as a speedscope document of two profiles, energy and time.

    Source: https://github.com/jlfwong/speedscope/wiki/Importing-from-custom-sources
    """
    stacks = _stacks(estimate)
    frames = {name: index for index, name in enumerate(dict.fromkeys(name for stack, _, _ in stacks for name in stack))}
    samples = [[frames[name] for name in stack] for stack, _, _ in stacks]

    def profile(name: str, unit: str, weights: list[float]) -> dict[str, Any]:
        span = {"type": "sampled", "name": name, "unit": unit, "startValue": 0, "endValue": sum(weights)}
        return span | {"samples": samples, "weights": weights}

    title = f"{estimate.work.model} {estimate.mode} on {estimate.device}, {estimate.source}"
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "budjoule",
        "name": title,
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": [
            profile(f"energy [J]: {title}", "none", [energy_j for _, energy_j, _ in stacks]),
            profile(f"time [s]: {title}", "seconds", [duration_s for _, _, duration_s in stacks]),
        ],
    }


def chrome_trace(estimate: Estimate) -> dict[str, Any]:
    """An estimate in the trace-event format: one track whose microseconds are microjoules, one of real time.

    Source: Trace Event Format, complete events (`ph` is X).
    """
    stacks = _stacks(estimate)
    events: list[dict[str, Any]] = []
    tracks: list[tuple[int, str, Callable[[tuple[Stack, float, float]], float]]] = [
        (1, "energy: 1 us stands for 1 uJ", lambda row: row[1]),
        (2, "time", lambda row: row[2]),
    ]
    for process, name, weight in tracks:
        events.append({"name": "process_name", "ph": "M", "pid": process, "tid": 0, "args": {"name": name}})
        weights = [weight(row) for row in stacks]
        events += _nested([row[0] for row in stacks], weights, process=process)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"model": estimate.work.model, "device": estimate.device, "source": estimate.source},
    }


def _stacks(estimate: Estimate) -> list[tuple[Stack, float, float]]:
    """Stacks with their joules and seconds, sorted so that a module's stacks stand side by side, in order of first use."""
    found: dict[Stack, list[float]] = {}
    first: dict[Stack, int] = {}
    for op, energy_j, duration_s in zip(estimate.work.ops, estimate.row_energy_j, estimate.row_duration_s, strict=True):
        stack = (estimate.work.model, op.phase, *filter(None, op.module.split(".")), op.name)
        for depth in range(1, len(stack) + 1):
            first.setdefault(stack[:depth], len(first))
        row = found.setdefault(stack, [0.0, 0.0])
        row[0] += float(energy_j)
        row[1] += float(duration_s)
    ordered = sorted(found, key=lambda stack: [first[stack[:depth]] for depth in range(1, len(stack) + 1)])
    return [(stack, found[stack][0], found[stack][1]) for stack in ordered]


def _nested(stacks: list[Stack], weights: list[float], *, process: int) -> Iterator[dict[str, Any]]:
    """Complete events: every prefix shared by neighbours spans them all."""
    open_frames: list[tuple[str, float]] = []
    at = 0.0

    def close(depth: int) -> Iterator[dict[str, Any]]:
        while len(open_frames) > depth:
            name, start = open_frames.pop()
            yield {
                "name": name,
                "ph": "X",
                "pid": process,
                "tid": 1,
                "ts": start * _MICRO,
                "dur": (at - start) * _MICRO,
            }

    previous: Stack = ()
    for stack, weight in zip(stacks, weights, strict=True):
        shared = 0
        while shared < min(len(stack), len(previous)) and stack[shared] == previous[shared]:
            shared += 1
        yield from close(shared)
        open_frames += [(name, at) for name in stack[shared:]]
        at += weight
        previous = stack
    yield from close(0)
