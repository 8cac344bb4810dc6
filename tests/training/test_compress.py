"""Compressors keep their laws: exact, unbiased or leaving a residual, within the size they promise, near the entropy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from budjoule.energy.errors import PayloadError, UsageError
from budjoule.training.compression.codec_index import decode_indices, encode_indices, index_upper_bytes
from budjoule.training.compression.codec_value import BLOCK
from budjoule.training.compression.compress import Compressor, decode
from budjoule.training.compression.residual import ErrorFeedback
from budjoule.training.compression.select import hashed_indices, largest_indices, worthiest_indices
from budjoule.training.compression.update import Layout, layout_of

LAYOUT = layout_of([("conv.weight", (16, 1, 3, 3)), ("conv.bias", (16,)), ("fc.weight", (30, 40)), ("fc.bias", (7,))])
STEPS = [
    [],
    ["fp32z"],
    ["fp16"],
    ["fp16z"],
    ["quantize:8"],
    ["quantize:4"],
    ["quantize:2"],
    ["quantize:1.6"],
    ["ternary"],
    ["topk:0.01"],
    ["topk:0.1", "quantize:8"],
    ["topk:0.3", "quantize:4"],
    ["topk:0.05", "ternary"],
    ["topk:1"],
    ["randomk:0.05"],
    ["randomk:0.1", "quantize:8"],
    ["quantize:2", "topk:0.2"],
    ["topk-per-joule:0.05"],
    ["topk-per-joule:0.1", "quantize:4"],
    ["lowrank:1"],
    ["lowrank:3", "quantize:8"],
    ["lowrank:2", "ternary"],
    ["lowrank:200", "fp16"],
]


def delta(seed=0, layout=LAYOUT):
    rng = np.random.default_rng(seed)
    scale = np.repeat(10.0 ** -np.arange(len(layout.sizes)), layout.sizes)
    return (rng.standard_normal(layout.size) * scale).astype(np.float32)


def sent(steps, values, seed=0, layout=LAYOUT, **options):
    return decode(Compressor.parse(steps, **options).encode(values, layout, np.random.default_rng(seed)), layout)


@st.composite
def vectors(draw):
    """Vectors with what breaks codecs: zeros, repeats, tiny, huge and mixed magnitudes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal(LAYOUT.size) * 10.0 ** draw(st.integers(-30, 30))
    kind = draw(st.sampled_from(["plain", "zeros", "sparse", "equal", "mixed", "subnormal"]))
    if kind == "zeros":
        values[:] = 0
    elif kind == "sparse":
        values[rng.random(values.size) < 0.98] = 0
    elif kind == "equal":
        values[:] = np.sign(values) * 10.0 ** draw(st.integers(-30, 30))
    elif kind == "mixed":
        values *= 10.0 ** rng.integers(-5, 5, values.size)
    elif kind == "subnormal":
        values = rng.standard_normal(values.size) * 1e-44
    return values.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(values=vectors(), steps=st.sampled_from(STEPS))
def test_no_body_is_larger_than_promised_and_all_decode_finite(values, steps):
    compressor = Compressor.parse(steps)
    body = compressor.encode(values, LAYOUT, np.random.default_rng(1))
    assert len(body) <= compressor.size_upper_bytes(LAYOUT)
    decoded = decode(body, LAYOUT)
    assert decoded.dtype == np.float32
    assert decoded.shape == (LAYOUT.size,)
    assert np.isfinite(decoded).all()
    assert not decoded[values == 0].any() or compressor.values == "int2" or compressor.selection in ("all", "lowrank")
    if compressor.lossless:
        assert decoded.tobytes() == values.tobytes()


@pytest.mark.parametrize("steps", [[], ["fp32z"]])
def test_lossless_steps_are_the_identity(steps):
    values = delta()
    assert Compressor.parse(steps).lossless
    assert sent(steps, values).tobytes() == values.tobytes()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_topk_sends_the_largest_exactly_and_nothing_else(share):
    values = delta()
    decoded = sent([f"topk:{share}"], values)
    kept = np.flatnonzero(decoded)
    assert kept.size == max(1, round(share * values.size))
    assert (decoded[kept] == values[kept]).all()
    rest = np.delete(np.abs(values), kept)
    assert rest.size == 0 or rest.max() <= np.abs(values[kept]).min()


