"""Small fleets, shared by the tests of the trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def small() -> dict[str, Any]:
    """A configuration that runs in about a second: six clients on LTE, where a send costs 12 J."""
    return {
        "fleet": {"clients": 6, "link": "lte-2012", "link_state": "two-state:8"},
        "budget": {"energy": "100 J", "horizon": "20 min"},
        "training": {"local_steps": 3, "batch_size": 8, "learning_rate": 0.1},
        "update": {"compress": ["topk:0.1", "quantize:8"]},
        "server": {"cohort": 4, "buffer_size": 3},
        "stop": {"target_accuracy_frac": "none"},
    }


@pytest.fixture
def run_bits(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """Train into a fresh folder; what must repeat to the bit: the summary without its wall time, and the events."""
    from budjoule.training.run import train

    count = iter(range(1000))

    def run(config: dict[str, Any], *overrides: Any, **options: Any) -> tuple[dict[str, Any], bytes]:
        folder = options.pop("output", tmp_path / f"run-{next(count)}")
        summary = dict(train(config, overrides=overrides, output=folder, **options).summary)
        del summary["wall_duration_s"]
        return summary, (folder / "events.jsonl").read_bytes()

    return run
