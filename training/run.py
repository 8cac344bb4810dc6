"""A whole training run: read the configuration, build the fleet, run it, and leave the record in a folder.

`train` is what `budjoule train` does. The folder holds `run.json`, `events.jsonl`, `summary.json`, `ledger.db` and the
model; a killed run goes on with `resume` and ends in the same bits.
"""

import codecs
import gc
import io
import json
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import RunError
from budjoule.energy.files import write_atomic
from budjoule.training.config.config import Config, load_config

if TYPE_CHECKING:
    from budjoule.training.simulation.build import Parts
    from budjoule.training.simulation.simulator import Simulator

RUN_SCHEMA = "budjoule.run/1"
SUMMARY_SCHEMA = "budjoule.summary/1"
_CHECKPOINT_EVENTS = 1000  # at most between two transactions, or so many seconds: when they fall changes no result
_CHECKPOINT_S = 2.0
_PROGRESS_S = 0.2
_LEDGER_FILES = ("ledger.db", "ledger.db-wal", "ledger.db-shm")
_OWN_FILES = ("run.json", "events.jsonl", "summary.json", "model.pt", "report.html", *_LEDGER_FILES)


class DivergenceError(RunError):
    """Local training ended in NaN or infinity for good; the run folder holds a whole record all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run.

    Args:
        folder: Its record.
        summary: What `summary.json` holds.
    """

    folder: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come.

    Args:
        done_frac: Share of the simulated time, or of the rounds, whichever is further.
        time_s: Simulated time. [s]
        spent_j: What all clients have spent. [J]
        accuracy_frac: Accuracy at the last evaluation.
        version: Versions made.
    """

    done_frac: float
    time_s: float
    spent_j: float
    accuracy_frac: float
    version: int


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    seed: int | None = None,
    output: str | Path | None = None,
    overrides: Iterable[str | Mapping[str, Any]] = (),
    resume: bool = False,
    force: bool = False,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train a fleet within its budgets.

    Args:
        config: A TOML file, or a document of the same shape.
        seed: Replaces the configuration's seed.
        output: The run folder; the default is `runs/NAME`, after the file.
        overrides: `section.key=value` strings, or documents, laid over the configuration.
        resume: Go on with the run in the folder; of a finished one, only its summary is read.
        force: Replace the run in the folder.
        workers: Processes that train the clients' blocks; how many there are changes no result.
        progress: Called every now and then.

    Raises:
        UsageError: The configuration, the data, the model or a profile cannot be used as given.
        RunError: The folder is in the way, cannot be written, or holds another run.
        DivergenceError: Local training diverged for good.
    """
    started = time.monotonic()
    config = load_config(config, overrides=overrides, seed=seed)
    folder = Path(output) if output is not None else Path("runs") / config.name
    look(folder, resume=resume, force=force)
    _make(folder)
    if resume:
        _same_run(folder, config)
        if (folder / "summary.json").is_file():
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            return _unless_diverged(Run(folder=folder, summary=summary), config)

    with _modules_set_aside():
        from budjoule.training.clients.local import one_thread
        from budjoule.training.simulation.build import Parts

        with one_thread():
            try:
                parts = Parts.of(config)
            except BaseException:
                with suppress(OSError):  # a configuration that cannot run leaves no empty folder behind
                    folder.rmdir()
                raise
            if resume:
                _same_task(folder, parts.task_digest)
            else:
                _clear(folder)
                write_atomic(folder / "run.json", _header(config, parts.task_digest))
            return _run(config, parts, folder, started, workers, progress)


def _run(
    config: Config,
    parts: "Parts",
    folder: Path,
    started: float,
    workers: int,
    progress: Callable[[Progress], None] | None,
) -> Run:
    from budjoule.training.simulation.checkpoint import Checkpoint

    with (
        closing(Checkpoint(folder / "ledger.db")) as checkpoint,
        closing(parts.record(checkpoint, folder)) as record,
        closing(parts.blocks(workers)) as blocks,
    ):
        simulator = parts.simulator(checkpoint, record, blocks)
        if not checkpoint.load(simulator):
            record.restart()
            simulator.begin()
            checkpoint.save(simulator)
        before_s = record.totals.wall_duration_s
        try:
            saved_s = shown_s = time.monotonic()
            while simulator.step():
                now_s = time.monotonic()
                if simulator.events % _CHECKPOINT_EVENTS == 0 or now_s - saved_s > _CHECKPOINT_S:
                    record.totals.wall_duration_s = before_s + now_s - started
                    checkpoint.save(simulator)
                    saved_s = now_s
                if progress is not None and now_s - shown_s > _PROGRESS_S:
                    progress(_progress(config, simulator, checkpoint.spent_j()))
                    shown_s = now_s
            simulator.end()
        except KeyboardInterrupt:
            raise RunError(f"stopped by hand; go on with --resume and -o {folder}") from None
        record.totals.wall_duration_s = before_s + time.monotonic() - started
        checkpoint.save(simulator)
        summary = {"schema": SUMMARY_SCHEMA, **parts.summary(simulator)}
        parts.save_model(simulator, folder / "model.pt")
    raw = io.BytesIO()  # a large fleet's rows, piece by piece: all pieces at once take several times the text
    json.dump(summary, codecs.getwriter("utf-8")(raw), indent=2, allow_nan=False)
    write_atomic(folder / "summary.json", raw.getvalue() + b"\n")
    return _unless_diverged(Run(folder=folder, summary=summary), config)


