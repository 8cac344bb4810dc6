"""Bytes, distortion, time and joules of every way to send an update, beside what people do and beside the entropy.

The update is a real one: the difference a few SGD steps make on a small convolutional net with digits-like inputs, or, with
--size, a heavy-tailed vector of that many values. `bound` is log2 C(n, k) of each layer plus the empirical entropy of the
values' symbols; `over` is how far a body is above it, its head and scales included. Joules to encode are measured where
the machine has a counter, else CPU time at `--core-w` watts, and say so.

    OMP_NUM_THREADS=1 python tests/benchmarks/compression.py [--size 1000000] [--repeat 5]
"""

import argparse
import math
import time

import numpy as np
import zstandard

from budjoule.energy.measure import measure
from budjoule.training.compression.codec_value import BLOCK, VALUE_CODECS
from budjoule.training.compression.compress import Compressor, decode
from budjoule.training.compression.select import worthiest_indices
from budjoule.training.compression.update import Layout, Vector, layout_of

OURS: tuple[list[str], ...] = (
    [],
    ["fp32z"],
    ["fp16z"],
    ["quantize:8"],
    ["quantize:4"],
    ["quantize:2"],
    ["ternary"],
    *(
        [f"topk:{share}", *values]
        for share in ("0.01", "0.02", "0.05", "0.1")
        for values in ([], ["quantize:8"], ["quantize:4"], ["ternary"])
    ),
    *([f"topk-per-joule:{share}", "quantize:8"] for share in ("0.01", "0.05")),
    ["randomk:0.01", "quantize:8"],
    *([f"lowrank:{rank}", "quantize:8"] for rank in (1, 4)),
)


def trained_update(seed: int = 0) -> tuple[Layout, Vector]:
    """What five local steps change in a conv net of about 56,000 parameters."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    inputs, labels = torch.randn(120, 1, 28, 28), torch.randint(0, 3, (120,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for start in range(0, 120, 16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[start : start + 16]), labels[start : start + 16]).backward()
        optimizer.step()
    arrays = {name: (value.detach() - before[name]).numpy() for name, value in net.named_parameters()}
    layout = Layout.of(arrays)
    return layout, layout.flatten(arrays)


def drawn_update(size: int) -> tuple[Layout, Vector]:
    """A heavy-tailed vector in four matrices of different scale, and a rest."""
    rng = np.random.default_rng(0)
    rows = size // 1000
    shapes = [("a", (rows, 500)), ("b", (rows, 250)), ("c", (rows, 125)), ("d", (rows, 125)), ("e", (size % 1000,))]
    layout = layout_of(shapes)
    scale = np.repeat([1.0, 2.0, 0.5, 4.0, 1.0], layout.sizes)
    return layout, (rng.standard_t(4, layout.size) * scale * 1e-3).astype(np.float32)


def bound_bytes(compressor: Compressor, values: Vector, decoded: Vector, layout: Layout) -> float | None:
    """Entropy of indices, layer by layer, and of the values' symbols; None where values are not symbols. [B]"""
    codec = VALUE_CODECS[compressor.values]
    if compressor.selection in ("randomk", "lowrank"):
        return None
    kept = np.argsort(-np.abs(values), kind="stable")[: compressor.kept(values.size)]
    if compressor.selection == "topk-per-joule":
        kept = worthiest_indices(values, kept.size, layout.bounds, codec.bits)
    bits = 0.0
    if compressor.selection != "all":
        for start, stop in zip(layout.bounds, layout.bounds[1:], strict=False):
            n, k = stop - start, int(((kept >= start) & (kept < stop)).sum())
            bits += (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    if codec.float_bytes:
        return (bits + 8 * codec.float_bytes * kept.size) / 8 if not codec.zstd else None
    chosen = decoded[np.sort(kept)]
    scale = np.repeat(np.maximum.reduceat(np.abs(values[np.sort(kept)]), np.arange(0, kept.size, BLOCK)), BLOCK)[
        : kept.size
    ]
    half = (codec.levels - 1) / 2
    _, counts = np.unique(
        np.rint((np.divide(chosen, scale, where=scale > 0, out=np.zeros_like(chosen)) + 1) * half), return_counts=True
    )
    shares = counts / counts.sum()
    return (bits - kept.size * float((shares * np.log2(shares)).sum())) / 8


def plain_rows(values: Vector) -> dict[str, tuple[int, float]]:
    """What is done without us: size and distortion of dense fp16 under zstd, and of top-k with 32-bit indices."""
    half = values.astype(np.float16)
    rows = {
        "dense fp16 + zstd": (len(zstandard.compress(half.tobytes(), 3)), distortion(values, half.astype(np.float32)))
    }
    for share in (0.01, 0.02, 0.05, 0.1):
        kept = np.argsort(-np.abs(values))[: round(share * values.size)]
        sparse = np.zeros_like(values)
        sparse[kept] = values[kept]
        rows[f"top-k {share:.0%}, int32 + fp32"] = (8 * kept.size, distortion(values, sparse))
    return rows


def distortion(values: Vector, decoded: Vector) -> float:
    """Relative error, as a share of the update's norm."""
    return float(np.linalg.norm(decoded - values) / np.linalg.norm(values))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, help="values of a drawn update; the default is a trained one")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--core-w", type=float, default=4.0, help="power of a busy core, where nothing measures it [W]")
    arguments = parser.parse_args()
    layout, values = drawn_update(arguments.size) if arguments.size else trained_update()
    dense = 4 * values.size
    print(
        f"{values.size:,} values in {len(layout.sizes)} layers, {dense:,} B dense; best of {arguments.repeat}, processor time on one core"
    )
    print(
        f"{'':30}{'bytes':>11}{'of dense':>10}{'bound':>11}{'over':>8}{'error':>8}{'kept back':>11}{'encode':>11}{'decode':>11}{'joules':>11}"
    )
    for name, (size, error) in plain_rows(values).items():
        print(f"{name:30}{size:>11,}{size / dense:>10.2%}{'':>19}{error:>8.3f}")
    source = ""
    for steps in OURS:
        unbiased, kept_back = Compressor.parse(steps), Compressor.parse(steps, error_feedback=True)
        rng, encode_s, decode_s, energy_j = np.random.default_rng(0), [], [], []
        for _ in range(arguments.repeat):
            with measure() as window:
                began = time.process_time()
                body = unbiased.encode(values, layout, rng)
                encode_s.append(time.process_time() - began)
            energy_j.append(window.energy_j if window.source == "measured" else arguments.core_w * encode_s[-1])
            source = (
                window.method if window.source == "measured" else f"estimated: one core busy at {arguments.core_w:g} W"
            )
            began = time.process_time()
            decoded = decode(body, layout)
            decode_s.append(time.process_time() - began)
        bound = bound_bytes(unbiased, values, decoded, layout)
        shown = f"{bound:>11,.0f}{len(body) / bound - 1:>8.1%}" if bound else f"{'':>19}"
        with_residual = distortion(values, decode(kept_back.encode(values, layout, rng), layout))
        print(
            f"{' '.join(steps) or 'dense fp32':30}{len(body):>11,}{len(body) / dense:>10.2%}{shown}{distortion(values, decoded):>8.3f}"
            f"{with_residual:>11.3f}{1e3 * min(encode_s):>8.1f} ms{1e3 * min(decode_s):>8.1f} ms{1e3 * min(energy_j):>8.1f} mJ"
        )
    print(
        f"error: share of the update's norm, rounded at random (unbiased); kept back: rounded to the nearest, residual kept. joules: {source}"
    )


if __name__ == "__main__":
    main()
