"""What the table of combinations allows runs, and what it refuses says why."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from budjoule.energy.errors import UsageError
from budjoule.training.config.config import load_config
from budjoule.training.server.methods import METHODS

Bits = Callable[..., tuple[dict[str, Any], bytes]]

AGGREGATES = ("mean", "median", "trimmed-mean:0.2", "norm-bound:2")


def document(method: str, aggregate: str, *, private: bool, secure: bool) -> dict[str, Any]:
    """A configuration in which only these four are at odds."""
    return {
        "fleet": {"clients": 4, "straggler_frac": 0.0},
        "budget": {"energy": "none"},
        "training": {"local_steps": 1, "batch_size": 4},
        "update": {"compress": [], "error_feedback": False},
        "schedule": {"policy": "every-block", "slot": "none"},
        "server": {"method": method, "cohort": 4, "buffer_size": 3, "aggregate": aggregate, "staleness": "polynomial"},
        "privacy": {"clip": 1.0, "secure_aggregation": secure} | ({"epsilon": 8.0, "delta": 1e-2} if private else {}),
        "stop": {"rounds": 2, "target_accuracy_frac": "none"},
    }


def allowed(method: str, aggregate: str, *, private: bool, secure: bool) -> bool:
    """The table of `training/server/README.md`, written a second time."""
    return not ((private or secure) and aggregate != "mean") and not (secure and not method.startswith("fedavg"))


ALL = [
    (method, aggregate, private, secure)
    for method, aggregate, private, secure in product(METHODS, AGGREGATES, (False, True), (False, True))
]


@pytest.mark.parametrize(("method", "aggregate", "private", "secure"), ALL)
def test_the_table_is_what_is_refused(method: str, aggregate: str, private: bool, secure: bool) -> None:
    wanted = document(method, aggregate, private=private, secure=secure)
    if allowed(method, aggregate, private=private, secure=secure):
        load_config(wanted)
    else:
        with pytest.raises(UsageError, match=r"server\.(aggregate|method) = '"):
            load_config(wanted)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("privacy.delta=1e-5", "no noise is added"),
        ("privacy.participations=3", "no noise is added"),
        ("server.deadline=9 s", "fedavg-deadline"),
    ],
)
def test_what_would_do_nothing_is_refused(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_config({}, overrides=[override])


@pytest.mark.parametrize(
    ("method", "aggregate", "private", "secure"),
    [
        *((method, "mean", True, False) for method in METHODS),
        ("fedavg-deadline", "mean", True, True),
        ("fedavg", "median", False, False),
        ("fedbuff", "trimmed-mean:0.2", False, False),
        ("budjoule", "norm-bound:2", False, False),
    ],
)
def test_what_is_allowed_runs(run_bits: Bits, method: str, aggregate: str, private: bool, secure: bool) -> None:
    summary, _ = run_bits(document(method, aggregate, private=private, secure=secure))
    assert summary["rounds"] == 2
    assert not summary["rejects"]