def _unless_diverged(run: Run, config: Config) -> Run:
    """The run, where its training did not diverge for good.

    Raises:
        DivergenceError: It did.
    """
    from budjoule.training.simulation.record import DIVERGED, DIVERGED_BLOCKS

    if run.summary["stopped_by"] == DIVERGED:
        raise DivergenceError(
            f"local training diverged: {DIVERGED_BLOCKS} blocks in a row ended in NaN or infinity, after "
            f"{run.summary['rounds']} versions; lower training.learning_rate, now {config.training.learning_rate:g}, or look "
            f"for what is not finite in the data, and train again; what happened is in {run.folder}"
        )
    return run


def _clear(folder: Path) -> None:
    """Take away the run that a folder holds.

    Raises:
        RunError: It is still going on.
    """
    if (folder / "ledger.db").is_file():
        try:
            with closing(sqlite3.connect(folder / "ledger.db", timeout=1.0, isolation_level=None)) as ledger:
                ledger.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:  # one that is damaged is replaced all the more
            if "locked" in str(error):
                raise RunError(
                    f"{folder} holds a run that is still going on; wait for its end, or give another -o"
                ) from None
    for name in _OWN_FILES:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _modules_set_aside() -> Iterator[None]:
    """Load what a run needs, and keep the collector away from it until the run is over.

    Torch's modules are some hundred thousand objects that stay: the collector would walk them many times while they load, and
    again in the run. An owner who has frozen objects, or has switched the collector off, is left alone.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        import budjoule.training.simulation.build
        import budjoule.training.simulation.simulator  # noqa: F401 - loaded here for its modules

        gc.freeze()
    finally:
        gc.enable()
    try:
        yield
    finally:
        gc.unfreeze()


def _progress(config: Config, simulator: "Simulator", spent_j: float) -> Progress:
    version = simulator.server.state.version
    limit_s = min(config.stop.duration_s, config.budget.horizon_s)
    return Progress(
        done_frac=min(1.0, max(simulator.now_s / limit_s, version / config.stop.rounds)),
        time_s=simulator.now_s,
        spent_j=spent_j,
        accuracy_frac=simulator.record.totals.accuracy_frac,
        version=version,
    )


def look(folder: Path, *, resume: bool, force: bool) -> None:
    """See that a folder may be used as asked for, before anything costly.

    Raises:
        RunError: It may not.
    """
    is_run = (folder / "run.json").is_file()
    if resume and not is_run:
        raise RunError(f"nothing to resume: {folder} has no run.json; leave --resume out, or give the -o of that run")
    try:
        held = folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise _unwritable(folder, error) from None
    if held and not is_run and not resume:
        raise RunError(f"{folder} is not empty and holds no run; give another -o")
    if held and not resume and not force:
        raise RunError(f"{folder} holds a run; go on with --resume, replace it with --force, or give another -o")


def _make(folder: Path) -> None:
    """Make the folder, and prove that it can be written.

    Raises:
        RunError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {folder}: {error.strerror}; give another -o, or check its permissions")


def _same_run(folder: Path, config: Config) -> None:
    """Refuse to go on with another configuration than the run began with.

    Raises:
        RunError: It differs, or `run.json` cannot be read.
    """
    try:
        begun = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]
        known = dict(_flat(begun))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"cannot read {folder / 'run.json'}: {error}; train again into a new folder") from None
    for key, value in _flat(config.document):
        if known.get(key) != value:
            raise RunError(
                f"{folder} was begun with {key} = {known.get(key)!r}, not {value!r}; resume with the same configuration"
            )


def _same_task(folder: Path, task: str) -> None:
    """Refuse to go on with other data, or another model, than the run began with.

    Raises:
        RunError: They differ, although the configuration reads the same.
    """
    if json.loads((folder / "run.json").read_text(encoding="utf-8")).get("task_digest") != task:
        raise RunError(
            f"{folder} was begun with other data, or another initial model: what task.data or task.model names has changed, "
            "or is not decided by the seed alone; train again into a new folder"
        )


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, value in document.items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{key}", item) for key, item in value.items())
        elif section != "preset":  # its keys are merged already
            yield section, value


def _header(config: Config, task: str) -> str:
    import torch

    from budjoule import __version__

    header = {
        "schema": RUN_SCHEMA,
        "budjoule_version": __version__,
        "config": config.document,
        "seed": config.seed,
        "task_digest": task,
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cpu_count": os.cpu_count(),
        },
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(header, indent=2, allow_nan=False) + "\n"