def test_topk_breaks_ties_by_index_and_leaves_zeros_out():
    values = np.zeros(LAYOUT.size, np.float32)
    values[[3, 900, 40, 1000]] = [1, -1, 1, 1]
    assert largest_indices(values, 2).tolist() == [3, 40]
    assert largest_indices(values, 3).tolist() == [3, 40, 900]
    assert largest_indices(values, 100).tolist() == [3, 40, 900, 1000]


@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "equal", "layered", "trap"])
@pytest.mark.parametrize("share", [1e-4, 0.01, 0.2, 0.9])
def test_the_guessed_threshold_gives_the_exact_selection(kind, share):
    rng = np.random.default_rng(5)
    values = rng.standard_normal(120_000).astype(np.float32)
    if kind == "heavy":
        values = values**5
    elif kind == "sparse":
        values[rng.random(values.size) < 0.95] = 0
    elif kind == "equal":
        values = np.sign(values)
    elif kind == "layered":
        values[:60_000] *= 1e-6
    elif kind == "trap":  # large exactly where a sample at an even step would look
        for step in (59, 61, 64):
            values[::step] *= 1e6
    kept = round(share * values.size)
    found = largest_indices(values, kept)
    order = np.lexsort((np.arange(values.size), -np.abs(values)))[:kept]
    expected = np.sort(order[values[order] != 0])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("steps", [["quantize:8"], ["quantize:4"], ["quantize:2"], ["ternary"], ["randomk:0.25"]])
def test_unbiased_steps_have_the_update_as_their_mean(steps):
    values = delta(3)
    runs = 4000
    total = np.zeros(values.size)
    for seed in range(runs):
        total += sent(steps, values, seed)
    # Bernstein's bound, since a small value is a rare large one: an error of variance at most |x| jump, of size at most
    # jump, with 1,367 means at once and one false alarm in a million runs of this test.
    jump = np.repeat(np.maximum.reduceat(np.abs(values), np.arange(0, values.size, BLOCK)), BLOCK)[: values.size]
    jump = 4 * np.abs(values) if steps[0].startswith("randomk") else 2.1 * jump
    risk = math.log(2 * values.size * 1e6)
    allowed = np.sqrt(2 * risk * np.abs(values) * jump / runs) + 2 * risk * jump / (3 * runs)
    if steps == ["quantize:2"]:  # no level at 0: a small value is noise of the size of a level
        allowed = np.sqrt(2 * risk / runs) * jump
    assert (np.abs(total / runs - values) <= allowed + 1e-6 * np.abs(values).max()).all()


@pytest.mark.parametrize(
    ("steps", "levels"), [(["quantize:8"], 255), (["quantize:4"], 15), (["quantize:2"], 4), (["ternary"], 3)]
)
def test_rounding_moves_a_value_by_less_than_a_step_of_its_block(steps, levels):
    values = delta(4)
    moved = np.abs(sent(steps, values) - values)
    for start in range(0, values.size, BLOCK):
        # The scale is rounded up to 8 bits, by less than 1 %.
        step = 1.01 * np.abs(values[start : start + BLOCK]).max() * 2 / (levels - 1)
        assert moved[start : start + BLOCK].max() <= step


@pytest.mark.parametrize("steps", STEPS)
def test_error_feedback_loses_nothing(steps):
    feedback = ErrorFeedback.empty(LAYOUT)
    learnt, arrived = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    for seed in range(30):
        fresh = delta(seed)
        learnt += fresh
        parcel = sent(steps, feedback.apply(fresh), seed, error_feedback=True)
        feedback.settle(parcel)
        arrived += parcel
    scale = np.abs(learnt).max()
    assert np.abs(arrived + feedback.residual - learnt).max() <= 1e-4 * scale


