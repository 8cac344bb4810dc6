"""Laws of predicting: estimates grow with work, rows add up, clocks and limits act as physics says, intervals hold the value."""

import inspect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.energy.device import DeviceProfile, load_profile, profile_paths
from budjoule.energy.predict import HALF_WIDTH_SCALES, OTHER_RUNTIME_SD
from budjoule.energy.roofline import conv_block, features
from budjoule.energy.whatif.grid import predict_clocks
from budjoule.energy.workload import OpCost

SHIPPED = [name for name, path in profile_paths() if "profiles" in path.parts and "calibration" in path.parts]


def work(width: int = 512, batch: int = 64, **kwargs: object) -> bj.Workload:
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    return bj.trace(model, torch.empty(batch, width), **kwargs)


@pytest.mark.parametrize("device", SHIPPED)
def test_rows_add_up_and_the_interval_holds_the_estimate(device: str) -> None:
    e = bj.predict(work(mode="training"), device=device)
    for rows in (e.by_op, e.by_module):
        for key, total in (
            ("energy_j", e.energy_j),
            ("duration_s", e.duration_s),
            ("flop", e.flop),
            ("moved_bytes", e.moved_bytes),
        ):
            assert sum(row[key] for row in rows) == pytest.approx(total)
    assert 0 < e.energy_low_j < e.energy_j < e.energy_high_j
    assert 0 < e.duration_low_s < e.duration_s < e.duration_high_s
    assert 0 <= e.idle_energy_j < e.energy_j
    assert e.power_w == pytest.approx(e.energy_j / e.duration_s)


@pytest.mark.parametrize("device", SHIPPED)
def test_estimate_grows_with_work(device: str) -> None:
    energies = [bj.predict(work(batch=batch), device=device).energy_j for batch in (8, 64, 512, 4096, 32768)]
    assert energies == sorted(energies)
    assert energies[-1] > 5 * energies[0]


def test_lower_clock_is_slower_and_draws_less() -> None:
    w = work(4096, 4096, precision="bf16")
    low, high = (bj.predict(w, device="a100-pcie-40gb", clock_hz=hz) for hz in (600e6, 1200e6))
    assert low.duration_s > high.duration_s
    assert low.power_w < high.power_w


def test_power_limit_holds_through_the_clock() -> None:
    w = work(8192, 8192, precision="bf16")
    free = bj.predict(w, device="a100-pcie-40gb")
    limited = bj.predict(w, device="a100-pcie-40gb", power_limit_w=150)
    assert free.power_w <= 250 * 1.001
    assert limited.power_limited
    assert limited.power_w == pytest.approx(150, rel=0.01)
    assert limited.clock_hz < free.clock_hz
    assert limited.duration_s > free.duration_s


def test_unreachable_power_limit_is_said() -> None:
    e = bj.predict(work(8192, 8192), device="a100-pcie-40gb", power_limit_w=30)
    assert any("more than the limit" in note for note in e.notes)


def test_literature_profile_is_wider_than_a_fitted_one() -> None:
    w = work(4096, 4096)
    fitted, literature = (bj.predict(w, device=name) for name in ("a100-pcie-40gb", "cpu-generic"))
    assert literature.energy_high_j / literature.energy_j > 1.5 * fitted.energy_high_j / fitted.energy_j
    assert any("no run on this device" in note for note in literature.notes)


def test_coefficient_that_no_run_exercised_widens_the_interval_and_is_named() -> None:
    profile = bj.load_profile("a100-pcie-40gb")
    conv = bj.trace(nn.Conv2d(64, 64, 3, groups=64), torch.empty(64, 64, 112, 112))
    dense = work(4096, 4096, precision="bf16")
    wide, narrow = (bj.predict(w, device=profile) for w in (conv, dense))
    assert wide.energy_high_j / wide.energy_j > narrow.energy_high_j / narrow.energy_j
    assert any("eff_depthwise" in note for note in bj.predict(conv, device=replace(profile, exercised=())).notes)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"clock_hz": 9e9}, "MHz"),
        ({"power_limit_w": -1}, "up to 250 W"),
        ({"power_limit_w": 251}, "up to 250 W"),
        ({"power_limit_w": float("nan")}, "up to 250 W"),
        ({"clock_hz": 1.56e9}, "up to 1551 MHz"),
        ({"device": "a100-pcie"}, "a100-pcie-40gb"),
        ({"device": "no/such.toml"}, "no/such.toml"),
    ],
)
def test_bad_device_clock_or_limit_is_a_clear_error(kwargs: dict[str, object], text: str) -> None:
    with pytest.raises(bj.BudjouleError, match=text):
        bj.predict(work(), **({"device": "a100-pcie-40gb"} | kwargs))


