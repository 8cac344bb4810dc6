"""How well processor load tells package power: our model beside CodeCarbon's, a constant TDP / 2, and no calibration.

python tests/benchmarks/cpu_load.py --data measurements.csv

The table has the columns `cpu, run, load_type, threads_used, load_frac, clock_hz, energy_j, duration_s, codecarbon_estimate_j,
tdp_w`, one row an interval, `energy_j` from RAPL, `load_type` `some_cores` (busy all the time) or `all_cores` (part of the time).
Each run is one machine. `left out` predicts each row from the machine's other rows; `as calibrate` knows five rows, at the
levels that `budjoule calibrate` runs (none, one thread, half, all, and all of them three tenths of the time), `busy only` the
same without the last, and `two points` the idlest and the busiest: they predict the rows that they do not know. `TDP only` knows
no row. `CodeCarbon` is what its 3.3 falls back to for a machine, TDP (0.1 + 0.9 load^3); `its log` is the estimate in the table, of
an earlier release that was linear in the load. Errors are mean absolute, of power. The prior of the one shape figure, `knee`, was set on such data of four machines: no
error here is quite blind to it.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from budjoule.calibration.load_levels import SPREAD_FRAC
from budjoule.energy.meters.load_model import LoadModel, LoadSample, fit_load_model, model_from_tdp

Row = dict[str, str]
Predict = Callable[[int], tuple[float, bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    rows = list(csv.DictReader(parser.parse_args().data.read_text().splitlines()))
    machines = list(dict.fromkeys(row["run"] for row in rows))
    names = [
        "left out",
        "covered",
        "as calibrate",
        "covered",
        "busy only",
        "two points",
        "TDP only",
        "covered",
        "CodeCarbon",
        "its log",
        "TDP / 2",
    ]
    print(f"{'machine':<20}{'rows':>5}" + "".join(f"{name:>14}" for name in names))
    table = [errors([row for row in rows if row["run"] == machine]) for machine in machines]
    for machine, figures in zip(machines, table, strict=True):
        count = sum(row["run"] == machine for row in rows)
        print(f"{machine:<20}{count:>5}" + "".join(f"{100 * figure:>12.1f} %" for figure in figures))
    means = [sum(column) / len(column) for column in zip(*table, strict=True)]
    print(f"{'mean':<20}{len(rows):>5}" + "".join(f"{100 * figure:>12.1f} %" for figure in means))


def errors(rows: Sequence[Row]) -> list[float]:
    """One machine's row of the table."""
    samples = [
        LoadSample(float(row["load_frac"]), float(row["energy_j"]) / float(row["duration_s"]), float(row["clock_hz"]))
        for row in rows
    ]
    by_load = sorted(samples, key=lambda sample: sample.load_frac)
    threads = max(int(row["threads_used"]) for row in rows)
    some, spread = (
        [sample for sample, row in zip(samples, rows, strict=True) if row["load_type"] == kind]
        for kind in ("some_cores", "all_cores")
    )
    busy = [by_load[0], *(_nearest(some, load_frac) for load_frac in (1 / threads, 0.5, 1.0))]
    left_out = [fit_load_model([*samples[:i], *samples[i + 1 :]]) for i in range(len(samples))]
    tdp_w = float(rows[0]["tdp_w"])
    tdp = [model_from_tdp(tdp_w)] * len(samples)
    cubic_w = [tdp_w * (0.1 + 0.9 * sample.load_frac**3) for sample in samples]
    logged_w = [float(row["codecarbon_estimate_j"]) / float(row["duration_s"]) for row in rows]
    return [
        *_error(left_out, samples),
        *_from([*busy, _nearest(spread, SPREAD_FRAC)], samples),
        _from(busy, samples)[0],
        _from([by_load[0], by_load[-1]], samples)[0],
        *_error(tdp, samples),
        *(
            _mean([abs(power_w / sample.power_w - 1) for power_w, sample in zip(fixed_w, samples, strict=True)])
            for fixed_w in (cubic_w, logged_w, [tdp_w / 2] * len(samples))
        ),
    ]


def _nearest(samples: Sequence[LoadSample], load_frac: float) -> LoadSample:
    return min(samples, key=lambda sample: abs(sample.load_frac - load_frac))


def _from(known: Sequence[LoadSample], samples: Sequence[LoadSample]) -> tuple[float, float]:
    others = [sample for sample in samples if sample not in known]
    return _error([fit_load_model(known)] * len(others), others)


def _error(models: Sequence[LoadModel], samples: Sequence[LoadSample]) -> tuple[float, float]:
    ratios = [
        model.power_w(sample.load_frac, sample.clock_hz) / sample.power_w
        for model, sample in zip(models, samples, strict=True)
    ]
    covered = [1 / model.factor <= ratio <= model.factor for model, ratio in zip(models, ratios, strict=True)]
    return _mean([abs(ratio - 1) for ratio in ratios]), _mean(covered)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
