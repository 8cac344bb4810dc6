"""The `Update` noun: what a client learnt, as one flat float32 vector over the trained subset's `Layout`."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import PayloadError, UsageError

Vector = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The trained subset w* in order: names and shapes, and so every entry's place in the flat vector.

    Args:
        names: Parameter names, in the order of the flat vector.
        shapes: Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(self.names):
            raise UsageError(
                f"a layout needs one shape a name and no name twice, got {len(self.names)} names and {len(self.shapes)} shapes"
            )
        if any(length < 0 for shape in self.shapes for length in shape):
            raise UsageError("a layout's shapes must not be negative")

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "Layout":
        """The layout of named arrays, in the mapping's order."""
        return cls(names=tuple(arrays), shapes=tuple(tuple(int(n) for n in array.shape) for array in arrays.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each layer."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """Where each layer starts, and behind the last where the vector ends."""
        bounds = [0]
        for size in self.sizes:
            bounds.append(bounds[-1] + size)
        return tuple(bounds)

    @property
    def size(self) -> int:
        """Number of entries of the flat vector."""
        return self.bounds[-1]

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that two layouts share exactly if names, shapes, order and type are the same."""
        digest = hashlib.blake2b(b"budjoule.layout/1 float32", digest_size=16)
        for name, shape in zip(self.names, self.shapes, strict=True):
            encoded = name.encode()
            digest.update(len(encoded).to_bytes(4, "little") + encoded)
            digest.update(len(shape).to_bytes(1, "little") + b"".join(length.to_bytes(8, "little") for length in shape))
        return digest.digest()

    def flatten(self, arrays: Mapping[str, NDArray[np.float32]]) -> Vector:
        """Named arrays as one flat vector. Shape (size,).

        Raises:
            UsageError: A name is missing or has another shape.
        """
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in arrays or tuple(arrays[name].shape) != shape:
                found = tuple(arrays[name].shape) if name in arrays else "nothing"
                raise UsageError(f"the layout wants {name} of shape {shape}, got {found}")
        if not self.names:
            return np.zeros(0, np.float32)
        return np.concatenate([np.ravel(arrays[name]) for name in self.names]).astype(np.float32, copy=False)

    def unflatten(self, values: Vector) -> dict[str, Vector]:
        """The flat vector's layers by name, as views of it."""
        check_length(values, self)
        starts = self.bounds
        return {
            name: values[starts[i] : starts[i + 1]].reshape(shape)
            for i, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True))
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A client's delta against a base version of the model.

    Args:
        client: Number of the client.
        base_version: Version of the model that it trained from.
        examples: Number of examples it trained on.
        values: Delta of w*, flat. Shape (layout.size,).
    """

    client: int
    base_version: int
    examples: int
    values: Vector


def check_length(values: Vector, layout: Layout) -> None:
    """Refuse a vector that is not this layout's.

    Raises:
        PayloadError: It has another shape.
    """
    if values.shape != (layout.size,):
        raise PayloadError(
            f"the update has shape {values.shape}, the layout needs ({layout.size},); train and send the same layers"
        )


def layout_of(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> Layout:
    """A layout from `(name, shape)` pairs.

    >>> layout_of([("weight", (2, 3)), ("bias", (2,))]).size
    8
    """
    return Layout(names=tuple(name for name, _ in shapes), shapes=tuple(shape for _, shape in shapes))