@pytest.mark.parametrize("steps", STEPS)
@settings(max_examples=15, deadline=None)
@given(values=vectors())
def test_under_error_feedback_no_error_is_larger_than_the_update(steps, values):
    error = (sent(steps, values, error_feedback=True) - values).astype(np.float64)
    assert np.linalg.norm(error) <= (1 + 1e-3) * np.linalg.norm(values.astype(np.float64))


@pytest.mark.parametrize(("steps", "most"), [(["ternary"], 0.75), (["quantize:2"], 0.55), (["quantize:4"], 0.2)])
def test_rounding_to_the_nearest_carries_most_of_the_update(steps, most):
    values = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    nearest = np.linalg.norm(sent(steps, values, error_feedback=True) - values) / np.linalg.norm(values)
    at_random = np.linalg.norm(sent(steps, values) - values) / np.linalg.norm(values)
    assert nearest < most
    assert nearest < at_random


def test_error_feedback_holds_everything_until_it_is_settled():
    feedback = ErrorFeedback.empty(LAYOUT)
    feedback.apply(delta(1))
    lost = feedback.apply(delta(2))  # the first was never sent
    assert np.allclose(lost, delta(1) + delta(2))


def matrix(rank, shape=(30, 40), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))).astype(np.float32)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_factors_carry_a_matrix_of_their_rank_and_vectors_whole(rank, scale):
    layers = {
        "fc.weight": matrix(rank),
        "fc.bias": matrix(1, (1, 7))[0],
        "conv": matrix(rank, (16, 90)).reshape(16, 10, 3, 3),
    }
    layout = Layout.of(layers)
    values = layout.flatten(layers) * np.float32(scale)
    arrived = sent([f"lowrank:{rank}"], values, layout=layout)
    assert np.abs(arrived - values).max() <= 1e-5 * np.abs(values).max()
    body = Compressor.parse([f"lowrank:{rank}"]).encode(values, layout, np.random.default_rng(0))
    assert len(body) == 7 + 4 * (rank * (30 + 40) + 7 + rank * (16 + 90))


def test_factors_come_near_the_best_of_their_rank():
    rng = np.random.default_rng(0)
    rotated = np.linalg.qr(rng.standard_normal((60, 60)))[0] * 0.7 ** np.arange(60)
    values = (rotated @ np.linalg.qr(rng.standard_normal((60, 60)))[0]).astype(np.float32)
    best = np.sqrt((np.linalg.svd(values, compute_uv=False)[4:] ** 2).sum())
    layout = layout_of([("w", (60, 60))])
    arrived = sent(["lowrank:4"], values.ravel(), layout=layout)
    assert np.linalg.norm(arrived - values.ravel()) <= 1.05 * best


def test_per_joule_sends_as_many_entries_in_fewer_bytes_where_layers_differ():
    """Where a small layer sends most of its entries, naming one there costs little; the large layer's lone ones are dear."""
    layout = layout_of([("large", (300, 300)), ("small", (20, 20))])
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(layout.size) * np.repeat([1.0, 4.0], layout.sizes)).astype(np.float32)
    bodies = [
        Compressor.parse([step, "quantize:4"]).encode(values, layout, np.random.default_rng(0))
        for step in ("topk:0.005", "topk-per-joule:0.005")
    ]
    plain, worth = (decode(body, layout) for body in bodies)
    assert len(bodies[1]) < len(bodies[0])
    norm = np.linalg.norm(values)
    assert np.linalg.norm(values - worth) / len(bodies[0]) * len(bodies[1]) < np.linalg.norm(values - plain) <= norm


def test_per_joule_is_the_largest_where_layers_are_alike():
    values = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    assert np.array_equal(worthiest_indices(values, 40, (0, 4000), 8), largest_indices(values, 40))


@settings(max_examples=60, deadline=None)
@given(values=vectors(), kept=st.integers(1, 400), value_bits=st.floats(1, 32))
def test_per_joule_leaves_nothing_out_that_is_larger_and_cheaper(values, kept, value_bits):
    """Within a layer all entries cost the same, so there the largest are sent."""
    chosen = np.zeros(LAYOUT.size, bool)
    chosen[worthiest_indices(values, kept, LAYOUT.bounds, value_bits)] = True
    assert chosen.sum() == min(kept, np.count_nonzero(values))
    for start, stop in itertools.pairwise(LAYOUT.bounds):
        layer, sent_here = np.abs(values[start:stop]), chosen[start:stop]
        if sent_here.any() and not sent_here.all():
            assert layer[sent_here].min() >= layer[~sent_here].max() * (1 - 1e-6)


