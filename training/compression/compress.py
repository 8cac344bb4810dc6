"""Makes an update small: select entries, quantize them, code their indices and values, each part a row here.

A body says by itself how it was made, so `decode` needs the layout and nothing else. Every part is lossless, unbiased,
or leaves a residual that `ErrorFeedback` keeps for the next update.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budjoule.energy.errors import PayloadError, UsageError
from budjoule.training.compression.codec_index import decode_indices, encode_indices, index_upper_bytes
from budjoule.training.compression.codec_value import (
    VALUE_CODECS,
    ValueCodec,
    decode_values,
    encode_values,
    value_upper_bytes,
)
from budjoule.training.compression.low_rank import factorize, multiply, numbers_sent, without_harm
from budjoule.training.compression.select import Indices, hashed_indices, largest_indices, worthiest_indices
from budjoule.training.compression.update import Layout, Vector, check_length

_HEAD = struct.Struct("<BBI")  # selection, value codec, number of entries sent
_ALL, _LISTED, _SEEDED, _FACTORS = 0, 1, 2, 3
_SEED = struct.Struct("<Q")
_RANK = struct.Struct("<B")

SELECTIONS = {"topk": "0.01", "topk-per-joule": "0.01", "randomk": "0.01", "lowrank": "2"}  # each with an example


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressor:
    """What `update.compress` asks for, parsed: at most one selection and one value codec.

    Args:
        selection: `all` or a row of `SELECTIONS`.
        kept_frac: The share of entries that a selection keeps.
        rank: Columns of a factor, where matrices are sent as products.
        values: How the kept values are stored; a row of `VALUE_CODECS`.
        unbiased: Round at random and scale a random selection by n/k, so that the mean is the update. Off under error
            feedback, which needs the error to be smaller than the update, or residuals would grow without end.
    """

    selection: str = "all"
    kept_frac: float = 1.0
    rank: int = 0
    values: str = "fp32"
    unbiased: bool = True

    @classmethod
    def parse(cls, steps: Sequence[str], *, error_feedback: bool = False) -> "Compressor":
        """Read steps such as `["topk:0.01", "quantize:8"]`; none is dense fp32.

        Args:
            steps: `topk:SHARE`, `topk-per-joule:SHARE`, `randomk:SHARE` or `lowrank:RANK`; `quantize:8|4|2|1.6`, `ternary`,
                `fp16` or `fp16z`, `fp32z` (with zstd).
            error_feedback: The residual is kept, so the error may have a mean but must shrink.

        Raises:
            UsageError: A step is unknown, out of range or given twice.
        """
        selection, kept_frac, rank, values = "all", 1.0, 0, ""
        for step in steps:
            name, _, argument = step.partition(":")
            if name in SELECTIONS:
                if selection != "all":
                    raise UsageError(f"compress selects twice ({selection} and {step}); keep one")
                selection = name
                if name == "lowrank":
                    rank = _rank(step, argument)
                else:
                    kept_frac = _share(step, argument)
                continue
            codec = _CODEC_OF_STEP.get(step)
            if codec is None:
                known = ", ".join([*map(":".join, SELECTIONS.items()), *_CODEC_OF_STEP])
                raise UsageError(f"unknown compress step {step!r}; give some of {known}")
            if values:
                raise UsageError(f"compress stores values twice ({values} and {step}); keep one")
            values = codec
        if selection == "lowrank" and values == "int2" and error_feedback:
            raise UsageError(
                "compress: quantize:2 has no zero, so that lowrank's factors of what did not change would arrive as a change, "
                "and error feedback would owe it back for ever; take quantize:4, or leave error feedback out"
            )
        return cls(
            selection=selection, kept_frac=kept_frac, rank=rank, values=values or "fp32", unbiased=not error_feedback
        )

    @property
    def lossless(self) -> bool:
        """Every entry arrives as it was sent."""
        return self.selection == "all" and self.values in ("fp32", "fp32z")

    @property
    def fixed_size(self) -> bool:
        """Every frame has the same size: nothing in it is coded by how often it occurs, or where."""
        listed = self.selection in ("topk", "topk-per-joule") and self.kept_frac < 1
        return not listed and self.values in ("fp32", "fp16")

    def kept(self, size: int) -> int:
        """The most entries of `size` that are sent; of factors, all arrive."""
        return size if self.selection in ("all", "lowrank") else min(size, max(1, round(self.kept_frac * size)))

    def encode(self, values: Vector, layout: Layout, rng: np.random.Generator) -> bytes:
        """The body of a frame for a delta. Shape (layout.size,).

        Args:
            values: The delta; finite.
            layout: Its layout.
            rng: Source of the random selection and the stochastic rounding.

        Raises:
            PayloadError: The delta has another shape, or holds NaN or infinities.
        """
        values = np.ascontiguousarray(values, np.float32)
        check_length(values, layout)
        if not np.isfinite(values).all():
            raise PayloadError("the update holds NaN or infinite values; lower the learning rate")
        codec = VALUE_CODECS[self.values]
        rounding = rng if self.unbiased else None
        if self.selection == "lowrank":
            return self._encode_factors(values, layout, codec, rounding)
        kept = self.kept(values.size)
        if kept == values.size:
            return _HEAD.pack(_ALL, codec.code, values.size) + encode_values(values, codec, rounding)
        if self.selection == "randomk":
            seed = int(rng.integers(2**63))
            chosen = values[hashed_indices(values.size, kept, seed)]
            if self.unbiased:
                chosen = chosen * np.float32(values.size / max(kept, 1))
            return _HEAD.pack(_SEEDED, codec.code, kept) + _SEED.pack(seed) + encode_values(chosen, codec, rounding)
        indices = self._choose(values, layout, kept, codec)
        head = _HEAD.pack(_LISTED, codec.code, indices.size)
        return head + encode_indices(indices, layout.bounds) + encode_values(values[indices], codec, rounding)

    def _choose(self, values: Vector, layout: Layout, kept: int, codec: ValueCodec) -> Indices:
        if self.selection == "topk":
            return largest_indices(values, kept)
        return worthiest_indices(values, kept, layout.bounds, codec.bits)

    def _encode_factors(
        self, values: Vector, layout: Layout, codec: ValueCodec, rounding: np.random.Generator | None
    ) -> bytes:
        numbers = factorize(values, layout, self.rank)
        coded = encode_values(numbers, codec, rounding)
        while not self.unbiased:
            arrived = multiply(decode_values(memoryview(coded), numbers.size, codec), layout, self.rank)
            if not without_harm(numbers, arrived, values, layout, self.rank):
                break
            coded = encode_values(numbers, codec, rounding)
        return _HEAD.pack(_FACTORS, codec.code, numbers.size) + _RANK.pack(self.rank) + coded

    def size_upper_bytes(self, layout: Layout) -> int:
        """The largest body this compressor can make: what a reservation for sending is based on. [B]"""
        codec = VALUE_CODECS[self.values]
        if self.selection == "lowrank":
            return _HEAD.size + _RANK.size + value_upper_bytes(numbers_sent(layout, self.rank), codec)
        kept = self.kept(layout.size)
        body = _HEAD.size + value_upper_bytes(kept, codec)
        if self.selection == "randomk":
            return body + _SEED.size
        return body + (0 if self.selection == "all" else index_upper_bytes(layout.size, kept))


def decode(body: bytes, layout: Layout) -> Vector:
    """The delta that a body holds; allocates a few times the layout's size at most, whatever the bytes say.

    Raises:
        PayloadError: The body is no valid body for this layout.
    """
    view = memoryview(body)
    if len(view) < _HEAD.size:
        raise PayloadError(f"the body ends after {len(view)} bytes, inside its head; it was cut short")
    selection, code, kept = _HEAD.unpack_from(view)
    if kept > layout.size:
        raise PayloadError(f"the body claims {kept} entries, the layout has {layout.size}")
    codec = _CODEC_OF_CODE.get(code)
    if codec is None:
        raise PayloadError(f"unknown value codec {code}; both sides need the same version")
    view = view[_HEAD.size :]
    if selection == _ALL:
        if kept != layout.size:
            raise PayloadError(f"the body holds {kept} entries, the layout needs {layout.size}")
        return decode_values(view, kept, codec)
    if selection == _FACTORS:
        return _decode_factors(view, kept, codec, layout)
    if selection == _LISTED:
        indices, view = decode_indices(view, layout.bounds, kept)
    elif selection == _SEEDED:
        if len(view) < _SEED.size:
            raise PayloadError("the body ends inside the seed of its selection; it was cut short")
        indices = hashed_indices(layout.size, kept, _SEED.unpack_from(view)[0])
        view = view[_SEED.size :]
    else:
        raise PayloadError(f"unknown selection {selection}; both sides need the same version")
    values = np.zeros(layout.size, np.float32)
    values[indices] = decode_values(view, kept, codec)
    return values


def _decode_factors(view: memoryview, count: int, codec: ValueCodec, layout: Layout) -> Vector:
    if not len(view):
        raise PayloadError("the body ends before its rank; it was cut short")
    (rank,) = _RANK.unpack_from(view)
    if rank == 0 or count != numbers_sent(layout, rank):
        raise PayloadError(f"the body holds {count} numbers, which are no factors of rank {rank} of the layout")
    return multiply(decode_values(view[_RANK.size :], count, codec), layout, rank)


def _share(step: str, argument: str) -> float:
    try:
        share = float(argument)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise UsageError(f"compress step {step!r} needs a share above 0 and up to 1, as in 'topk:0.01'")
    return share


def _rank(step: str, argument: str) -> int:
    if not argument.isdecimal() or not 1 <= int(argument) <= 255:
        raise UsageError(f"compress step {step!r} needs a whole rank from 1 to 255, as in 'lowrank:2'")
    return int(argument)


_CODEC_OF_STEP = {
    "quantize:8": "int8",
    "quantize:4": "int4",
    "quantize:2": "int2",
    "quantize:1.6": "ternary",
    "ternary": "ternary",
    "fp16": "fp16",
    "fp16z": "fp16z",
    "fp32": "fp32",
    "fp32z": "fp32z",
}
_CODEC_OF_CODE: dict[int, ValueCodec] = {codec.code: codec for codec in VALUE_CODECS.values()}
