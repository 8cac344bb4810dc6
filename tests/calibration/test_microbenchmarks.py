"""Laws of the microbenchmarks: what runs is what is traced, work grows with the device, what is held out is real training."""

import math

import pytest
import torch

import budjoule as bj
from budjoule.calibration.microbenchmarks import SUITE, Copy, Microbenchmark, prepare

SMALL_FLOP = 1e9


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda b: b.name)
def test_what_is_traced_runs(benchmark: Microbenchmark) -> None:
    planned = prepare(benchmark, cores=1, device="meta").workload
    assert planned.ops
    assert not planned.unruled
    assert planned.precision == benchmark.precision
    if planned.flop < SMALL_FLOP and planned.moved_bytes < 1e8 and "cpu" in benchmark.kinds:
        prepared = prepare(benchmark, cores=1)
        prepared.step()
        assert prepared.workload.flop == planned.flop
        assert prepared.workload.moved_bytes == planned.moved_bytes


@pytest.mark.parametrize("benchmark", [b for b in SUITE if b.training], ids=lambda b: b.name)
def test_training_stays_finite(benchmark: Microbenchmark) -> None:
    torch.manual_seed(0)
    module, x = benchmark.build(1)
    before = [p.detach().clone() for p in module.parameters()]
    prepared = prepare(Microbenchmark(name="", pins="", training=True, build=lambda cores: (module, x)), cores=1)
    for _ in range(3):
        prepared.step()
    after = list(module.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda b: b.name)
def test_work_never_shrinks_with_the_cores(benchmark: Microbenchmark) -> None:
    few, many = (prepare(benchmark, cores=cores, device="meta").workload for cores in (1, 64))
    assert many.flop >= few.flop
    assert many.moved_bytes >= few.moved_bytes
    if not benchmark.name.startswith("tiny") and benchmark.name != "small training step":
        assert many.moved_bytes > few.moved_bytes


def test_large_product_keeps_each_core_about_as_long() -> None:
    large = next(b for b in SUITE if b.name == "large product")
    per_core = [prepare(large, cores=n, device="meta").workload.flop / n for n in (1, 2, 8, 64, 1000)]
    assert max(per_core) / min(per_core) < 1.5


def test_big_copy_moves_its_input_once_into_the_same_place() -> None:
    module = Copy(64)
    x = torch.randn(64)
    place = module.place.data_ptr()
    assert torch.equal(module(x), x)
    assert module.place.data_ptr() == place
    work = bj.trace(Copy(1 << 20), torch.zeros(1 << 20))
    assert work.moved_bytes == 2 * 4 << 20


def test_names_are_unique_and_every_kind_has_held_out_training_steps() -> None:
    assert len({b.name for b in SUITE}) == len(SUITE)
    for kind in ("cpu", "gpu"):
        held_out = [b for b in SUITE if b.held_out and kind in b.kinds]
        assert len(held_out) >= 2
        assert all(b.training for b in held_out)


def test_held_out_steps_are_none_of_the_fitted_ones() -> None:
    size = {b.name: prepare(b, cores=1, device="meta").workload.flop for b in SUITE}
    held_out = [b.name for b in SUITE if b.held_out]
    for name in held_out:
        assert not any(math.isclose(size[name], size[other]) for other in size if other not in held_out), name
