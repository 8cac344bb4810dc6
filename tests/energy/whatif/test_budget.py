"""Laws of budgets: the steps that are counted fit and one more does not, and epochs are steps in other words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import budjoule as bj
from budjoule.energy.whatif.budget import Budget, parse_budget

ESTIMATE = bj.estimate(nn.Linear(256, 256), torch.randn(32, 256), device="cpu-generic", mode="training")


@given(energy_j=st.floats(1e-3, 1e6), epoch_examples=st.integers(1, 10**6))
def test_what_fits_is_the_most_that_does(energy_j: float, epoch_examples: int) -> None:
    found = Budget(energy_j=energy_j, epoch_examples=epoch_examples).fitting(ESTIMATE)
    assert found["steps"] * ESTIMATE.energy_j <= energy_j * (1 + 1e-9)
    assert (found["steps"] + 1) * ESTIMATE.energy_j > energy_j * (1 - 1e-9)
    assert found["steps_low"] <= found["steps"] <= found["steps_high"]
    assert found["epochs_low"] <= found["epochs"] <= found["epochs_high"]
    steps_of_an_epoch = (epoch_examples + 31) // 32
    assert found["epochs"] * steps_of_an_epoch == pytest.approx(energy_j / ESTIMATE.energy_j)


def test_epochs_are_counted_only_where_their_size_is_known() -> None:
    assert "epochs" not in Budget(energy_j=1.0).fitting(ESTIMATE)
    assert parse_budget(None, None) is None
    assert parse_budget("2 kJ", 100) == Budget(energy_j=2000.0, epoch_examples=100)


@pytest.mark.parametrize(
    ("energy", "examples", "said"), [("-1 J", None, "positive"), ("1 J", 0, "at least 1"), (None, 5, "--budget")]
)
def test_no_budget_is_a_clear_error(energy: str | None, examples: int | None, said: str) -> None:
    with pytest.raises(bj.BudjouleError, match=said):
        parse_budget(energy, examples)
