"""Exports to flame-graph viewers keep every joule and nest properly."""

import json
import math
from collections.abc import Callable

import pytest

from budjoule.energy.estimate import Estimate
from budjoule.energy.reports.flamegraph import chrome_trace, speedscope


def test_speedscope_weights_add_up(make_estimate: Callable[..., Estimate]) -> None:
    estimate = make_estimate()
    document = json.loads(json.dumps(speedscope(estimate), allow_nan=False))
    energy, time = document["profiles"]
    for profile, whole in ((energy, estimate.energy_j), (time, estimate.duration_s)):
        assert math.isclose(sum(profile["weights"]), whole)
        assert math.isclose(profile["endValue"], whole)
        assert len(profile["samples"]) == len(profile["weights"])
    frames = document["shared"]["frames"]
    assert all(0 <= index < len(frames) for stack in energy["samples"] for index in stack)
    named = {frames[stack[-1]]["name"] for stack in energy["samples"]}
    assert named == {op.name for op in estimate.work.ops}


@pytest.mark.parametrize("process", [1, 2])
def test_chrome_trace_children_lie_inside_their_parents(make_estimate: Callable[..., Estimate], process: int) -> None:
    estimate = make_estimate()
    events = [e for e in chrome_trace(estimate)["traceEvents"] if e["ph"] == "X" and e["pid"] == process]
    whole = {1: estimate.energy_j, 2: estimate.duration_s}[process] * 1e6
    root = max(events, key=lambda event: event["dur"])
    assert root["name"] == estimate.work.model
    assert math.isclose(root["dur"], whole)
    ops = {op.name for op in estimate.work.ops}
    assert math.isclose(sum(event["dur"] for event in events if event["name"] in ops), whole)
    slack = 1e-9 * whole
    spans = sorted(((e["ts"], e["ts"] + e["dur"]) for e in events), key=lambda span: (span[0], -span[1]))
    enclosing: list[tuple[float, float]] = []
    for start, end in spans:
        while enclosing and enclosing[-1][1] <= start + slack:
            enclosing.pop()
        assert not enclosing or end <= enclosing[-1][1] + slack
        enclosing.append((start, end))
