"""Folds the rows of `by_module` into a tree: sums up the dotted path, repeated blocks as one branch.

Every branch's children add up to it, so no joule is lost or counted twice however far the tree is shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

OWN = "(its own ops)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A module, or several equal ones, with everything below.

    Args:
        label: Name relative to the parent, such as `layer.0..23`.
        repeats: How many equal blocks it stands for.
        energy_j: Energy of the module and all below. [J]
        duration_s: Time of the same. [s]
        children: The parts it adds up from, largest energy first; empty for a leaf.
    """

    label: str
    repeats: int = 1
    energy_j: float
    duration_s: float
    calls: int
    flop: int
    moved_bytes: int
    children: tuple["Branch", ...] = ()


def module_tree(rows: Iterable[Mapping[str, Any]], label: str) -> Branch:
    """Aggregate module rows up their dotted paths, and fold repeated blocks.

    Args:
        rows: Rows `{name, calls, energy_j, duration_s, flop, moved_bytes}`; the empty name is the model itself.
        label: Name of the root.
    """
    nested: dict[str, Any] = {}
    for row in rows:
        node = nested
        for part in filter(None, row["name"].split(".")):
            node = node.setdefault(part, {})
        node.setdefault("", []).append(row)  # a path part is never empty, so this key is free for a module's own rows
    return _branch(label, nested)


def folded(branch: Branch, *, min_frac: float, depth: int) -> Branch:
    """Keep what matters for a reader: `depth` levels, and children of at least `min_frac` of the root's energy.

    What is cut is summed into one child, so that children still add up to their parent.
    """
    return _fold(branch, floor_j=min_frac * branch.energy_j, depth=depth)


def _fold(branch: Branch, *, floor_j: float, depth: int) -> Branch:
    if depth == 0:
        return replace(branch, children=())
    large = [child for child in branch.children if child.energy_j >= floor_j]
    small = [child for child in branch.children if child.energy_j < floor_j]
    if len(small) > 1:
        large.append(_sum(f"({len(small)} smaller)", small))
    else:
        large += small
    if large and all(child.label.startswith("(") for child in large):  # nothing below is worth a line of its own
        return replace(branch, children=())
    return replace(branch, children=tuple(_fold(child, floor_j=floor_j, depth=depth - 1) for child in large))


def _branch(label: str, node: Mapping[str, Any]) -> Branch:
    own = [_leaf(row) for row in node.get("", [])]
    children = [_branch(name, child) for name, child in node.items() if name]
    if not own and len(children) == 1:  # `encoder` that only holds `layer`: one line, `encoder.layer`
        only = children[0]
        return replace(only, label=f"{label}.{only.label}" if label else only.label)
    if not children:
        return _sum(label, own, keep=False)
    parts = _repeats_merged(children)
    if own:
        parts.append(_sum(OWN, own, keep=False))
    if len(parts) == 1:
        return replace(parts[0], label=f"{label}.{parts[0].label}" if label else parts[0].label)
    return _sum(label, parts)


def _leaf(row: Mapping[str, Any]) -> Branch:
    keys = ("energy_j", "duration_s", "calls", "flop", "moved_bytes")
    return Branch(label="", **{key: row[key] for key in keys})


def _sum(label: str, parts: Sequence[Branch], *, keep: bool = True, repeats: int = 1) -> Branch:
    return Branch(
        label=label,
        repeats=repeats,
        energy_j=sum(part.energy_j for part in parts),
        duration_s=sum(part.duration_s for part in parts),
        calls=sum(part.calls for part in parts),
        flop=sum(part.flop for part in parts),
        moved_bytes=sum(part.moved_bytes for part in parts),
        children=tuple(sorted(parts, key=lambda part: -part.energy_j)) if keep else (),
    )


def _repeats_merged(children: Sequence[Branch]) -> list[Branch]:
    """Join runs of numbered siblings of one shape: `0`, `1`, ... `23` become `0..23`."""
    numbered = sorted(
        (child for child in children if _number(child) is not None), key=lambda child: _number(child) or 0
    )
    merged = [child for child in children if _number(child) is None]
    run: list[Branch] = []
    for child in numbered:
        if run and (
            _shape(child, _tail(child)) != _shape(run[-1], _tail(run[-1]))
            or _number(child) != (_number(run[-1]) or 0) + 1
        ):
            merged.append(_overlaid(run))
            run = []
        run.append(child)
    return [*merged, _overlaid(run)] if run else merged


def _number(branch: Branch) -> int | None:
    head = branch.label.partition(".")[0]
    return int(head) if head.isascii() and head.isdigit() else None


def _shape(branch: Branch, name: str) -> tuple[Any, ...]:
    if not branch.children:  # leaves are equal when they do the same work, not when both merely have no children
        return (name, branch.calls, branch.flop, branch.moved_bytes)
    return (
        name,
        branch.repeats,
        *sorted(_shape(child, child.label) for child in branch.children if child.label != OWN),
    )


def _tail(branch: Branch) -> str:
    return branch.label.partition(".")[2]


def _overlaid(run: Sequence[Branch]) -> Branch:
    if len(run) == 1:
        return run[0]
    first, last = run[0], run[-1]
    _, dot, tail = first.label.partition(".")
    label = f"{_number(first)}..{_number(last)}{dot}{tail}"
    by_label: dict[str, list[Branch]] = {}
    for block in run:
        for child in block.children:
            by_label.setdefault(child.label, []).append(child)
    parts = [_layered(group) for group in by_label.values()]
    whole = _sum(label, run, keep=False, repeats=len(run) * first.repeats)
    return replace(whole, children=tuple(sorted(parts, key=lambda part: -part.energy_j)))


def _layered(group: Sequence[Branch]) -> Branch:
    """The same part of several blocks as one, its children likewise."""
    by_label: dict[str, list[Branch]] = {}
    for part in group:
        for child in part.children:
            by_label.setdefault(child.label, []).append(child)
    whole = _sum(group[0].label, group, keep=False, repeats=group[0].repeats)
    children = sorted((_layered(parts) for parts in by_label.values()), key=lambda part: -part.energy_j)
    return replace(whole, children=tuple(children))
