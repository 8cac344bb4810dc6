"""Laws of what is assumed where a model looks at values that are not there."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import budjoule as bj
from budjoule.energy.ops.dataless import ALL_TRUE, ASSUMED, BALANCED
from budjoule.energy.workload import Workload


def flop_of(work: Workload, phase: str = "forward") -> int:
    return sum(op.flop * op.calls for op in work.ops if op.phase == phase)


class Experts(nn.Module):
    """A mixture that loops over its experts and gathers the tokens of each."""

    def __init__(self, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.router = nn.Linear(8, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(experts))
        self.chosen = chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, picked = self.router(x).softmax(-1).topk(self.chosen)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            token, place = torch.where(picked == i)
            out = out.index_add(0, token, expert(x[token]) * weights[token, place, None])
        return out


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(("experts", "chosen"), [(4, 2), (8, 1), (8, 3)])
def test_router_spreads_tokens_evenly(experts: int, chosen: int, mode: str) -> None:
    work = bj.trace(Experts(experts, chosen), torch.randn(64, 8), mode=mode, optimizer="none")
    each = {
        op.module: op.flop * op.calls for op in work.ops if op.phase == "forward" and op.module.startswith("experts")
    }
    assert set(each.values()) == {2 * 64 * chosen // experts * 8 * 8}
    assert len(each) == experts
    assert flop_of(work) == 2 * 64 * 8 * (experts + chosen * 8)
    assert BALANCED in work.notes


@pytest.mark.parametrize("name", ["topk.default", "sort.default", "argmax.default"])
@pytest.mark.parametrize(("shape", "dim"), [((6, 12), 1), ((6, 12), 0), ((2, 3, 4), 1)])
def test_choices_have_the_shape_of_pytorchs_and_lie_in_range(name: str, shape: tuple[int, ...], dim: int) -> None:
    x = torch.empty(shape, device="meta")
    call = (x, 2, dim) if name == "topk.default" else (x, dim)
    made = ASSUMED[name].run(*call)
    real = getattr(torch, name.split(".")[0])(torch.randn(shape), *call[1:])
    index, expected = (made, real) if isinstance(made, torch.Tensor) else (made[1], real[1])
    assert index.shape == expected.shape
    assert index.dtype == expected.dtype
    assert 0 <= index.min() <= index.max() < shape[dim]
    if isinstance(made, tuple):
        assert made[0].is_meta
        assert made[0].shape == real[0].shape


def test_masks_of_activations_select_everything_and_known_masks_what_they_hold() -> None:
    class Select(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return x[x[:, 0] > 0 if mask is None else mask] @ x.T

    x = torch.randn(16, 4)
    half = bj.trace(Select(), (x, torch.arange(16) < 8))
    whole = bj.trace(Select(), x)
    assert half.flop * 2 == whole.flop == 2 * 16 * 4 * 16
    assert ALL_TRUE in whole.notes
    assert not half.notes


def test_tests_of_activations_find_nothing_unusual() -> None:
    class Careful(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.isinf(x).any():
                x = x @ x
            if (x == x).all():
                return x
            return x @ x

    assert bj.trace(Careful(), torch.randn(4, 4)).flop == 0


def test_values_read_are_noted_with_their_line() -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[: int(x.sum().item())]

    (note,) = bj.trace(Reads(), torch.randn(4, 4)).notes
    assert "test_dataless.py:" in note


def test_lists_of_unknown_values_are_refused_with_their_line() -> None:
    class Lists(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat(x.split(x.sum(1).long().tolist()))

    with pytest.raises(bj.BudjouleError, match=r"test_dataless\.py:\d+; pass .* real integer"):
        bj.trace(Lists(), torch.randn(4, 4))


def test_integer_tables_made_on_the_device_keep_their_values() -> None:
    class Tables(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes = torch.tensor([1, 3], device=x.device)
            return torch.cat([part @ part.T for part in x.split(sizes.tolist()) if part.shape[0] > 1])

    assert bj.trace(Tables(), torch.randn(4, 5)).flop == 2 * 3 * 5 * 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_grouped_products_cost_their_rows_in_any_precision(precision: str) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 16, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ends = torch.arange(1, 5, dtype=torch.int32) * (x.shape[0] // 4)
            return F.grouped_mm(x, self.weight, offs=ends)

    work = bj.trace(Grouped(), torch.randn(64, 16), mode="training", precision=precision, optimizer="none")
    assert flop_of(work) == flop_of(work, "backward") == 2 * 64 * 16 * 32  # the input needs no gradient


def test_counting_integers_works_as_on_cuda() -> None:
    class Counts(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.histc(ids, bins=4, min=0, max=3)

    work = bj.trace(Counts(), torch.tensor([0, 1, 1, 3]))
    assert [op.name for op in work.ops] == ["aten.histc"]


def test_products_of_nothing_cost_nothing() -> None:
    class Empty(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:0] @ x.T + x[:0] @ x.T

    work = bj.trace(Empty(), torch.randn(4, 4))
    estimate = bj.predict(work, device="a100-pcie-40gb")
    assert work.flop == 0
    assert math.isfinite(estimate.energy_j)


def test_linear_algebra_rests_on_rules() -> None:
    class Solve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * self.scale
            a = x @ x.mT + torch.eye(8, device=x.device)
            factor = torch.linalg.cholesky(a)
            y = torch.linalg.solve_triangular(factor, x, upper=False) + torch.linalg.solve(a, x) + torch.linalg.inv(a)
            return y + torch.linalg.svd(x).S[:, None] + torch.linalg.qr(x).R + torch.linalg.eigvalsh(a)[:, None]

    work = bj.trace(Solve(), torch.randn(3, 8, 8), mode="training", optimizer="none")
    assert not work.unruled
    assert {op.phase for op in work.ops} == {"forward", "backward"}
