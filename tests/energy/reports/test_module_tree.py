"""The module tree adds up, folds repeats and loses nothing."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.reports.tree import OWN, Branch, folded, module_tree

NAMES = st.lists(st.sampled_from(["a", "b", "0", "1", "2", "10", "dense"]), max_size=4).map(".".join)


def row(name: str, energy_j: float = 1.0, flop: int = 10) -> dict[str, object]:
    return {"name": name, "calls": 1, "energy_j": energy_j, "duration_s": energy_j / 2, "flop": flop, "moved_bytes": 4}


def branches(root: Branch) -> list[Branch]:
    return [root, *(below for child in root.children for below in branches(child))]


ROWS = st.dictionaries(NAMES, st.tuples(st.integers(0, 1000), st.integers(0, 2)), max_size=20).map(
    lambda costs: [row(name, energy_j, flop) for name, (energy_j, flop) in costs.items()]
)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.floats(0, 0.5), st.integers(0, 5))
def test_children_add_up_to_their_parent(rows: list[dict[str, float]], min_frac: float, depth: int) -> None:
    root = module_tree(rows, "model")
    assert math.isclose(root.energy_j, sum(r["energy_j"] for r in rows))
    assert root.calls == len(rows)
    for tree in (root, folded(root, min_frac=min_frac, depth=depth)):
        for branch in branches(tree):
            if branch.children:
                assert math.isclose(branch.energy_j, sum(child.energy_j for child in branch.children))
                assert math.isclose(branch.duration_s, sum(child.duration_s for child in branch.children))
                assert branch.flop == sum(child.flop for child in branch.children)
                assert branch.moved_bytes == sum(child.moved_bytes for child in branch.children)


def test_repeated_blocks_become_one_branch() -> None:
    rows = [row(f"encoder.layer.{i}.{part}") for i in range(24) for part in ("attention", "mlp")] + [row("pooler")]
    root = module_tree(rows, "Bert")
    blocks = root.children[0]
    assert (blocks.label, blocks.repeats, blocks.energy_j) == ("encoder.layer.0..23", 24, 48.0)
    assert {child.label: child.energy_j for child in blocks.children} == {"attention": 24.0, "mlp": 24.0}


def test_blocks_of_another_shape_stay_apart() -> None:
    rows = [row(f"layer.{i}.conv") for i in range(3)] + [row(f"layer.{i}.norm") for i in range(3)]
    rows.append(row("layer.0.downsample"))
    layers = {child.label for child in module_tree(rows, "ResNet").children}
    assert layers == {"0", "1..2"}


def test_numbered_leaves_join_only_when_they_do_the_same_work() -> None:
    rows = [row("0", flop=5), row("1", flop=5), row("2", flop=7), row("9", flop=7)]
    assert {child.label for child in module_tree(rows, "Sequential").children} == {"0..1", "2", "9"}


def test_own_ops_of_a_module_are_a_child() -> None:
    root = module_tree([row("block", 3.0), row("block.dense", 1.0), row("head", 1.0)], "model")
    block = root.children[0]
    assert {child.label: child.energy_j for child in block.children} == {OWN: 3.0, "dense": 1.0}
