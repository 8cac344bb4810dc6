"""How long does an estimate take, and how much memory?

`python tests/benchmarks/estimator_speed.py` prints a table: each row in a process of its own (cold: nothing was traced before),
the best of three processes, beside `torch.utils.flop_counter` on the same model and the 2.0 s mean that EnergAIzer's artifact
reports for one estimate on its authors' machine (ISPASS 2026, arXiv 2604.20105). Importing torch and building the model is not
counted. One thread works, and the bars are held against its processor time, which other work on the machine does not lengthen;
the wall clock stands beside it. FLOP of the counter are lower by what fused attention computes again in its backward pass: on the
meta device the counter sees the unfused form.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

DEVICE = "a100-pcie-40gb"
REPEATS = 3
ENERGAIZER_S = 2.0
GB = 1e9


def gpt2() -> tuple[Any, dict[str, Any]]:
    """GPT-2 small with its loss, 8 sequences of 1024 tokens, without data."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        ids = torch.ones(8, 1024, dtype=torch.int64)
    return model, {"input_ids": ids, "labels": ids}


def llama_70b() -> tuple[Any, dict[str, Any]]:
    """A model in the shape of Llama 3 70B (80 layers, 8192 wide, 8 of 64 key-value heads), one sequence of 4096 tokens."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
        ids = torch.ones(1, 4096, dtype=torch.int64)
    return model, {"input_ids": ids, "labels": ids}


def trace_and_predict(build: Callable[[], tuple[Any, dict[str, Any]]]) -> dict[str, float]:
    """A cold training step, from the module to joules."""
    import budjoule as bj

    model, inputs = build()
    bj.load_profile(DEVICE)
    with timed() as spent:
        estimate = bj.predict(bj.trace(model, inputs, mode="training", precision="bf16-mixed"), device=DEVICE)
    return {**spent, "flop": estimate.flop, "joules": estimate.energy_j}


def flop_counter(build: Callable[[], tuple[Any, dict[str, Any]]]) -> dict[str, float]:
    """PyTorch's counter on the same step: forward and backward on the meta device, and FLOP only."""
    from torch.utils.flop_counter import FlopCounterMode

    model, inputs = build()
    model.train()
    with timed() as spent, FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    return {**spent, "flop": counter.get_total_flops()}


def predict_again(**at: float) -> dict[str, float]:
    """A traced step predicted once more, with its interval: the best of 50."""
    import budjoule as bj

    model, inputs = gpt2()
    work = bj.trace(model, inputs, mode="training", precision="bf16-mixed")
    profile = bj.load_profile(DEVICE)
    return {**_best(lambda: bj.predict(work, device=profile, **at)), "flop": work.flop}


def predict_at_clocks(power_limit_w: float | None = None) -> dict[str, float]:
    """A traced step at 100 clocks, with intervals, as a sweep does it: the best of 50."""
    import budjoule as bj
    from budjoule.energy.whatif.grid import predict_clocks

    model, inputs = gpt2()
    work = bj.trace(model, inputs, mode="training", precision="bf16-mixed")
    profile = bj.load_profile(DEVICE)
    clocks = [profile.spec.clock_hz * (0.6 + 0.4 * i / 99) for i in range(100)]
    return {**_best(lambda: predict_clocks(work, profile, clocks, power_limit_w)), "flop": work.flop}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Fill in the wall clock's and the processor's seconds of a block."""
    spent: dict[str, float] = {}
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield spent
    spent |= {"seconds": time.perf_counter() - wall_s, "cpu_seconds": time.process_time() - cpu_s}


def _best(function: Callable[[], Any]) -> dict[str, float]:
    rows = []
    for _ in range(50):
        with timed() as spent:
            function()
        rows.append(spent)
    return min(rows, key=lambda row: row["cpu_seconds"])


# what: how, bar in seconds, bar in bytes of peak memory
ROWS: dict[str, tuple[Callable[[], dict[str, float]], float | None, float | None]] = {
    "GPT-2 small, training step: trace + predict": (lambda: trace_and_predict(gpt2), 0.3, None),
    "GPT-2 small: torch.utils.flop_counter": (lambda: flop_counter(gpt2), None, None),
    "GPT-2 small: predict at a locked clock": (lambda: predict_again(clock_hz=900e6), 1e-3, None),
    "GPT-2 small: predict under the board's power limit": (predict_again, 1e-3, None),
    "GPT-2 small: predict at 100 clocks": (predict_at_clocks, 10e-3, None),
    "GPT-2 small: predict at 100 clocks, limit of 150 W": (lambda: predict_at_clocks(150.0), 10e-3, None),
    "Llama 70B shape, training step: trace + predict": (lambda: trace_and_predict(llama_70b), 10.0, 2 * GB),
    "Llama 70B shape: torch.utils.flop_counter": (lambda: flop_counter(llama_70b), None, None),
}


def measured(name: str) -> dict[str, float]:
    """The best of a few processes; peak memory is the largest."""
    command = [sys.executable, __file__, "--row", name]
    rows = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(REPEATS)]
    best: dict[str, float] = min(rows, key=lambda row: row["cpu_seconds"])
    return {**best, "peak_bytes": max(row["peak_bytes"] for row in rows)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row = ROWS[options.row][0]()
        row["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(row))
        return
    print(f"{'':52}{'processor':>13}{'bar':>10}{'wall clock':>13}{'peak memory':>14}{'FLOP':>12}")
    missed = []
    for name, (_, bar_s, bar_bytes) in ROWS.items():
        row = measured(name)
        bar = "" if bar_s is None else f"{bar_s * 1e3:g} ms"
        print(
            f"{name:52}{row['cpu_seconds'] * 1e3:10.2f} ms{bar:>10}{row['seconds'] * 1e3:10.2f} ms{row['peak_bytes'] / GB:11.2f} GB{row['flop']:12.4g}"
        )
        if row["cpu_seconds"] > (bar_s or float("inf")) or row["peak_bytes"] > (bar_bytes or float("inf")):
            missed.append(name)
    print(f"{'EnergAIzer: an estimate, as its artifact reports':52}{'':23}{ENERGAIZER_S * 1e3:10.2f} ms")
    print(f"bars missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
