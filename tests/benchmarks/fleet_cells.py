"""What the fleet benchmark runs: the cells, and the methods and ablations with their tuned settings.

A run is long enough that its curve covers what it is compared on: `TASKS` local tasks in rounds, and twice as many without
them, which still take a fraction of the time. Methods are compared at equal accuracy, joules or bytes, never at equal tasks.
The targets were fixed from FedAvg's accuracy on the tuning seeds before anything else ran.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from budjoule.training.config.config import load_config
from budjoule.training.config.config_keys import KEYS

SEEDS = (0, 1, 2, 3, 4)
TASKS = 2500
WITHOUT_ROUNDS = 2  # times as many
TARGETS = {"dirichlet:0.1": (0.70, 0.76), "dirichlet:0.5": (0.76, 0.80), "iid": (0.76, 0.80)}
IN_FLIGHT = 100  # of the methods without rounds

Document = dict[str, dict[str, Any]]

WORLD: Document = {
    "task": {"data": "fashion-mnist", "model": "conv"},
    "fleet": {
        "device": {"raspberry-pi-5": 0.7, "jetson-orin-nano": 0.3},
        "link": "wifi-2012",
        "straggler_slowdown": [5.0, 20.0],
        "dropout_frac": 0.05,
        "awake_frac": 0.9,
    },
    "budget": {"energy": "none", "horizon": "1000 h"},
    "training": {"local_steps": 8, "batch_size": 16},
    "schedule": {"slot": "none"},
    "stop": {"target_accuracy_frac": "none", "duration": "none"},
}


def over(below: Document, above: Document) -> Document:
    """One document laid over another, key by key."""
    merged = {section: dict(keys) if isinstance(keys, dict) else keys for section, keys in below.items()}
    for section, keys in above.items():
        merged[section] = {**merged.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return merged


def _cells() -> dict[str, list[Document]]:
    """Groups of cells; `main` is run first, `grid` is all of the issue's grid."""

    def cell(clients: int, stragglers: float, partition: str) -> Document:
        return {"task": {"partition": partition}, "fleet": {"clients": clients, "straggler_frac": stragglers}}

    sizes, shares, partitions = (10, 50, 100, 500), (0.0, 0.3, 0.6, 0.9), ("iid", "dirichlet:0.1", "dirichlet:0.5")
    grid = [cell(*key) for key in product(sizes, shares, partitions)]
    return {
        "main": [cell(500, 0.9, "dirichlet:0.1"), cell(500, 0.9, "dirichlet:0.5")],
        # Joules for about 20 tasks each on a link that changes: what the scheduler is for.
        "scarce": [
            over(
                cell(500, 0.9, "dirichlet:0.1"),
                {
                    "fleet": {"link_state": "two-state:8"},
                    "budget": {"energy": "40 J", "horizon": "2 h"},
                    "schedule": {"slot": "20 s"},
                },
            )
        ],
        "lte": [over(cell(500, 0.9, "dirichlet:0.1"), {"fleet": {"link": "lte-2012"}})],
        "margins": [cell(500, 0.0, "dirichlet:0.1"), cell(100, 0.9, "dirichlet:0.1"), cell(500, 0.9, "iid")],
        "grid": grid,
    }