def test_estimate_is_plain_data() -> None:
    data = bj.estimate(nn.Linear(8, 8), torch.empty(2, 8), device="cpu-generic").to_dict()
    assert data["source"] == "estimated"
    assert data["schema"] == "budjoule.estimate/1"
    assert all(
        isinstance(data[key], float)
        for key in ("energy_j", "energy_low_j", "energy_high_j", "duration_s", "power_w", "clock_hz")
    )
    assert np.isfinite(data["energy_j"])


def test_profile_says_what_it_speaks_for() -> None:
    notes = bj.predict(work(mode="training"), device="raspberry-pi-4b").notes
    assert any("tflite" in note for note in notes)
    assert any("training is outside" in note for note in notes)
    assert not any("outside" in note for note in bj.predict(work(), device="a100-pcie-40gb").notes)


def test_a_mode_of_another_runtime_widens_the_interval_at_one_clock_and_at_many() -> None:
    seen = bj.load_profile("a100-pcie-80gb")
    unseen = replace(seen, provenance={**seen.provenance, "modes": ["inference"], "runtime": "tflite"})
    w = work(mode="training")
    clocks_hz = np.linspace(0.5, 1.0, 40) * seen.spec.clock_hz
    alone = [bj.predict(w, device=device, clock_hz=clocks_hz[-1]) for device in (seen, unseen)]
    many = [predict_clocks(w, device, clocks_hz.tolist())[-1] for device in (seen, unseen)]
    for narrow, wide in (alone, many):
        assert (wide.energy_j, wide.duration_s) == (narrow.energy_j, narrow.duration_s)
        for middle, high in (("energy_j", "energy_high_j"), ("duration_s", "duration_high_s")):
            half = [math.log(getattr(e, high) / getattr(e, middle)) for e in (narrow, wide)]
            assert math.sqrt(half[1] ** 2 - half[0] ** 2) / HALF_WIDTH_SCALES == pytest.approx(
                OTHER_RUNTIME_SD, rel=0.01
            )


@pytest.mark.parametrize("name", ["khadas-vim4", "jetson-agx-xavier-cpu"])
def test_a_forecast_does_not_speak_of_runs_on_the_device(name: str) -> None:
    notes = bj.predict(work(mode="training"), device=name).notes
    assert not any(note.startswith(f"{name} was fitted") for note in notes)
    assert any(f"what {name} was derived from was fitted on inference runs" in note for note in notes)


def test_estimate_takes_what_trace_and_predict_take_and_gives_what_they_give() -> None:
    apart = {**inspect.signature(bj.trace).parameters, **inspect.signature(bj.predict).parameters}
    both = inspect.signature(bj.estimate).parameters
    assert set(both) == set(apart) - {"work"}
    assert all(both[name].default == p.default for name, p in apart.items() if name in both)

    model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)), torch.randn(8, 64)
    how: dict[str, Any] = {
        "mode": "training",
        "optimizer": "sgd",
        "precision": "bf16-mixed",
        "fused": True,
        "loss": lambda y: y.square().mean(),
    }
    at: dict[str, Any] = {"device": "a100-pcie-40gb", "clock_hz": 9e8, "power_limit_w": 150.0}
    assert bj.estimate(model, x, **how, **at).to_dict() == bj.predict(bj.trace(model, x, **how), **at).to_dict()


def test_lanes_that_also_run_integers_have_less_time_for_fp32_products() -> None:
    profile = bj.load_profile("a100-pcie-40gb")
    shared = replace(profile, spec=replace(profile.spec, integers_share_lanes=not profile.spec.integers_share_lanes))
    work = bj.trace(torch.nn.Linear(4096, 4096), torch.empty(4096, 4096))
    ratio = bj.predict(work, device=shared).duration_s / bj.predict(work, device=profile).duration_s
    assert 1.2 < ratio < 1.37  # memory, which overlaps, takes as long as before


