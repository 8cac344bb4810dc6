"""Data sets as tensors: training and test examples with class labels, and, where known, who owns which example.

Every source is deterministic by seed. Built in are scikit-learn's digits and Fashion-MNIST (read from disk, never
fetched); anything else comes from a callable `(seed) -> (train, test, owners or None)`.
"""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import UsageError
from budjoule.energy.tracing.named import is_named, load_callable

if TYPE_CHECKING:
    from torch import Tensor

Labels = NDArray[np.int64]

FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts it
_TEST_FRAC = 0.2  # of digits, which comes in one piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Examples to learn from and to test on.

    Args:
        name: Name of the source.
        inputs: Training inputs. Shape (n, ...).
        labels: Their classes. Shape (n,).
        test_inputs: Test inputs. Shape (m, ...).
        test_labels: Their classes. Shape (m,).
        owners: Owner of each training example, where the source knows. Shape (n,).
        classes: Number of classes.
    """

    name: str
    inputs: "Tensor"
    labels: "Tensor"
    test_inputs: "Tensor"
    test_labels: "Tensor"
    owners: Labels | None
    classes: int


def load_data(spec: str, seed: int) -> Data:
    """Load a data set by name.

    Args:
        spec: A row of `DATA`, `fashion-mnist:FOLDER`, `package.module:callable` or `file.py:callable`.
        seed: Decides the split of data that come in one piece.

    Raises:
        UsageError: The data are unknown, absent or of a shape that cannot be learnt from.
    """
    name, _, folder = spec.partition(":")
    if spec in DATA:
        return DATA[spec](seed)
    if name == "fashion-mnist":
        return _fashion_mnist(Path(folder))
    if is_named(spec):
        return _from_callable(spec, seed)
    raise UsageError(f"unknown data {spec!r}; give {', '.join(DATA)}, package.module:callable or file.py:callable")


def _digits(seed: int) -> Data:
    import torch

    # scikit-learn's file, read without loading the library: that takes longer than training on it often does
    table = np.loadtxt(
        str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")), delimiter=","
    )
    images, labels = table[:, :-1], table[:, -1]
    order = np.random.default_rng([seed, 0xD161]).permutation(len(labels))
    tests = int(_TEST_FRAC * len(labels))
    inputs = torch.from_numpy((images[order] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8))
    classes = torch.from_numpy(labels[order].astype(np.int64))
    return Data(
        name="digits",
        inputs=inputs[tests:].contiguous(),
        labels=classes[tests:].contiguous(),
        test_inputs=inputs[:tests].contiguous(),
        test_labels=classes[:tests].contiguous(),
        owners=None,
        classes=10,
    )


def _fashion_mnist_found(_seed: int) -> Data:
    root = os.environ.get("BUDJOULE_DATA")
    return _fashion_mnist(Path(root) / "fashion-mnist" if root else Path(FASHION_FOLDER))


def _fashion_mnist(folder: Path) -> Data:
    import torch

    parts = {}
    for part in ("train", "t10k"):
        images = _read_idx(folder, f"{part}-images-idx3-ubyte").astype(np.float32) / 255.0
        labels = _read_idx(folder, f"{part}-labels-idx1-ubyte").astype(np.int64)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UsageError(f"{folder} holds {images.shape} images and {labels.shape} labels; is it Fashion-MNIST?")
        parts[part] = torch.from_numpy(images[:, None]), torch.from_numpy(labels)
    (inputs, labels_), (test_inputs, test_labels) = parts["train"], parts["t10k"]
    return Data(
        name="fashion-mnist",
        inputs=inputs,
        labels=labels_,
        test_inputs=test_inputs,
        test_labels=test_labels,
        owners=None,
        classes=10,
    )


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, plain or gzipped. Source: http://yann.lecun.com/exdb/mnist (format of MNIST's files)."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            try:
                raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                zero, kind, rank = struct.unpack_from(">HBB", raw)
                shape = struct.unpack_from(f">{rank}I", raw, 4)
                if zero or kind != 8 or len(raw) != 4 + 4 * rank + int(np.prod(shape)):
                    raise UsageError(f"{path} is no whole IDX file of bytes; copy it again")
                return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
            except (OSError, EOFError, struct.error, zlib.error) as error:
                raise UsageError(f"cannot read {path}: {error}; copy it again") from None
    raise UsageError(
        f"Fashion-MNIST is not in {folder} ({name}.gz is missing); install Debian's dataset-fashion-mnist, "
        "or set BUDJOULE_DATA to the folder that holds fashion-mnist/, or write fashion-mnist:FOLDER"
    )


def _from_callable(spec: str, seed: int) -> Data:
    load = load_callable(spec, "data")
    try:
        made = load(seed)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"data {spec!r} failed for seed {seed}: {type(error).__name__}: {error}") from error
    if not isinstance(made, (tuple, list)) or len(made) not in (2, 3):
        raise UsageError(f"data {spec!r} gave {type(made).__name__}; return (train, test) or (train, test, owners)")
    inputs, labels = _tensors(made[0], spec)
    test_inputs, test_labels = _tensors(made[1], spec)
    if inputs.shape[1:] != test_inputs.shape[1:]:
        raise UsageError(
            f"data {spec!r} gave inputs of shape {tuple(inputs.shape[1:])} to train on and {tuple(test_inputs.shape[1:])} to "
            "test on; give both one shape"
        )
    owners = None
    if len(made) == 3 and made[2] is not None:
        _, owners = np.unique(np.asarray(made[2]), return_inverse=True)
        if owners.shape != (len(labels),):
            raise UsageError(f"data {spec!r} gave {owners.size} owners for {len(labels)} examples; give one an example")
    classes = int(max(labels.max(), test_labels.max())) + 1
    return Data(
        name=spec,
        inputs=inputs,
        labels=labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        owners=owners,
        classes=classes,
    )


def _tensors(dataset: Any, spec: str) -> "tuple[Tensor, Tensor]":
    """A map-style data set of `(input, label)` pairs as two tensors."""
    import torch

    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) == 2:
        inputs, labels = tensors
    else:
        try:
            pairs = [dataset[index] for index in range(len(dataset))]
            inputs = torch.stack([torch.as_tensor(pair[0]) for pair in pairs])
            labels = torch.stack([torch.as_tensor(pair[1]) for pair in pairs])
        except (TypeError, IndexError, KeyError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"data {spec!r} is no map-style data set of equal-sized (input, label) pairs: {error}"
            ) from None
    if len(labels) == 0 or len(inputs) != len(labels):
        raise UsageError(
            f"data {spec!r} has {len(inputs)} inputs and {len(labels)} labels; give one label an input, and some of each"
        )
    if labels.dtype.is_floating_point or labels.ndim != 1 or int(labels.min()) < 0:
        raise UsageError(
            f"data {spec!r} has labels of type {labels.dtype} and shape {tuple(labels.shape)}; give one class number an input"
        )
    return inputs, labels.long()


DATA: dict[str, Callable[[int], Data]] = {"digits": _digits, "fashion-mnist": _fashion_mnist_found}