def test_a_seeded_selection_is_the_same_everywhere_and_covers_evenly():
    # Fixed values: another version, machine or library must name the same set for the same seed.
    assert hashed_indices(1000, 5, 42).tolist() == [212, 324, 368, 461, 779]
    counts = np.zeros(200)
    for seed in range(2000):
        counts[hashed_indices(200, 20, seed * 7919)] += 1
    assert abs(counts.mean() - 200) < 1e-9
    assert np.abs(counts - 200).max() < 5 * math.sqrt(200 * 0.9)


def log2_choose(size, kept):
    return (gammaln(size + 1) - gammaln(kept + 1) - gammaln(size - kept + 1)) / math.log(2)


@pytest.mark.parametrize("density", [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2])
def test_indices_take_at_most_3_percent_over_their_entropy(density):
    rng = np.random.default_rng(int(density * 1e4))
    sizes = (100_000, 150_000)
    bounds = (0, sizes[0], sum(sizes))
    # Layers of different density: the entropy is the sum of the layers', which one code for all would miss.
    parts = [
        np.sort(rng.choice(size, round(size * density * factor), replace=False))
        for size, factor in zip(sizes, (0.5, 1.5), strict=True)
    ]
    indices = np.concatenate([parts[0], parts[1] + sizes[0]])
    entropy = sum(log2_choose(size, part.size) for size, part in zip(sizes, parts, strict=True))
    assert 8 * len(encode_indices(indices, bounds)) <= 1.03 * entropy + 8 * 8


