"""The same FedAvg job in budjoule's engine and in Flower's simulation: seconds, and peak memory of the whole process tree.

Digits, the small net, 10 local steps of 16, every client in every round. Memory is the proportional set size summed over
the tree, polled, so that pages which processes share count once; what importing torch alone takes
is printed beside it. Each runs once before it is timed, so that both have their bytecode and files at hand. `--scaling` runs budjoule alone, semi-asynchronously, with more and more clients.

Flower needs an environment of its own (`pip install "flwr[simulation]==1.41.*"`, with budjoule and its needs importable):

    python tests/benchmarks/engine_speed.py --flower FLOWER_PYTHON [--job 10x5 --job 100x20]
    python tests/benchmarks/engine_speed.py --scaling 100,1000,10000
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

POLL_S = 0.1
IMPORTS = "import torch"
OURS = """
preset = "fedavg"
task = {{ data = "digits", model = "mlp", partition = "dirichlet:0.3" }}
fleet = {{ clients = {clients}, straggler_frac = 0.0 }}
server = {{ cohort = {clients} }}
training = {{ local_steps = 10, batch_size = 16, learning_rate = 0.05 }}
budget = {{ horizon = "100 h" }}
stop = {{ rounds = {rounds}, target_accuracy_frac = "none", duration = "none" }}
"""
SCALING = """
import sys, numpy as np, torch, budjoule as bj
from torch.utils.data import TensorDataset
def data(seed):
    make = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 64, generator=make)
    labels = torch.arange(60000) % 10
    inputs = centres[labels] + torch.randn(60000, 64, generator=make)
    return TensorDataset(inputs[:50000], labels[:50000]), TensorDataset(inputs[50000:], labels[50000:]), None
sys.modules["scaling_data"] = sys.modules["__main__"]
clients, versions, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
bj.train({"preset": "budjoule", "fleet": {"clients": clients, "straggler_frac": 0.9},
          "task": {"data": "scaling_data:data", "model": "mlp", "partition": "dirichlet:0.3"},
          "training": {"local_steps": 10, "batch_size": 16, "learning_rate": 0.05, "memory": "none"},
          "schedule": {"policy": "every-block", "slot": "none"},
          "server": {"cohort": 100, "buffer_size": 20},
          "budget": {"energy": "100 J", "horizon": "100 h"},
          "stop": {"rounds": versions, "target_accuracy_frac": "none", "duration": "none"}}, output=folder)
"""


def main() -> None:
    """Run the jobs one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", help="Python of an environment with flwr[simulation]")
    parser.add_argument("--job", action="append", help="CLIENTSxROUNDS; default 10x5 and 100x20")
    parser.add_argument("--scaling", help="numbers of clients, as in 100,1000,10000")
    parser.add_argument("--updates", type=int, default=2000, help="updates of a run of the scaling table")
    options = parser.parse_args()
    _, bare_s, bare_bytes = watch([sys.executable, "-c", IMPORTS])
    print(f"importing torch takes {bare_s:.1f} processor seconds and {bare_bytes / 1e6:.0f} MB\n")
    if options.scaling:
        print(
            "| clients | updates | seconds | processor seconds | peak MB | above the imports |\n|---|---|---|---|---|---|"
        )
        for clients in options.scaling.split(","):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", SCALING, clients, str(options.updates // 20), folder]
                wall_s, cpu_s, peak = watch(command)
            print(
                f"| {clients} | {options.updates} | {wall_s:.1f} | {cpu_s:.1f} | {peak / 1e6:.0f} | {(peak - bare_bytes) / 1e6:.0f} |"
            )
        return
    print("| job | engine | seconds | processor seconds | peak MB | above the imports |\n|---|---|---|---|---|---|")
    for job in options.job or ["10x5", "100x20"]:
        clients, rounds = job.split("x")
        rows = {"budjoule": [ours(clients, rounds) for _ in range(2)][-1]}
        if options.flower:
            command = [options.flower, str(Path(__file__).with_name("engine_flower.py")), clients, rounds]
            rows["flower"] = [watch(command) for _ in range(2)][-1]
        for name, (wall_s, cpu_s, peak) in rows.items():
            what = f"{clients} clients x {rounds} rounds"
            print(
                f"| {what} | {name} | {wall_s:.1f} | {cpu_s:.1f} | {peak / 1e6:.0f} | {(peak - bare_bytes) / 1e6:.0f} |",
                flush=True,
            )


def ours(clients: str, rounds: str) -> tuple[float, float, int]:
    """A job in budjoule's engine."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "job.toml"
        config.write_text(OURS.format(clients=clients, rounds=rounds))
        return watch([sys.executable, "-m", "budjoule", "train", str(config), "-o", f"{folder}/run"])


def watch(command: list[str]) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak memory of a command and everything it starts. [s, s, B]"""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    started, peak, cpu_s = time.monotonic(), 0, {}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            for one in _tree(root):
                try:
                    total += one.memory_full_info().pss
                    spent = one.cpu_times()
                    cpu_s[one.pid] = spent.user + spent.system
                except psutil.Error:
                    continue
            peak = max(peak, total)
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command[:3])} failed:\n{log.read().decode(errors='replace')[-3000:]}")
    return time.monotonic() - started, sum(cpu_s.values()), peak


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


if __name__ == "__main__":
    main()
