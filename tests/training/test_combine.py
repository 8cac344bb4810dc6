"""How updates become one: equal updates give themselves, and a bad minority pulls the robust rows nowhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import UsageError
from budjoule.training.server.combine import parse_aggregate

SPECS = ["mean", "median", "trimmed-mean", "trimmed-mean:0.3", "norm-bound", "norm-bound:1"]


def updates(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(1, 0.1, 20).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), value=st.floats(-1e6, 1e6, width=32))
def test_equal_updates_give_themselves(spec: str, count: int, value: float) -> None:
    same = [np.full(3, value, np.float32)] * count
    assert parse_aggregate(spec)(same, np.ones(count)) == pytest.approx(same[0], rel=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_order_does_not_matter(spec: str) -> None:
    some, shares = updates(7), np.linspace(1, 2, 7)
    backwards = parse_aggregate(spec)(some[::-1], shares[::-1])
    assert parse_aggregate(spec)(some, shares) == pytest.approx(backwards, rel=1e-5)


@pytest.mark.parametrize("spec", SPECS[1:])
def test_a_bad_minority_pulls_the_robust_rows_nowhere_near_the_mean(spec: str) -> None:
    good, bad = updates(8), [np.full(20, -1e6, np.float32)] * 2
    shares = np.ones(10)
    combine = parse_aggregate("trimmed-mean:0.2" if spec == "trimmed-mean" else spec)
    assert np.abs(combine([*good, *bad], shares) - 1).max() < 1
    assert np.abs(parse_aggregate("mean")([*good, *bad], shares) - 1).max() > 1e5


def test_a_norm_bound_leaves_ordinary_updates_alone() -> None:
    some, shares = updates(5), np.ones(5)
    assert np.array_equal(parse_aggregate("norm-bound:2")(some, shares), parse_aggregate("mean")(some, shares))


@pytest.mark.parametrize(
    "spec", ["krum", "median:2", "mean:1", "trimmed-mean:0.5", "trimmed-mean:x", "norm-bound:0", "norm-bound:inf"]
)
def test_unknown_rows_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=r"server\.aggregate"):
        parse_aggregate(spec)
