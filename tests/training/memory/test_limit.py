"""A memory limit is a size, a share, or none; anything else is refused with an example."""

import pytest

from budjoule.energy.errors import UsageError
from budjoule.training.memory.limit import memory_limit


def test_sizes_shares_and_none() -> None:
    assert memory_limit("64 kB").bytes_of(1e9) == 64_000
    assert memory_limit(64_000).bytes_of(1e9) == 64_000
    assert memory_limit("12.5 %").bytes_of(800) == 100
    assert memory_limit("none").bytes_of(800) == float("inf")


@pytest.mark.parametrize("value", ["0 %", "101 %", "x %", "0 B", "-3 kB", True, [], "much"])
def test_others_are_refused(value: object) -> None:
    with pytest.raises(UsageError):
        memory_limit(value)
