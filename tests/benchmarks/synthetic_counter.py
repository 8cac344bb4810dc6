"""Calibrates this machine against a counter whose law is known: a process that follows the real load drives a powercap tree.

python tests/benchmarks/synthetic_counter.py [--quick]

The counter is a package of `IDLE_W` at rest and `CORE_W` more for each busy core, of whatever process, as real ones are. It
steps every 10 ms with the kernel's busy time, is quantised, and wraps every `RANGE_J`. Steps, clock, poll thread and wraps are
real; only the joules are invented. Since energy is power times time, the time that the model misses is in the energy too:
power is the counter's part. Needs Linux, and an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IDLE_W, CORE_W, RANGE_J, UNIT_J = 7.0, 11.0, 400.0, 2.0**-14
STEP_S = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        zone = Path(folder) / "class/powercap/intel-rapl:0"
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text(f"{RANGE_J * 1e6:.0f}\n")
        (zone / "energy_uj").write_text("0\n")
        os.environ["BUDJOULE_SYSFS_ROOT"] = folder
        follower = subprocess.Popen([sys.executable, "-c", FOLLOW, str(zone / "energy_uj")])
        try:
            show(quick)
        finally:
            follower.kill()
            follower.wait()


FOLLOW = f"""
import os, sys, time
counter, ticks = sys.argv[1], os.sysconf("SC_CLK_TCK")

def busy_s():
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / ticks

energy_j, at_s, before_s = {RANGE_J} - 20.0, time.monotonic(), busy_s()
file = os.open(counter, os.O_WRONLY)
while True:
    time.sleep({STEP_S})
    now_s, now_busy_s = time.monotonic(), busy_s()
    energy_j += {IDLE_W} * (now_s - at_s) + {CORE_W} * max(0.0, now_busy_s - before_s)
    at_s, before_s = now_s, now_busy_s
    units = energy_j % {RANGE_J} // {UNIT_J}
    os.pwrite(file, f"{{units * {UNIT_J} * 1e6:015.0f}}\\n".encode(), 0)
"""


def show(quick: bool) -> None:
    from budjoule.calibration.calibrate import calibrate

    begin = time.perf_counter()
    made = calibrate(quick=quick, progress=lambda name, done, total: print(f"{done}/{total} {name}", file=sys.stderr))
    cores = made.profile.spec.units
    print(f"{time.perf_counter() - begin:.0f} s, {cores} threads; {made.profile.status}; {'; '.join(made.notes)}\n")
    print(f"{'':<34}{'counter':>12}{'estimated':>12}{'error':>8}")
    for row in made.validation:
        pairs = {
            "time, ms": (1e3 * row["duration_s"], 1e3 * row["estimated_duration_s"]),
            "energy, mJ": (1e3 * row["energy_j"], 1e3 * row["estimated_energy_j"]),
            "power, W": (
                row["energy_j"] / row["duration_s"],
                row["estimated_energy_j"] / row["estimated_duration_s"],
            ),
        }
        print(row["name"])
        for what, (true, estimated) in pairs.items():
            line(f"  {what}", true, estimated)
    if made.load_model is not None:
        print("power against load, W")
        threads = os.cpu_count() or 1
        for load_frac in (0.0, 0.5, 1.0):
            true_w = IDLE_W + CORE_W * threads * load_frac
            line(f"  load {load_frac:g}", true_w, made.load_model.power_w(load_frac))


def line(what: str, true: float, estimated: float) -> None:
    print(f"{what:<34}{true:>12.2f}{estimated:>12.2f}{100 * (estimated / true - 1):>+7.1f} %")


if __name__ == "__main__":
    main()
