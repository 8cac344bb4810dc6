"""A powercap tree of files, a clock that a test moves, and meters whose readings a test writes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from budjoule.energy.meters.meter import Domain

RANGE_UJ = 262_143_328_850


class Tree:
    """Powercap zones under a temporary sysfs root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, identity: str, name: str, energy_uj: int, *, range_uj: int = RANGE_UJ, nested: bool = False) -> Path:
        """Add a zone; flat under `class/powercap` as Linux links them, or nested as the devices lie."""
        folder = self.root / "class" / "powercap"
        if nested:
            tree, *numbers = identity.split(":")
            folder = folder.joinpath(tree, *[":".join([tree, *numbers[: i + 1]]) for i in range(len(numbers) - 1)])
        folder = folder / identity
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        return folder

    def set(self, identity: str, energy_uj: int) -> None:
        """Move a flat zone's counter."""
        (self.root / "class" / "powercap" / identity / "energy_uj").write_text(f"{energy_uj}\n")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class HandMeter:
    """A meter whose readings are set by hand."""

    name, source, method, notes = "hand", "measured", "readings set by a test", ()

    def __init__(self, domains: Sequence[Domain], readings: Sequence[float | None]) -> None:
        self.domains = tuple(domains)
        self.readings: list[float | None] = list(readings)
        self.closed = 0

    def read(self) -> list[float | None]:
        return list(self.readings)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    monkeypatch.setenv("BUDJOULE_SYSFS_ROOT", str(tmp_path))
    for library in ("pynvml", "amdsmi", "zeus_apple_silicon"):  # none answers, whatever this machine has
        monkeypatch.setitem(sys.modules, library, None)
    return Tree(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hand_meter() -> Callable[[Sequence[Domain], Sequence[float | None]], HandMeter]:
    return HandMeter
