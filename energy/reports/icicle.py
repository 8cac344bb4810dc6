"""An icicle of a module tree: every branch a box as wide as its energy, its children below it."""

from collections.abc import Iterator
from dataclasses import dataclass

from budjoule.energy.reports.tree import Branch
from budjoule.energy.reports.words import percent
from budjoule.energy.units import show


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A branch's place: its level from the top, its left edge and width in percent of the whole."""

    label: str
    title: str
    level: int
    left_percent: float
    width_percent: float


def boxes(root: Branch, *, min_frac: float = 0.002) -> list[Box]:
    """The boxes of a tree, the root's first; branches under `min_frac` of the whole are left to empty space."""
    return list(_boxes(root, root.energy_j, level=0, left=0.0, min_frac=min_frac)) if root.energy_j else []


def _boxes(branch: Branch, whole_j: float, *, level: int, left: float, min_frac: float) -> Iterator[Box]:
    share_frac = branch.energy_j / whole_j
    if share_frac < min_frac:
        return
    blocks = f", {branch.repeats} blocks" if branch.repeats > 1 else ""
    title = (
        f"{branch.label}{blocks}: {show(branch.energy_j, 'J')}, {percent(share_frac)}, {show(branch.duration_s, 's')}"
    )
    yield Box(label=branch.label, title=title, level=level, left_percent=100 * left, width_percent=100 * share_frac)
    for child in branch.children:
        yield from _boxes(child, whole_j, level=level + 1, left=left, min_frac=min_frac)
        left += child.energy_j / whole_j
