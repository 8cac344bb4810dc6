"""What measuring costs: budjoule beside Zeus, pyJoules and CodeCarbon, on the same fake powercap tree.

python tests/benchmarks/meter_overhead.py [--python PATH] [--windows N] [--rounds N]

Each tool runs in fresh processes of the given interpreter, which needs the extra `peers`
(`pip install 'budjoule[peers]'`; the default is this one). A window is one begin and one end
(CodeCarbon: a task; it finds no tree of ours and estimates; its default tracker also asks the network where it is). `start` is from the import to the end of the
first window. Threads and processes are those started, sockets those connected or looked up, from the import to the last
window. budjoule's one thread sleeps until a counter might wrap unseen, which pyJoules does not look for; `handles` are
descriptors gained over the windows.
The tools take turns over the rounds, and the least of each figure is printed: others on the machine only add to it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SETUPS = {
    "budjoule": """
import budjoule as bj
def window():
    with bj.measure("w") as m: pass
    m.energy_j
""",
    "pyJoules": """
from pyJoules.device import rapl_device
rapl_device.RAPL_API_DIR = root + "/class/powercap/intel-rapl"
from pyJoules.energy_meter import EnergyMeter
device = rapl_device.RaplDevice(); device.configure()
meter = EnergyMeter([device])
def window():
    meter.start("w"); meter.stop(); meter.get_trace()
""",
    "zeus": """
from zeus.device.cpu import rapl
rapl.RAPL_DIR = root + "/class/powercap/intel-rapl"
from zeus.monitor import ZeusMonitor
monitor = ZeusMonitor(gpu_indices=[])
def window():
    monitor.begin_window("w", sync_execution=False); monitor.end_window("w", sync_execution=False)
""",
    "codecarbon": """
from codecarbon import OfflineEmissionsTracker
tracker = OfflineEmissionsTracker(country_iso_code="FRA", save_to_file=False, log_level="critical")
def window():
    tracker.start_task("w"); tracker.stop_task("w")
""",
}
# CodeCarbon's default tracker, which looks up where it is: what the offline one is told
SETUPS["codecarbon, online"] = (
    SETUPS["codecarbon"]
    .replace('OfflineEmissionsTracker(country_iso_code="FRA", ', "EmissionsTracker(")
    .replace("OfflineEmissionsTracker", "EmissionsTracker")
)

HARNESS = """
import json, os, statistics, sys, time
SOCKETS = ("socket.connect", "socket.getaddrinfo")
PROCESSES = ("subprocess.Popen", "os.fork", "os.posix_spawn")
WATCHED = (*SOCKETS, *PROCESSES, "_thread.start_new_thread")
def main():
    events = []
    sys.addaudithook(lambda event, args: events.append(event) if event in WATCHED else None)
    root, windows = sys.argv[1], int(sys.argv[2])
    start_s = time.perf_counter()
    scope = {"root": root}
    exec(SETUP, scope)
    window = scope["window"]
    window()
    start_s = time.perf_counter() - start_s
    handles = len(os.listdir("/proc/self/fd"))
    times = []
    for _ in range(windows):
        before = time.perf_counter(); window(); times.append(time.perf_counter() - before)
    import psutil
    process = psutil.Process()
    count = lambda names: sum(event in names for event in events)
    print("RESULT" + json.dumps({
        "start_s": start_s, "median_s": statistics.median(times), "mean_s": statistics.fmean(times), "sockets": count(SOCKETS),
        "threads": max(count(("_thread.start_new_thread",)), process.num_threads() - 1),
        "processes": count(PROCESSES) + len(process.children(recursive=True)),  # multiprocessing's leave no event
        "handles": len(os.listdir("/proc/self/fd")) - handles, "memory_bytes": process.memory_info().rss}))
    sys.stdout.flush()
    for child in process.children(recursive=True):
        child.kill()  # Zeus's would hold the output open
    os._exit(0)
if __name__ == "__main__":
    main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers installed")
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"{'tool':<20}{'window':>12}{'mean':>12}{'start':>10}{'threads':>9}{'processes':>11}{'sockets':>9}{'handles':>9}{'memory':>10}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _tree(root)
        runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in SETUPS}
        for _ in range(arguments.rounds):
            for tool, setup in SETUPS.items():
                runs[tool] += _run(arguments.python, root, setup, arguments.windows)
    for tool, rounds in runs.items():
        if not rounds:
            print(f"{tool:<20}did not run with {arguments.python}")
            continue
        least = {name: min(figures[name] for figures in rounds) for name in rounds[0]}
        print(
            f"{tool:<20}{least['median_s'] * 1e6:>9.1f} µs{least['mean_s'] * 1e6:>9.1f} µs{least['start_s'] * 1e3:>7.0f} ms"
            f"{least['threads']:>9}{least['processes']:>11}{least['sockets']:>9}{least['handles']:>9}{least['memory_bytes'] / 1e6:>7.0f} MB"
        )


def _tree(root: Path) -> None:
    """A package with its core and DRAM, nested as pyJoules and Zeus look for them."""
    top = root / "class" / "powercap" / "intel-rapl"
    for identity, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0/intel-rapl:0:0", "core"),
        ("intel-rapl:0/intel-rapl:0:1", "dram"),
    ):
        zone = top / identity
        zone.mkdir(parents=True)
        (zone / "name").write_text(name + "\n")
        (zone / "energy_uj").write_text("123456789\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")


def _run(python: str, root: Path, setup: str, windows: int) -> list[dict[str, Any]]:
    script = root / "harness.py"  # a file: spawned processes import it anew
    script.write_text(f"SETUP = {setup!r}\n{HARNESS}")
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = os.environ | {"BUDJOULE_SYSFS_ROOT": str(root), "PYTHONPATH": source}
    # Everyone's bytecode is compiled in the first round and found in the others, as where it is installed.
    environment = environment | {"PYTHONPYCACHEPREFIX": str(root / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [python, str(script), str(root), str(windows)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        print(done.stderr.strip().splitlines()[-1:] or "no output", file=sys.stderr)
        return []
    return [json.loads(lines[-1].removeprefix("RESULT"))]


if __name__ == "__main__":
    main()
