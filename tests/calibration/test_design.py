"""Laws of choosing runs: the choice ignores what was measured, and leaves less uncertainty than other choices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.calibration.design import choose_runs
from budjoule.calibration.prior import prior_for


@pytest.fixture(scope="module")
def candidates() -> list[bj.Observation]:
    works = [
        bj.trace(nn.Linear(width, width), torch.empty(batch, width), precision=precision)
        for precision in ("fp32", "bf16")
        for width, batch in ((64, 1), (512, 512), (4096, 4096), (64, 1 << 20))
    ]
    return [bj.Observation(workload=work, duration_s=1.0, energy_j=1.0) for work in works]


def test_choice_ignores_what_was_measured(candidates: list[bj.Observation]) -> None:
    prior = prior_for(bj.load_profile("a100-pcie-40gb").spec, None)
    other = [replace(o, duration_s=7.0 * (i + 1), energy_j=3.0 / (i + 1)) for i, o in enumerate(candidates)]
    assert choose_runs(candidates, prior, 3) == choose_runs(other, prior, 3)


def test_chosen_runs_pin_more_than_the_others(candidates: list[bj.Observation]) -> None:
    spec = bj.load_profile("a100-pcie-40gb").spec
    prior = prior_for(spec, None, name="synthetic")
    measured = [
        replace(o, duration_s=e.duration_s, energy_j=e.energy_j)
        for o in candidates
        for e in [bj.predict(o.workload, device=prior)]
    ]

    def left(chosen: list[int]) -> float:
        profile = bj.fit_profile([measured[i] for i in chosen], spec=spec, name="synthetic", starts=1)
        widths = [
            np.log(e.energy_high_j / e.energy_j) for o in measured for e in [bj.predict(o.workload, device=profile)]
        ]
        return float(np.mean(widths))

    order = choose_runs(candidates, prior, len(candidates))
    assert sorted(order) == list(range(len(candidates)))
    assert left(order[:3]) < left(order[-3:])


def test_more_runs_than_there_are_is_a_clear_error(candidates: list[bj.Observation]) -> None:
    with pytest.raises(bj.BudjouleError, match="at most"):
        choose_runs(candidates, prior_for(bj.load_profile("a100-pcie-40gb").spec, None), 99)
