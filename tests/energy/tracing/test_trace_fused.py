"""Laws of fusion: never more bytes, launches or energy, the same arithmetic, and kernels that can run one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import budjoule as bj
from budjoule.energy.tracing.fusion import Call, fuse, kernels_of
from budjoule.energy.workload import KINDS, OpCost

MODELS = {
    "chain": lambda: nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1), nn.Sigmoid(), nn.Linear(64, 64)),
    "norms": lambda: nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(inplace=True), nn.Softmax(-1)),
    "encoder": lambda: nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),
    "product": lambda: nn.Linear(64, 64),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", MODELS)
def test_fusing_never_adds_and_keeps_the_arithmetic(name: str, mode: str, precision: str) -> None:
    model, x = MODELS[name](), torch.randn(8, 32, 64)
    plain, fused = (bj.trace(model, x, mode=mode, precision=precision, fused=f) for f in (False, True))
    assert fused.flop == plain.flop
    for what in ("elements", "heavy_elements", "weight_bytes"):
        assert sum(getattr(op, what) * op.calls for op in fused.ops) == sum(
            getattr(op, what) * op.calls for op in plain.ops
        )
    assert fused.moved_bytes <= plain.moved_bytes
    assert fused.launches <= plain.launches
    costs = [bj.predict(work, device="a100-pcie-40gb") for work in (fused, plain)]
    assert costs[0].energy_j < costs[1].energy_j
    assert any("torch.compile" in note for note in fused.notes)


def test_a_chain_reads_its_input_and_writes_its_output_once() -> None:
    model = nn.Sequential(nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.ReLU())
    fused = bj.trace(model, torch.randn(1000), fused=True)
    assert fused.moved_bytes == 2 * 4 * 1000
    assert fused.launches == 1


def test_what_the_backward_pass_needs_is_still_written() -> None:
    model = nn.Sequential(nn.Linear(10, 1000), nn.Sigmoid(), nn.Tanh())
    fused = bj.trace(model, torch.randn(5, 10), mode="training", optimizer="none", fused=True)
    forward = sum(op.activation_bytes * op.calls for op in fused.ops if op.phase == "forward" and op.kind != "matmul")
    # the product's output is read, both activations are kept for their gradients, and the mean reads no more
    assert forward >= 3 * 4 * 5000


def test_products_stay_kernels_of_their_own() -> None:
    fused = bj.trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(4, 8), fused=True)
    assert [op.launches for op in fused.ops if op.kind == "matmul"] == [1, 1]


def test_what_joins_a_kernel_launches_none_on_a_processor_either() -> None:
    lead, joined = (
        Call(
            op=OpCost(name=name, kind="elementwise", precision="fp32", elements=10, cpu_launches=9),
            reads=((place, 40),),
            writes=((place + 1, 40),),
            numel=10,
        )
        for place, name in enumerate("ab")
    )
    fused = fuse([lead, joined])
    assert [(op.launches, op.cpu_launches) for op in fused] == [(1, 9), (0, None)]


@st.composite
def steps(draw: st.DrawFn) -> list[Call]:
    calls: list[Call] = []
    for index in range(draw(st.integers(1, 14))):
        reads = draw(st.sets(st.integers(-1, index - 1), max_size=3))
        op = OpCost(name=str(index), kind=draw(st.sampled_from(KINDS[:-1])), precision="fp32", activation_bytes=10_000)
        numel = draw(st.sampled_from((100, 100, 10)))
        calls.append(Call(op=op, reads=tuple((r, 40) for r in sorted(reads)), writes=((index, 40),), numel=numel))
    return calls


@settings(max_examples=300, deadline=None)
@given(steps())
def test_no_kernel_waits_for_itself(calls: list[Call]) -> None:
    place = kernels_of(calls)
    needs = {
        k: {place[b] for i, c in enumerate(calls) if place[i] == k for b, _ in c.reads if b >= 0} - {k} for k in place
    }
    done: set[int] = set()
    while len(done) < len(needs):
        ready = {k for k in needs if k not in done and needs[k] <= done}
        assert ready, f"a circle among {set(needs) - done}"
        done |= ready


@settings(max_examples=100, deadline=None)
@given(steps())
def test_any_step_moves_no_more_after_fusion(calls: list[Call]) -> None:
    fused = fuse(calls)
    assert sum(op.calls for op in fused) == len(calls)
    assert sum(op.launches * op.calls for op in fused) == len(set(kernels_of(calls)))
    assert sum(op.activation_bytes * op.calls for op in fused) <= 10_000 * len(calls)
