"""What a client's own data say: label frequencies, and how well a model serves whom it serves worst."""

import numpy as np
import pytest
import torch

from budjoule.training.task.data import Data
from budjoule.training.task.shards import Shards


def shards(parts: list[list[int]], *, priors: bool = False) -> Shards:
    """Of forty examples, ten a class."""
    labels = torch.arange(40) // 10
    data = Data(
        name="forty",
        owners=None,
        classes=4,
        inputs=torch.zeros(40, 1),
        labels=labels,
        test_inputs=torch.zeros(8, 1),
        test_labels=torch.arange(8) // 2,
    )
    return Shards(data, [np.array(part) for part in parts], priors=priors)


def test_the_worst_decile_is_the_tenth_that_is_served_worst() -> None:
    """Twenty clients of one class each: a model that knows all but the last class leaves two of them with nothing."""
    of_class = {label: list(range(10 * label, 10 * label + 2)) for label in range(4)}
    worst = [of_class[3]] * 2
    made = shards([*[of_class[0]] * 10, *worst, *[of_class[1]] * 8])
    right = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.bool)
    assert made.worst_decile_accuracy(right) == 0.0
    assert made.worst_decile_accuracy(torch.tensor([1, 1, 1, 1, 1, 1, 1, 0], dtype=torch.bool)) == 0.5
    three = shards([*[of_class[0]] * 19, of_class[3]])
    assert three.worst_decile_accuracy(right) == 0.5  # two clients: one with nothing, one with all


def test_a_client_is_served_by_what_it_meets() -> None:
    half = shards([[0, 1, 2, 30, 31, 32]])
    assert half.worst_decile_accuracy(torch.tensor([1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool)) == pytest.approx(0.5)


def test_a_prior_is_the_logarithm_of_the_frequencies_and_finite_where_a_class_was_never_seen() -> None:
    prior = shards([[0, 1, 2, 10]], priors=True).prior(0)
    assert prior is not None
    assert prior[:2].exp().tolist() == pytest.approx([0.75, 0.25])
    assert prior[2:].exp().tolist() == pytest.approx([0.0025, 0.0025])
    assert shards([[0]]).prior(0) is None