@pytest.mark.parametrize("layer", [torch.nn.LSTM(1024, 1024), torch.nn.Conv2d(64, 64, 3)])
def test_what_cudnn_computes_in_fp32_takes_tf32_where_there_is_some(layer: torch.nn.Module) -> None:
    x = torch.empty(64, 256, 1024) if isinstance(layer, torch.nn.LSTM) else torch.empty(32, 64, 56, 56)
    ampere = bj.load_profile("a100-pcie-40gb")
    without = {name: rate for name, rate in ampere.spec.flop_per_clock.items() if name != "tf32"}
    older = replace(ampere, spec=replace(ampere.spec, flop_per_clock=without))
    for mode in ("inference", "training"):
        asked, default = (bj.trace(layer, x, mode=mode, precision=name) for name in ("tf32", "fp32"))
        assert bj.predict(default, device=ampere).duration_s == bj.predict(asked, device=ampere).duration_s
        assert bj.predict(default, device=older).duration_s > 1.3 * bj.predict(default, device=ampere).duration_s


def test_products_in_fp32_stay_in_fp32() -> None:
    layer, x = torch.nn.Linear(4096, 4096), torch.empty(4096, 4096)
    asked, default = (
        bj.predict(bj.trace(layer, x, precision=name), device="a100-pcie-40gb") for name in ("tf32", "fp32")
    )
    assert default.duration_s > 3 * asked.duration_s


def test_a_precision_that_the_device_lacks_is_said() -> None:
    made = bj.trace(torch.nn.Linear(64, 64), torch.empty(8, 64), precision="bf16-mixed")
    assert any("no unit for bf16" in note for note in bj.predict(made, device="v100-pcie-32gb").notes)
    assert not any("no unit" in note for note in bj.predict(made, device="a100-pcie-40gb").notes)


