"""Fuzzes the frame's parser: mutates valid frames, with and without a checksum that fits, and counts what gets through.

A frame must be refused with a PayloadError or decode to finite values of the layout's shape; a mutated frame whose
checksum was not made to fit must never be accepted. Exits 1 at the first that breaks this, naming its seed.

    python tests/benchmarks/fuzz_frame.py --frames 10000000 --processes 2
"""

import argparse
import collections
import multiprocessing
import struct
import sys
import time
import tracemalloc
import zlib

import numpy as np

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.frame import pack, unpack
from budjoule.training.compression.update import Update, layout_of

LAYOUT = layout_of([("a", (8, 8)), ("b", (8,)), ("c", (10, 30)), ("d", (0,)), ("e", (3,))])
STEPS = (
    [], ["fp16"], ["fp32z"], ["fp16z"], ["quantize:8"], ["quantize:4"], ["quantize:2"], ["ternary"],
    ["topk:0.1"], ["topk:0.3", "quantize:8"], ["topk:0.5", "quantize:4"], ["topk:0.9", "ternary"], ["randomk:0.2", "quantize:8"],
    ["lowrank:1"], ["lowrank:2", "quantize:8"],
)  # fmt: skip
BATCH = 20_000
MAX_BYTES = 4096


def corpus() -> list[bytes]:
    """Valid frames of every kind."""
    frames = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for steps in STEPS:
            values = (rng.standard_normal(LAYOUT.size) ** 3).astype(np.float32)
            if seed == 3:
                values[rng.random(LAYOUT.size) < 0.8] = 0
            update = Update(client=seed, base_version=seed, examples=10, values=values)
            frames.append(pack(update, LAYOUT, Compressor.parse(steps), rng))
    return frames


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: bits, bytes, cuts, doublings, splices, and lengths that lie."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        kind, place = int(rng.integers(8)), int(rng.integers(len(out) + 1)) if len(out) else 0
        if kind <= 2 and place < len(out):
            out[place] ^= 1 << int(rng.integers(8))
        elif kind == 3 and place < len(out):
            out[place] = (0, 1, 0x7F, 0x80, 0xFF)[int(rng.integers(5))]
        elif kind == 4:
            del out[place : place + int(rng.integers(1, 9))]
        elif kind == 5:
            out[place:place] = out[place : place + int(rng.integers(1, 9))]
        elif kind == 6:
            out[place:] = other[place:]
        elif len(out) > 60:
            start = int(rng.integers(41, 56))
            out[start : start + 4] = struct.pack("<I", int(rng.integers(2**32)) >> int(rng.integers(32)))
    return bytes(out)


def reseal(data: bytes) -> bytes:
    """Make length and checksum fit, so that the mutation reaches the parts behind them."""
    if len(data) < 50:
        return data
    data = data[:41] + struct.pack("<I", len(data) - 49) + data[45:]
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def fuzz(job: tuple[int, int]) -> collections.Counter[str]:
    """One batch; the counts of what happened."""
    seed, count = job
    rng, frames, seen = np.random.default_rng(seed), corpus(), collections.Counter[str]()
    valid = set(frames)
    for number in range(count):
        data = mutate(frames[int(rng.integers(len(frames)))], frames[int(rng.integers(len(frames)))], rng)
        sealed = bool(rng.integers(4))
        data = reseal(data) if sealed else data
        try:
            update = unpack(data, LAYOUT, max_bytes=MAX_BYTES)
        except PayloadError:
            seen["refused"] += 1
            continue
        except BaseException as error:
            raise SystemExit(f"seed {seed}, frame {number}: {type(error).__name__}: {error}; {data.hex()}") from error
        if update.values.shape != (LAYOUT.size,) or not np.isfinite(update.values).all():
            raise SystemExit(f"seed {seed}, frame {number}: accepted values that are no update; {data.hex()}")
        if not sealed and data not in valid:
            raise SystemExit(
                f"seed {seed}, frame {number}: accepted with a checksum that was not made to fit; {data.hex()}"
            )
        seen["forged and well formed" if sealed else "unchanged"] += 1
    return seen


def memory_peak() -> int:
    """The most that one batch allocates over its start. [B]"""
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    fuzz((0, 2000))
    peak = tracemalloc.get_traced_memory()[1] - base
    tracemalloc.stop()
    return peak


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, total = time.monotonic(), collections.Counter[str]()
    jobs = [
        (arguments.seed + start, min(BATCH, arguments.frames - start)) for start in range(0, arguments.frames, BATCH)
    ]
    with multiprocessing.Pool(arguments.processes) as pool:
        for done, seen in enumerate(pool.imap_unordered(fuzz, jobs), start=1):
            total += seen
            if done % 50 == 0:
                print(f"{sum(total.values()):>12,} frames", file=sys.stderr)
    spent = time.monotonic() - began
    print(f"frames {sum(total.values()):,} in {spent:.0f} s, no crash, no wrong update accepted")
    for name, count in total.most_common():
        print(f"  {name:24} {count:>12,}  {count / sum(total.values()):.1%}")
    print(
        f"  peak of a batch          {memory_peak():>12,} B (frames up to {MAX_BYTES} B, layout of {LAYOUT.size} values)"
    )


if __name__ == "__main__":
    main()
