"""How wrong is the estimator? Absolute errors of energy, time and power on measured runs it was not fitted on, and interval coverage.

`python tests/benchmarks/accuracy.py --data FOLDER` with the folder of the data sets (`energaizer`, `gpu-training`, `gpu-large-training`,
`boards`), or the folder of the EnergAIzer measurements alone; `--part` prints one table of the three. What a fit may look at is said in
each row: `unseen family` has not seen any model of the row's family on any device, `K of its runs` starts from the other devices.

Honesty: the model's form and its priors' widths were chosen on the unseen-family rows of these very data, so those rows are a development score. The 5-fold,
clock and few-run rows were looked at less, and none was tuned on. The few runs of a new device are chosen by `choose_runs` from
the workloads alone, before any measured value is looked at.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.model_selection import KFold

from budjoule.calibration.design import choose_runs
from budjoule.calibration.evidence import boards, gpus
from budjoule.calibration.evidence.gpu_specs import SPECS
from budjoule.calibration.evidence.scores import errors
from budjoule.calibration.evidence.zeus import HOST_BOUND
from budjoule.calibration.fit import fit_profile
from budjoule.calibration.observation import Observation
from budjoule.calibration.prior import prior_for
from budjoule.energy.device import DeviceProfile, DeviceSpec

# What EnergAIzer's paper reports (its tables of time and power error, mean %); it was calibrated on kernels run on each GPU.
PAPER = {
    ("unseen family", "a100-pcie-40gb"): "time 11.7, power 8.3",
    ("unseen family", "a10-pcie-24gb"): "time 9.7, power 8.1",
    ("clocks not fitted", "a100-pcie-40gb"): "energy 14.2, time 17.2, power 7.7",
    ("4 of its 5 runs, prior a100-pcie-40gb", "h100-sxm-80gb"): "power 7 (forecast)",
}
FEW = (0, 1, 3, 5, 10)
Row = tuple[str, str, str, np.ndarray]  # protocol, device, models, errors


def few_shot(
    runs: Sequence[Observation],
    spec: DeviceSpec,
    base: DeviceProfile,
    counts: Sequence[int],
    tables: Mapping[str, Sequence[tuple[float, float]]],
) -> Iterator[tuple[int, np.ndarray]]:
    """Errors on the rest of a device's runs after a few of them, for each number of them that leaves some."""
    prior = prior_for(spec, base, name="new", **tables)
    for count in counts:
        if count >= len(runs):
            return
        chosen = choose_runs(runs, prior, count) if count else []
        few = [runs[i] for i in chosen]
        profile = fit_profile(few, spec=spec, prior=base, name="new", **tables) if few else prior
        yield count, errors([o for i, o in enumerate(runs) if i not in chosen], profile)


def forward_passes(evidence: gpus.Evidence) -> Iterator[Row]:
    """The protocols on the EnergAIzer measurements alone."""
    runs, tables = evidence.runs, evidence.tables
    folds: dict[str, list[np.ndarray]] = {d: [] for d in runs}
    for fold in range(5):
        parts = {d: list(KFold(5, shuffle=True, random_state=0).split(rows))[fold] for d, rows in runs.items()}
        kept = {d: [runs[d][i] for i in train] for d, (train, _) in parts.items()}
        profiles = gpus.fit_all(gpus.Evidence(runs=kept, tables=tables, sources=evidence.sources))
        for d, (_, test) in parts.items():
            folds[d].append(errors([runs[d][i] for i in test], profiles[d]))
    yield from (("5-fold", d, "all", np.vstack(parts)) for d, parts in folds.items())

    for d, models in gpus.leave_one_family_out(evidence).items():
        yield "unseen family", d, "all", np.vstack(list(models.values()))

    a100, a10, h100 = "a100-pcie-40gb", "a10-pcie-24gb", "h100-sxm-80gb"
    at_900 = [o for o in runs[a100] if o.clock_hz == 900e6]
    others = [o for o in runs[a100] if o.clock_hz != 900e6]
    known = gpus.Evidence(runs={**runs, a100: at_900}, tables=tables, sources=evidence.sources)
    yield "clocks not fitted", a100, "all", errors(others, gpus.fit_all(known)[a100])

    alone = {d: gpus.fit_all(evidence.of([d]))[d] for d in (a100, a10)}
    for source, target in ((a100, a10), (a10, a100)):
        for count, rows in few_shot(runs[target], SPECS[target], alone[source], FEW, tables[target]):
            yield f"{count} of its runs, prior {source}", target, "all", rows
    left_out = [
        errors(
            [o],
            fit_profile(
                [p for p in runs[h100] if p is not o],
                spec=SPECS[h100],
                prior=alone[a100],
                name=h100,
                **tables[h100],
            ),
        )
        for o in runs[h100]
    ]
    yield f"4 of its 5 runs, prior {a100}", h100, "all", np.vstack(left_out)