def test_int8_is_a_quantized_models_inference() -> None:
    layer, x = torch.nn.Conv2d(64, 64, 3), torch.empty(1, 64, 56, 56)
    whole, small = (bj.trace(layer, x, precision=name) for name in ("fp32", "int8"))
    assert (small.flop, small.parameter_bytes) == (whole.flop, whole.parameter_bytes // 4)
    board = "odroid-n2-plus"
    assert bj.predict(small, device=board).energy_j < bj.predict(whole, device=board).energy_j
    with pytest.raises(bj.BudjouleError, match="inference"):
        bj.trace(layer, x, precision="int8", mode="training")


def test_no_interval_is_wider_than_the_clocks_that_a_limit_leaves() -> None:
    """Every direction of an unsure profile may end at the lowest clock; together they still end there."""
    board = bj.load_profile("khadas-vim4")
    made = bj.trace(torch.nn.Conv2d(64, 64, 3, padding=1), torch.empty(64, 64, 56, 56), mode="training")
    free = bj.predict(made, device=board)
    low = bj.predict(made, device=board, clock_hz=board.spec.lowest_hz)
    for share in (0.6, 0.7, 0.8, 0.9):
        limited = bj.predict(made, device=board, power_limit_w=share * free.power_w)
        assert limited.duration_high_s <= low.duration_high_s * (1 + 1e-9)
        assert limited.duration_low_s >= free.duration_low_s * (1 - 1e-9)
        assert limited.energy_high_j <= 1.01 * max(low.energy_high_j, free.energy_high_j)
        assert limited.energy_low_j < limited.energy_j < limited.energy_high_j


def test_gradients_of_depthwise_convolutions_wait_for_integers() -> None:
    profile = bj.load_profile("a100-pcie-40gb")
    slow = replace(profile, spec=replace(profile.spec, integer_multiplies_per_clock=16.0))
    depthwise = torch.nn.Conv2d(256, 256, 3, padding=1, groups=256)
    for mode, factor in (("inference", 1.0), ("training", 4.0)):
        work = bj.trace(depthwise, torch.empty(64, 256, 28, 28), mode=mode, optimizer="none")
        ratio = bj.predict(work, device=slow).duration_s / bj.predict(work, device=profile).duration_s
        assert 0.9 * factor < ratio <= factor


def test_wider_matrix_unit_gains_less_than_its_width() -> None:
    profile = bj.load_profile("a100-pcie-40gb")
    wide = replace(profile.spec, flop_per_clock={**profile.spec.flop_per_clock, "bf16": 4096}, power_limit_w=1e4)
    narrow = replace(profile.spec, power_limit_w=1e4)
    work = bj.trace(torch.nn.Linear(16384, 16384), torch.empty(16384, 16384), precision="bf16")
    times = [bj.predict(work, device=replace(profile, spec=spec)).duration_s for spec in (narrow, wide)]
    assert 0.55 < times[1] / times[0] < 0.75


def test_what_devices_have_in_common_says_that_it_is_no_device() -> None:
    (note,) = (n for n in bj.predict(work(), device="gpu-generic").notes if "gpu-generic" in n)
    assert "have in common" in note


def one(**cost: Any) -> bj.Workload:
    """A step of one op."""
    op = OpCost(name="aten.op", kind="elementwise", precision="fp32", launches=0, **cost)
    return bj.Workload(model="op", mode="inference", precision="fp32", optimizer=None, ops=(op,))


def on_cores(count: int) -> DeviceProfile:
    profile = load_profile("cpu-generic")
    return replace(profile, spec=replace(profile.spec, units=count))


def test_more_cores_share_loops_and_large_ops_but_neither_small_ones_nor_random_numbers() -> None:
    def ratio(**cost: Any) -> float:
        alone, shared = (bj.predict(one(**cost), device=on_cores(n)).duration_s for n in (1, 4))
        return alone / shared

    many, few = 10_000_000, 10_000
    assert ratio(elements=many) == pytest.approx(4)
    assert ratio(elements=many, loop_elements=many) == pytest.approx(4)
    assert ratio(elements=few) == pytest.approx(1)
    assert ratio(elements=few, loop_elements=few) == pytest.approx(1)
    assert 1 < ratio(elements=many, loop_elements=many, serial=True) < 1.5


def test_loops_and_launches_of_a_processor_cost_a_gpu_nothing() -> None:
    plain = one(elements=10_000_000)
    loops = one(elements=10_000_000, loop_elements=10_000_000, cpu_launches=50)
    on_gpu, on_cpu = (
        [bj.predict(w, device=device).duration_s for w in (plain, loops)] for device in ("a10-pcie-24gb", "cpu-generic")
    )
    assert on_gpu[0] == on_gpu[1]
    assert on_cpu[1] > 2 * on_cpu[0]


def test_small_op_on_many_cores_takes_the_joules_of_its_elements_once() -> None:
    joules = [bj.predict(one(elements=10_000), device=on_cores(n)) for n in (1, 64)]
    busy = [e.energy_j - e.idle_energy_j for e in joules]
    assert busy[1] == pytest.approx(busy[0], rel=0.01)


def test_convolution_of_few_channels_fills_part_of_a_processors_vectors() -> None:
    def conv(channels: int) -> float:
        step = bj.trace(nn.Conv2d(16, channels, 3, bias=False), torch.empty(64, 16, 64, 64))
        return bj.predict(step, device="cpu-generic").duration_s

    block = conv_block(load_profile("cpu-generic").spec)
    assert conv(block // 2) == pytest.approx(conv(block), rel=0.25)
    assert conv(4 * block) > 3 * conv(block)


GPUS = [name for name in SHIPPED if load_profile(name).spec.kind == "gpu"]


@pytest.mark.parametrize("name", GPUS)
def test_no_product_is_computed_faster_than_the_unit_can(name: str) -> None:
    profile = load_profile(name)
    for precision, flop_per_clock in profile.spec.flop_per_clock.items():
        if precision not in ("fp32", "tf32", "bf16", "fp16"):
            continue
        w = bj.trace(nn.Linear(16384, 16384, bias=False), torch.empty(16384, 16384), precision=precision)
        e = bj.predict(w, device=name)
        assert e.duration_s >= w.flop / (profile.spec.units * flop_per_clock * e.clock_hz)


def test_products_of_a_recurrent_layer_that_wait_fill_the_device_with_one_step_and_the_others_with_all() -> None:
    steps, rows, hidden = 50, 8, 1024
    layer = bj.trace(nn.LSTM(hidden, hidden), torch.empty(steps, rows, hidden), mode="training", optimizer="none")
    spec = load_profile("v100-pcie-32gb").spec

    def clocks_a_flop(height: int) -> float:
        op = bj.trace(nn.Linear(hidden, 4 * hidden, bias=False), torch.empty(height, hidden))
        return float(features(op, spec).filled_clocks.sum()) / op.flop

    alone, together = clocks_a_flop(rows), clocks_a_flop(rows * steps)
    assert alone > 2 * together
    for phase, waiting in (("forward", 1 / 2), ("backward", 1 / 4)):
        part = replace(layer, ops=tuple(op for op in layer.ops if op.flop and op.phase == phase))
        found = float(features(part, spec).filled_clocks.sum()) / part.flop
        assert found == pytest.approx(waiting * alone + (1 - waiting) * together)
