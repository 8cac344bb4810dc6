"""Laws of the GPUs' joint fit: a thinned group keeps every power limit."""

from collections import Counter

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.evidence.gpus import Evidence, thinned
from budjoule.calibration.fit import GROUP_RUNS


@pytest.mark.parametrize("limits", [5, 7, 8, 9])
def test_a_thinned_group_keeps_every_limit(limits: int) -> None:
    work = bj.trace(nn.Linear(8, 8), torch.empty(1, 8))
    swept = [
        bj.Observation(workload=work, duration_s=1.0, energy_j=1.0, power_limit_w=100.0 + 25 * limit, group="model")
        for _ in range(40)  # batch sizes
        for limit in range(limits)
    ]
    alone = [bj.Observation(workload=work, duration_s=1.0, energy_j=1.0, clock_hz=1e9, group="clocks")] * 100
    kept = thinned([*swept, *alone])
    assert sum(o.group == "clocks" for o in kept) == 100
    found = Counter(o.power_limit_w for o in kept if o.group == "model")
    assert sum(found.values()) == pytest.approx(4 * GROUP_RUNS, abs=2)
    assert len(found) == limits
    assert max(found.values()) <= 3 * min(found.values())


def test_a_family_is_left_out_with_all_of_its_models() -> None:
    """Else a sibling of what is scored would be fitted on."""
    work = bj.trace(nn.Linear(8, 8), torch.empty(1, 8))
    groups = ("bert-large", "bert-huge-uncased", "resnet50, host-bound", "resnet50", "opt-1.3b")
    rows = [bj.Observation(workload=work, duration_s=1.0, energy_j=1.0, group=group) for group in groups]
    evidence = Evidence(runs={"a": rows, "b": rows[:2]}, tables={}, sources={})
    assert [o.group for o in evidence.without_family("bert").runs["a"]] == list(groups[2:])
    assert evidence.without_family("bert").runs["b"] == []
    assert [o.group for o in evidence.without_family("resnet50").runs["a"]] == [*groups[:2], "opt-1.3b"]
