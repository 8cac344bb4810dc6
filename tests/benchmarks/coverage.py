"""Does every architecture of transformers trace, and on named rules?

`python tests/benchmarks/coverage.py [--jobs 2] [--only bert,vit] [--heads | --all-classes]` builds each on the meta device from a
configuration with two layers a stack, traces inference and training, and prints what failed and what share of the estimated
energy (a100-pcie-40gb) rests on ops without a rule. `--heads` takes one class with a task's head an architecture, with its labels
where it has some, `--all-classes` every class. Chunks run in processes of their own, each class under a limit of processor time.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

DEVICE = "a100-pcie-40gb"
LIMIT_S = 40
CHUNK = 40
# heads are taken in this order, then by name
TASKS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_TEXT_TO_TEXT", "IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "CTC")  # fmt: skip
MOST_PARAMETERS = 150_000_000  # built for real


class Expired(BaseException):
    """Passes through what catches exceptions."""


def classes(every: bool) -> list[str]:
    """Names of model classes, one an architecture or all that an auto class knows."""
    from transformers.models.auto import modeling_auto

    tables = [modeling_auto.MODEL_MAPPING_NAMES]
    if every:
        tables = [getattr(modeling_auto, name) for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES")]
    found: dict[str, str] = {}
    for table in tables:
        for model_type, value in table.items():
            for name in (value,) if isinstance(value, str) else value:
                found.setdefault(name, model_type)
    return [f"{model_type}:{name}" for name, model_type in found.items()]


def heads() -> list[str]:
    """Names of model classes with a task's head, one an architecture."""
    from transformers.models.auto import modeling_auto

    first = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS]
    tables = [name for name in dir(modeling_auto) if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES")]
    found: dict[str, str] = {}
    for table in (getattr(modeling_auto, name) for name in dict.fromkeys([*first, *tables])):
        for model_type, value in table.items():
            found.setdefault(model_type, value if isinstance(value, str) else value[0])
    return [f"{model_type}:{name}" for model_type, name in found.items()]


def try_one(name: str) -> dict[str, Any]:
    """Build, trace in both modes and estimate one class."""
    import torch
    import transformers
    from coverage_models import inputs_for, small_config
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from budjoule.energy.errors import BudjouleError

    row: dict[str, Any] = {"name": name}
    model_type, class_name = name.split(":")
    try:
        model_class = getattr(transformers, class_name)
        config_class = getattr(model_class, "config_class", None) or CONFIG_MAPPING[model_type]
    except (AttributeError, ImportError) as error:  # not exported, or in need of another package
        return {**row, "unbuilt": " ".join(str(error).split())[:160]}
    errors: list[str] = []
    reasons: list[str] = []
    model: Any = torch.nn.Module()
    for config, where in ((c, w) for c in small_config(config_class) for w in ("meta", "cpu")):
        try:
            wanted = any("integer buffers" in reason for reason in reasons)
            if where == "cpu" and not (wanted and sum(p.numel() for p in model.parameters()) < MOST_PARAMETERS):
                continue
            with torch.device(where):  # on the CPU, integer buffers keep the values that some models read
                model = model_class(config)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            if where == "meta":
                model = torch.nn.Module()
            continue
        for inputs in inputs_for(model, config):
            started = time.perf_counter()
            try:
                traced = _traced(model, inputs, "inference")
            except BudjouleError as error:
                reasons.append(str(error)[:600])
                continue
            row["inference"] = {**traced, "seconds": time.perf_counter() - started}
            row["inputs"] = {k: list(getattr(v, "shape", ())) for k, v in inputs.items()}
            try:
                row["training"] = _traced(model, inputs, "training")
            except BudjouleError as error:  # the next inputs may do for both
                row["training"] = {"failed": [str(error)[:600]]}
                continue
            row["training"]["seconds"] = time.perf_counter() - started
            return row
    if "inference" in row:
        return row
    if not reasons:
        return {**row, "unbuilt": errors[-1] if errors else "no default configuration"}
    return {**row, "inference": {"failed": reasons, "pytorch_runs": _pytorch_runs(model_class, config)}}


def _pytorch_runs(model_class: Any, config: Any) -> bool:
    """PyTorch itself, without data, runs one of the inputs or stops at a value that is not there: then the refusal is the tracer's."""
    import torch
    from coverage_models import inputs_for
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    mode: Any = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            model = model_class(config).eval()
    except Exception:  # it looks at values while it is built: on the meta device then
        mode = contextlib.nullcontext()
        with torch.device("meta"):
            model = model_class(config).eval()
    for inputs in inputs_for(model, config):
        with torch.no_grad(), mode:
            given = {
                k: (v.to("meta") if isinstance(mode, contextlib.nullcontext) else mode.from_tensor(v))
                if isinstance(v, torch.Tensor)
                else v
                for k, v in inputs.items()
            }
            try:
                model(**given)
            except (DataDependentOutputException, DynamicOutputShapeException, NotImplementedError):
                return True
            except Exception as error:
                if "meta tensor" not in str(error):  # else the model does not take these inputs
                    continue
        return True
    return False


def _traced(model: Any, inputs: dict[str, Any], mode: str) -> dict[str, Any]:
    import budjoule as bj

    work = bj.trace(model, inputs, mode=mode)
    estimate = bj.predict(work, device=DEVICE)
    unruled: Counter[str] = Counter()
    for op, energy_j in zip(work.ops, estimate.row_energy_j, strict=True):
        if not op.ruled:
            unruled[op.name] += float(energy_j) / estimate.energy_j
    return {
        "ops": len(work.ops),
        "flop": work.flop,
        "unruled_frac": estimate.unruled_energy_frac,
        "unruled": dict(unruled),
    }


def child(names: list[str], output: Path) -> None:
    """Try a chunk, one JSON line each; a class that takes too long is one that failed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)

    def expired(*_: object) -> None:
        raise Expired(f"took over {LIMIT_S} s of processor time")

    signal.signal(signal.SIGPROF, expired)
    with output.open("a") as lines:
        for name in names:
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            try:
                row = try_one(name)
            except BaseException as error:
                row = {"name": name, "crashed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            signal.setitimer(signal.ITIMER_PROF, 0)
            lines.write(json.dumps(row) + "\n")
            lines.flush()


def run(names: list[str], jobs: int) -> list[dict[str, Any]]:
    """All classes, in chunks of a forked process each; what a process that died left out is marked as crashed."""
    import torch  # noqa: F401  once, for all processes
    import transformers  # noqa: F401

    import budjoule.energy.predict
    import budjoule.energy.trace  # noqa: F401

    context = multiprocessing.get_context("fork")
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        running: list[tuple[Any, list[str], Path]] = []
        while chunks or running:
            while chunks and len(running) < jobs:
                chunk = chunks.pop(0)
                path = Path(folder) / f"{len(chunks)}.jsonl"
                process = context.Process(target=child, args=(chunk, path))
                process.start()
                running.append((process, chunk, path))
            process, chunk, path = running.pop(0)
            process.join()
            done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            rows += done
            missing = chunk[len(done) :]
            if missing:
                rows.append({"name": missing[0], "crashed": f"the process ended with {process.exitcode}"})
                chunks.append(missing[1:])
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """The exceptions, and a summary line."""
    crashed = [r for r in rows if "crashed" in r]
    unbuilt = [r for r in rows if "unbuilt" in r]
    unfed = [r for r in rows if r.get("inference", {}).get("pytorch_runs") is False]
    failed = [
        (r, mode)
        for r in rows
        for mode in ("inference", "training")
        if "failed" in r.get(mode, {}) and r.get(mode, {}).get("pytorch_runs", True)
    ]
    traced = [r for r in rows if "flop" in r.get("inference", {})]
    trained = [r for r in rows if "flop" in r.get("training", {})]
    for r in unbuilt:
        print(f"unbuilt  {r['name']}: {r['unbuilt']}")
    for r in unfed:
        print(f"unfed    {r['name']}: PyTorch refuses these inputs too: {r['inference']['failed'][-1][-200:]}")
    for r in crashed:
        print(f"crashed  {r['name']}: {r['crashed']}")
    for r, mode in failed:
        print(f"failed   {r['name']} ({mode}): " + " || ".join(r[mode]["failed"])[:600])
    worst = [
        (r[mode]["unruled_frac"], r["name"], mode, r[mode]["unruled"])
        for r in rows
        for mode in ("inference", "training")
        if "flop" in r.get(mode, {})
    ]
    below = sorted((w for w in worst if w[0] > 0.01), reverse=True)
    for fraction, name, mode, ops in below:
        print(f"unruled  {name} ({mode}): {100 * fraction:.2f} % on {', '.join(ops)}")
    ops: Counter[str] = Counter()
    for _, _, _, unruled in worst:
        ops.update(unruled)
    print("ops without a rule:", ", ".join(f"{name} {share:.3f}" for name, share in ops.most_common(30)) or "none")
    mean = sum(w[0] for w in worst) / max(1, len(worst))
    print(
        f"{len(rows)} architectures: {len(rows) - len(unbuilt)} build from a small configuration, {len(traced)} trace in inference, "
        f"{len(trained)} in training, {len(unfed)} without inputs that PyTorch itself takes, {len(failed)} refused with a reason, {len(crashed)} crashed; "
        f"{100 * (1 - mean):.3f} % of the energy on named rules, {len(below)} traces under 99 %"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="names of model types or classes, separated by commas")
    parser.add_argument("--heads", action="store_true", help="one class with a task's head an architecture")
    parser.add_argument("--all-classes", action="store_true", help="every class with a task's head too")
    parser.add_argument("--rows", type=Path, help="keep every row here, as JSON")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    names = heads() if options.heads else classes(options.all_classes)
    if wanted:
        names = [name for name in names if any(w in name.split(":") for w in wanted)]
    started = time.perf_counter()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    rows = run(names, options.jobs)
    if options.rows:
        options.rows.write_text(json.dumps(rows, indent=1))
    report(rows)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(each.ru_utime + each.ru_stime for each in used)
    print(f"{time.perf_counter() - started:.0f} s with {options.jobs} at a time, {cpu_s:.0f} s of processor time")


if __name__ == "__main__":
    main()
