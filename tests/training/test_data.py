"""Data sets: deterministic by seed, read from disk or a callable, and refused in one line where they cannot be learnt from."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from budjoule.energy.errors import UsageError
from budjoule.training.task.data import load_data


def test_digits_split_is_disjoint_and_decided_by_the_seed() -> None:
    one, again, other = load_data("digits", 0), load_data("digits", 0), load_data("digits", 1)
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.test_inputs, other.test_inputs)
    assert len(one.inputs) + len(one.test_inputs) == 1797
    together = torch.cat([one.inputs, one.test_inputs]).flatten(1).sort(0).values
    assert torch.equal(together, torch.cat([other.inputs, other.test_inputs]).flatten(1).sort(0).values)


def write_idx(path: Path, array: np.ndarray, *, cut: int = 0) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    raw = head + array.astype(np.uint8).tobytes()
    raw = raw[: len(raw) - cut]
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 10)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, count))
    return folder


def test_digits_are_scikit_learns_own_whatever_their_order() -> None:
    images, labels = load_digits(return_X_y=True)
    data = load_data("digits", 0)
    found = torch.cat([data.inputs, data.test_inputs]).flatten(1) * 16
    classes = torch.cat([data.labels, data.test_labels])
    ours = torch.cat([found, classes[:, None]], dim=1).long().tolist()
    assert sorted(ours) == sorted(np.column_stack([images, labels]).astype(int).tolist())


def test_fashion_mnist_is_found_by_environment_or_path(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDJOULE_DATA", str(fashion.parent))
    found, named = load_data("fashion-mnist", 0), load_data(f"fashion-mnist:{fashion}", 0)
    assert found.inputs.shape == (30, 1, 28, 28)
    assert found.test_labels.shape == (10,)
    assert torch.equal(found.inputs, named.inputs)
    assert 0 <= float(found.inputs.min()) < float(found.inputs.max()) <= 1


def test_absent_fashion_mnist_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDJOULE_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"dataset-fashion-mnist.*BUDJOULE_DATA"):
        load_data("fashion-mnist", 0)


def test_a_cut_file_is_refused(fashion: Path) -> None:
    write_idx(fashion / "t10k-labels-idx1-ubyte", np.zeros(10), cut=3)
    with pytest.raises(UsageError, match="no whole IDX file"):
        load_data(f"fashion-mnist:{fashion}", 0)


def test_a_damaged_archive_is_refused(fashion: Path) -> None:
    whole = gzip.compress((fashion / "train-labels-idx1-ubyte").read_bytes())
    (fashion / "train-labels-idx1-ubyte.gz").write_bytes(whole[:12] + b"\xff" * 8 + whole[20:])
    with pytest.raises(UsageError, match="copy it again"):
        load_data(f"fashion-mnist:{fashion}", 0)


SOURCE = """
import torch
from torch.utils.data import TensorDataset

class Pairs:
    def __len__(self): return 6
    def __getitem__(self, i):
        if i >= 6: raise IndexError
        return torch.full((2,), float(i)), i % 3

def tensors(seed):
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(8, 2, generator=g), torch.arange(8) % 4), TensorDataset(torch.rand(4, 2), torch.arange(4))

def pairs(seed): return Pairs(), Pairs(), ["a", "a", "b", "b", "c", "c"]
def regression(seed): return TensorDataset(torch.rand(4, 2), torch.rand(4)), Pairs()
def empty(seed): return TensorDataset(torch.rand(0, 2), torch.zeros(0, dtype=torch.long)), Pairs()
def ragged(seed): return [(torch.rand(2), 0), (torch.rand(3), 1)], Pairs()
def wrong_owners(seed): return Pairs(), Pairs(), [0]
def nothing(seed): return 3
def other_shape(seed): return Pairs(), TensorDataset(torch.rand(4, 5), torch.arange(4))
def fails(seed): return [1][seed + 7]
def takes_nothing(): return Pairs(), Pairs()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    return path


def test_callables_give_tensors_and_owners(source: Path) -> None:
    data = load_data(f"{source}:tensors", 3)
    assert (data.classes, data.owners, len(data.inputs)) == (4, None, 8)
    assert torch.equal(data.inputs, load_data(f"{source}:tensors", 3).inputs)
    pairs = load_data(f"{source}:pairs", 0)
    assert pairs.classes == 3
    assert pairs.owners is not None
    assert pairs.owners.tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs.inputs.shape == (6, 2)


@pytest.mark.parametrize(
    "name",
    ["regression", "empty", "ragged", "wrong_owners", "nothing", "absent", "other_shape", "fails", "takes_nothing"],
)
def test_data_that_cannot_be_learnt_from_are_refused(source: Path, name: str) -> None:
    with pytest.raises(UsageError) as error:
        load_data(f"{source}:{name}", 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["digit", "nope.module:f", "no_file.py:f", ":f", "json:", "json:1x"])
def test_unknown_data_are_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        load_data(spec, 0)
