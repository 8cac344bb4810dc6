"""What a processor takes one element at a time, by op: counted from shapes, and nothing where its kernels are vectorised."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import budjoule as bj
from budjoule.calibration.microbenchmarks import Apply
from budjoule.energy.tracing.optimizers import STEP_CALLS

X = torch.empty(8, 16, 32, 32)
COUNT = X.numel()


def loops(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor = X) -> tuple[int, bool]:
    ops = bj.trace(Apply(function), x).ops
    return sum(op.loop_elements * op.calls for op in ops), any(op.serial for op in ops)


def test_a_max_pooling_compares_each_place_of_its_windows() -> None:
    assert loops(lambda x: F.max_pool2d(x, 2)) == (COUNT, False)
    assert loops(lambda x: F.max_pool2d(x, 3, 1, 1)) == (9 * COUNT, False)


def test_a_sort_compares_n_log_n_times_and_a_top_k_what_it_keeps() -> None:
    x = torch.empty(100, 1024)
    assert loops(lambda x: x.sort().values, x)[0] == 100 * 1024 * 10
    assert loops(lambda x: x.sort(dim=0).values, x)[0] == pytest.approx(100 * 1024 * 6.64, rel=0.01)
    assert loops(lambda x: x.topk(16).values, x)[0] == 100 * 16 * 4


def test_coins_are_serial_and_dearer_the_fairer_they_are() -> None:
    rare, fair = (loops(lambda x, p=p: F.dropout(x, p, training=True)) for p in (0.1, 0.5))
    assert rare[1]
    assert fair[1]
    assert COUNT < rare[0] < fair[0] < 3 * COUNT
    assert loops(lambda x: F.dropout(x, 0.9, training=True))[0] == rare[0]


@pytest.mark.parametrize("function", [torch.relu, torch.clone, lambda x: x.softmax(-1), lambda x: x.mean((2, 3))])
def test_vectorised_kernels_have_none(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert loops(function) == (0, False)


def test_batch_norm_loops_over_planes_where_it_takes_statistics() -> None:
    norm, flat = nn.BatchNorm2d(16), nn.BatchNorm1d(64)
    assert sum(op.loop_elements for op in bj.trace(norm, X, mode="training").ops) > 0
    assert sum(op.loop_elements for op in bj.trace(norm, X, mode="inference").ops) == 0
    assert sum(op.loop_elements for op in bj.trace(flat, torch.empty(32, 64), mode="training").ops) == 0


def test_a_processor_steps_through_parameters_one_by_one() -> None:
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(5)])
    for optimizer, kernels in (("sgd", 1), ("adam", 7), ("adamw-fused", 1)):
        ops = bj.trace(model, torch.empty(2, 8), mode="training", optimizer=optimizer).ops
        assert sum(op.cpu_launches or 0 for op in ops) == kernels * 10 + STEP_CALLS


def test_recurrent_steps_that_no_library_fuses_are_many_kernels() -> None:
    def launches(layer: type[nn.RNNBase]) -> list[int]:
        ops = bj.trace(layer(8, 8, batch_first=True), torch.empty(2, 20, 8)).ops
        return [op.cpu_launches for op in ops if op.cpu_launches is not None]

    assert launches(nn.LSTM) == []
    assert launches(nn.GRU) == [14 * 20]
    assert launches(nn.RNN) == [4 * 20]