# A method: its preset, and what was tuned on other seeds (`fleet_tuning.py`).
_OURS: Document = {"preset": "budjoule", "server": {"buffer_size": 10}, "training": {"learning_rate": 0.2}}
METHODS: dict[str, Document] = {
    "fedavg": {"preset": "fedavg", "server": {"cohort": 40}, "training": {"learning_rate": 0.2}},
    "fedavg, thrifty": {"preset": "fedavg", "server": {"cohort": 5}, "training": {"learning_rate": 0.3}},
    "fedavg-deadline": {
        "preset": "fedavg-deadline",
        "server": {"cohort": 80, "deadline": "24 s"},
        "training": {"learning_rate": 0.3},
    },
    "fedbuff": {
        "preset": "fedbuff",
        "server": {"buffer_size": 5, "learning_rate": 0.1},
        "training": {"learning_rate": 0.3},
    },
    "ftte-style": {
        "preset": "ftte-style",
        "server": {"buffer_size": 10, "learning_rate": 0.2},
        "training": {"learning_rate": 0.2, "memory": "70 %"},
    },
    # The best of an earlier, smaller grid, with which more cells were run.
    "fedavg, cohort 10": {"preset": "fedavg", "server": {"cohort": 10}, "training": {"learning_rate": 0.2}},
    "fedavg-deadline, cohort 40": {
        "preset": "fedavg-deadline",
        "server": {"cohort": 40, "deadline": "24 s"},
        "training": {"learning_rate": 0.2},
    },
    "fedbuff, buffer 10": {
        "preset": "fedbuff",
        "server": {"buffer_size": 10, "learning_rate": 0.2},
        "training": {"learning_rate": 0.2},
    },
    "ftte-style, buffer 20": {
        "preset": "ftte-style",
        "server": {"buffer_size": 20, "learning_rate": 0.3},
        "training": {"learning_rate": 0.1, "memory": "70 %"},
    },
    "budjoule": _OURS,
    "budjoule - sparse w*": over(_OURS, {"training": {"memory": "none"}}),
    "budjoule - compression": over(_OURS, {"update": {"compress": [], "error_feedback": False}}),
    "budjoule - error feedback": over(_OURS, {"update": {"error_feedback": False}}),
    "budjoule - scheduler": over(_OURS, {"schedule": {"policy": "every-block"}}),
    "budjoule - age": over(_OURS, {"server": {"staleness": "constant"}}),
    "budjoule - damping": over(
        _OURS, {"server": {"damping": False}, "training": {"learning_rate": 0.15}}
    ),  # at its own rate
    "budjoule + variance": over(_OURS, {"server": {"staleness": "age-variance"}}),
    # How much of the gain is the frames', which any server could take.
    "fedbuff + compression": {
        "preset": "fedbuff",
        "server": {"buffer_size": 5, "learning_rate": 0.1, "broadcast": ["quantize:8"]},
        "training": {"learning_rate": 0.3},
        "update": {"compress": ["topk:0.1", "quantize:8"], "error_feedback": True},
    },
    "fedavg + compression": {
        "preset": "fedavg",
        "server": {"cohort": 40, "broadcast": ["quantize:8"]},
        "training": {"learning_rate": 0.2},
        "update": {"compress": ["topk:0.1", "quantize:8"], "error_feedback": True},
    },
    # How much is left without small frames and without a tenth of the net: budjoule's server on FedBuff's terms.
    "budjoule, dense": over(
        _OURS,
        {
            "training": {"memory": "none"},
            "update": {"compress": [], "error_feedback": False},
            "server": {"broadcast": []},
        },
    ),
    # How much of the gain is the loss function's and the averaging's, which any method could have.
    "fedbuff + loss": {
        "preset": "fedbuff",
        "server": {"buffer_size": 10, "learning_rate": 0.2, "average": 0.9},
        "training": {"learning_rate": 0.2, "logit_adjustment": True},
    },
    "fedavg + loss": {
        "preset": "fedavg",
        "server": {"cohort": 40, "average": 0.9},
        "training": {"learning_rate": 0.2, "logit_adjustment": True},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Args:
        cell: What the fleet is like, in words.
        method: A row of `METHODS`.
        seed: Its seed.
        settings: What the method sets beyond its cell.
        document: The whole configuration.
        command: The arguments of `fleet.py` that run it.
    """

    cell: str
    method: str
    seed: int
    settings: Document
    document: dict[str, Any]
    command: str

    @property
    def digest(self) -> str:
        """Equal for equal configurations and seeds; what stands at its default does not count, so new keys change nothing."""
        checked = load_config(self.document, seed=self.seed).document
        said = {
            f"{section}.{key}": value
            for section, keys in checked.items()
            if section in KEYS
            for key, value in keys.items()
            if value != KEYS[section][key].default
        }
        text = json.dumps({**said, "seed": self.seed}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def job(cell: Document, method: str, settings: Document, *, seed: int, tasks: int, command: str) -> Job:
    """The run of a method in a cell; the versions are as many as the tasks make."""
    document = over(over(WORLD, cell), settings)
    server = document.setdefault("server", {})
    clients = cell["fleet"]["clients"]
    in_rounds = settings["preset"].startswith("fedavg")
    server["cohort"] = min(server.get("cohort", IN_FLIGHT), clients)
    per_version = server["cohort"] if in_rounds else min(server.setdefault("buffer_size", 10), clients)
    document["stop"]["rounds"] = tasks * (1 if in_rounds else WITHOUT_ROUNDS) // per_version
    return Job(cell=name(cell), method=method, seed=seed, settings=settings, document=document, command=command)


def name(cell: Document) -> str:
    """A cell in words."""
    fleet = cell["fleet"]
    said = [fleet[key] for key in ("link", "link_state") if key in fleet] + list(cell.get("budget", {}).values())[:1]
    return ", ".join(
        [f"{fleet['clients']} clients", f"{fleet['straggler_frac']:.0%} stragglers", cell["task"]["partition"], *said]
    )


def jobs(groups: list[str], methods: list[str], seeds: tuple[int, ...]) -> Iterator[Job]:
    """The runs of some groups of cells, seed by seed, so that a benchmark that is stopped has all methods alike."""
    for group in groups:
        for seed in seeds:
            for cell in CELLS[group]:
                for method in methods:
                    command = f"run --cells {group} --methods '{method}'"
                    yield job(cell, method, METHODS[method], seed=seed, tasks=TASKS, command=command)


CELLS = _cells()