@pytest.mark.parametrize("share", ["0.01", "0.05"])
@pytest.mark.parametrize("codec", ["quantize:8", "quantize:4"])
def test_a_body_takes_at_most_3_percent_over_indices_and_values_entropy(share, codec):
    layout = layout_of([("weight", (1000, 1000))])
    values = np.random.default_rng(0).laplace(size=layout.size).astype(np.float32)
    body = Compressor.parse([f"topk:{share}", codec]).encode(values, layout, np.random.default_rng(1))
    decoded = decode(body, layout)
    kept = largest_indices(values, round(float(share) * values.size))
    scale = np.repeat(np.maximum.reduceat(np.abs(values[kept]), np.arange(0, kept.size, BLOCK)), BLOCK)[: kept.size]
    scale = (((scale.view(np.uint32) + 0xFFFF) >> 16) << 16).view(np.float32)
    levels = {"quantize:8": 127, "quantize:4": 7}[codec]
    symbols = np.rint(decoded[kept] / scale * levels).astype(int)
    counts = np.bincount(symbols - symbols.min())
    shares = counts[counts > 0] / kept.size
    value_bits = -kept.size * (shares * np.log2(shares)).sum()
    bound = log2_choose(values.size, kept.size) + value_bits
    scales_bits = 16 * math.ceil(kept.size / BLOCK)
    assert 8 * len(body) <= 1.03 * (bound + scales_bits) + 8 * 8


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_indices_come_back_exactly_and_end_where_they_end(data):
    sizes = data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=6).filter(any))
    bounds = (0, *np.cumsum(sizes).tolist())
    kept = data.draw(st.integers(0, bounds[-1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weights = rng.random(bounds[-1]) ** data.draw(st.sampled_from([0, 1, 8])) + 1e-9
    indices = np.sort(rng.choice(bounds[-1], kept, replace=False, p=weights / weights.sum())).astype(np.int64)
    coded = encode_indices(indices, bounds)
    assert len(coded) <= index_upper_bytes(bounds[-1], kept)
    back, rest = decode_indices(memoryview(coded + b"tail"), bounds, kept)
    assert np.array_equal(back, indices)
    assert bytes(rest) == b"tail"


def test_the_worst_places_for_indices_stay_within_the_bound():
    size = 5000
    for kept in (1, 2, 7, 63, 64, 65, 500, 2500, 4999, 5000):
        for indices in (
            np.arange(kept),
            np.arange(size - kept, size),
            np.linspace(0, size - 1, kept).astype(np.int64),
            np.concatenate([np.arange(kept // 2), np.arange(size - (kept - kept // 2), size)]),
        ):
            unique = np.unique(indices).astype(np.int64)
            coded = encode_indices(unique, (0, 100, size))
            assert len(coded) <= index_upper_bytes(size, kept)
            assert np.array_equal(decode_indices(memoryview(coded), (0, 100, size), unique.size)[0], unique)


def test_the_bound_holds_for_every_count_costs_nothing_and_is_near():
    size = 20_000
    for kept in (1, 50, 700, 3000, 12_000, 20_000):
        indices = np.linspace(0, size - 1, kept).astype(np.int64)
        bound = index_upper_bytes(size, kept)
        assert all(index_upper_bytes(size, fewer) <= bound for fewer in range(1, kept, 37))
        assert len(encode_indices(indices, (0, size))) <= bound
    # A billion weights: the bound is not computed count by count, and stays near the entropy.
    entropy = (gammaln(1e9 + 1) - gammaln(1e8 + 1) - gammaln(9e8 + 1)) / math.log(2) / 8
    assert entropy <= index_upper_bytes(10**9, 10**8) <= 1.3 * entropy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("steps", STEPS)
def test_an_update_that_is_not_finite_is_never_encoded(steps, bad):
    values = delta()
    values[77] = bad
    with pytest.raises(PayloadError, match="NaN or infinite"):
        Compressor.parse(steps).encode(values, LAYOUT, np.random.default_rng(0))


def test_a_value_too_large_for_a_scale_is_refused():
    values = delta()
    values[77] = np.finfo(np.float32).max
    with pytest.raises(PayloadError, match="too large to quantize"):
        Compressor.parse(["quantize:8"]).encode(values, LAYOUT, np.random.default_rng(0))


def test_an_update_of_another_shape_is_refused():
    with pytest.raises(PayloadError, match="train and send the same layers"):
        Compressor.parse([]).encode(np.zeros(3, np.float32), LAYOUT, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (["topk"], "needs a share"),
        (["topk:0"], "needs a share"),
        (["topk:1.5"], "needs a share"),
        (["topk:nan"], "needs a share"),
        (["topk:0.1", "randomk:0.1"], "selects twice"),
        (["quantize:8", "ternary"], "stores values twice"),
        (["quantize:3"], "unknown compress step 'quantize:3'"),
        (
            ["gzip"],
            "unknown compress step 'gzip'; give some of topk:0.01, topk-per-joule:0.01, randomk:0.01, lowrank:2",
        ),
        (["lowrank:0"], "needs a whole rank"),
        (["lowrank:0.5"], "needs a whole rank"),
        (["lowrank:2", "topk:0.1"], "selects twice"),
    ],
)
def test_steps_that_mean_nothing_are_refused(steps, reason):
    with pytest.raises(UsageError, match=reason):
        Compressor.parse(steps)


def test_factors_of_values_without_a_zero_are_refused_where_errors_are_owed_back():
    with pytest.raises(UsageError, match="quantize:2 has no zero"):
        Compressor.parse(["lowrank:2", "quantize:2"], error_feedback=True)
    Compressor.parse(["lowrank:2", "quantize:2"])


@pytest.mark.parametrize("steps", [["lowrank:2", "quantize:4"], ["lowrank:2", "ternary"], ["lowrank:2", "quantize:8"]])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_factors_of_a_layer_that_did_not_change_come_to_an_end(steps, scale):
    layout = layout_of([("still", (30, 20)), ("bias", (20,)), ("moved", (20, 30))])
    values = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    values[:600] *= np.float32(scale)
    error = sent(steps, values, layout=layout, error_feedback=True) - values
    assert np.linalg.norm(error) <= (1 + 1e-3) * np.linalg.norm(values)


def test_an_empty_layout_travels():
    layout = layout_of([])
    for steps in STEPS:
        assert sent(steps, np.zeros(0, np.float32), layout=layout).size == 0