def all_gpus(evidence: gpus.Evidence) -> Iterator[Row]:
    """Inference and training on all GPUs: a model family left out on all of them, then a device."""
    for d, models in gpus.leave_one_family_out(evidence).items():
        yield from (("unseen family", d, name, rows) for name, rows in models.items())
        if any(name.endswith(HOST_BOUND) for name in models):
            yield "unseen family", d, "all but host-bound", gpus.at_work_only(models)
        yield "unseen family", d, "all", np.vstack(list(models.values()))
    for d, rows in evidence.runs.items():
        base = gpus.fit_all(evidence.of([other for other in evidence.runs if other != d]))[gpus.GENERIC]
        for count, found in few_shot(rows, SPECS[d], base, FEW[:4], evidence.tables[d]):
            yield f"{count} of its runs, prior from the others", d, "all", found


def all_boards(runs: Mapping[str, Sequence[Observation]]) -> Iterator[Row]:
    """Single images on boards' CPUs: a model family left out on all of them, then a board."""
    for d, groups in boards.leave_one_family_out(runs).items():
        yield from (("unseen family", d, name, rows) for name, rows in groups.items())
        for precision in ("fp32", "int8"):
            of = {name: rows for name, rows in groups.items() if precision in name}
            whole = [rows for name, rows in of.items() if not name.endswith(boards.OTHER_SETTINGS)]
            yield "unseen family", d, f"all {precision}", np.vstack(whole)
            yield "unseen family", d, f"all {precision}, other threads too", np.vstack(list(of.values()))
    for d, rows in runs.items():
        base = boards.fit_all({other: r for other, r in runs.items() if other != d})[boards.GENERIC]
        for count, found in few_shot(boards.all_cores(rows), boards.SPECS[d], base, FEW[:4], {}):
            yield f"{count} of its runs, prior from the others", d, "all", found


def parts(folder: Path) -> dict[str, Iterator[Row]]:
    """The tables that the data at hand allow; each is computed as it is read."""
    root = folder if (folder / "energaizer").is_dir() else folder.parent
    evidence = gpus.read(root)
    found: dict[str, Iterator[Row]] = {}
    if all(d in evidence.runs for d in ("a100-pcie-40gb", "a10-pcie-24gb", "h100-sxm-80gb")):
        found["forward passes"] = forward_passes(evidence.of(["a100-pcie-40gb", "a10-pcie-24gb", "h100-sxm-80gb"]))
    if "v100-pcie-32gb" in evidence.runs:
        found["all GPUs"] = all_gpus(evidence)
    if (root / "boards" / "measurements.csv").is_file():
        found["boards"] = all_boards(boards.read(root / "boards" / "measurements.csv"))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--part", choices=("forward passes", "all GPUs", "boards"), help="one table only")
    options = parser.parse_args()
    console = Console(width=200)
    for title, rows in parts(options.data).items():
        if options.part in (None, title):
            console.print(table(title, list(track(rows, f"{title} ...", console=Console(stderr=True), transient=True))))


def table(title: str, rows: Sequence[Row]) -> Table:
    """One table, with what the paper reports where it says something comparable."""
    made = Table(
        "protocol",
        "device",
        "models",
        "runs",
        "energy % mean / median / p90",
        "time %",
        "power %",
        "inside",
        "half-width %",
        title=title,
    )
    if title == "forward passes":
        made.add_column("EnergAIzer's paper, from kernels")
    for protocol, device, models, found in rows:
        size = 100 * np.abs(found[:, :3])
        cells = [
            f"{size[:, i].mean():.1f} / {np.median(size[:, i]):.1f} / {np.percentile(size[:, i], 90):.1f}"
            for i in range(3)
        ]
        cells += [f"{100 * found[:, 3].mean():.0f} %", f"{100 * np.median(found[:, 4]):.0f}"]
        if title == "forward passes":
            cells.append(PAPER.get((protocol, device), ""))
        made.add_row(protocol, device, models, str(len(found)), *cells)
    return made


if __name__ == "__main__":
    main()
