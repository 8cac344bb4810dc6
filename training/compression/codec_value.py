"""Stores values in fewer bits: block scales, stochastic rounding to a few levels, then zstd where it makes them smaller.

Stochastic rounding clips nothing, so the integer codecs are unbiased: the mean of decode(encode(x)) is x. Where the
caller keeps the residual, rounding to the nearest level is better, and shrinks what is left.

Source: Alistarh et al., QSGD, NeurIPS 2017, arXiv 1610.02132; Wen et al., TernGrad, NeurIPS 2017, arXiv 1705.07878.
"""

from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.update import Vector

BLOCK = 512  # values that share a scale: 0.03 bits a value
_SCALE_BYTES = 2
_PLAIN, _PACKED, _SPREAD = 0, 1, 2  # packed as it is; packed, then zstd; one byte a value, then zstd
_LEAST_WINDOW_BYTES = 1024
_MAGICLESS = zstandard.FORMAT_ZSTD1_MAGICLESS


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCodec:
    """How values are stored.

    Args:
        code: Its number in a body.
        levels: Levels from -1 to 1 times the block's scale; 0 for floating point.
        per_byte: Values packed into a byte.
        narrow_by: The scale as a multiple of the block's mean magnitude where values are rounded to the nearest of few
            levels; None keeps the largest magnitude.
        float_bytes: Size of a floating-point value. [B]
        zstd: Compress floating-point values by byte planes.
    """

    code: int
    levels: int = 0
    per_byte: int = 1
    narrow_by: float | None = None
    float_bytes: int = 0
    zstd: bool = False

    @property
    def bits(self) -> float:
        """Bits of a value before zstd."""
        return 8.0 * (self.float_bytes or 1 / self.per_byte)


VALUE_CODECS = {
    "fp32": ValueCodec(code=0, float_bytes=4),
    "fp16": ValueCodec(code=1, float_bytes=2),
    "int8": ValueCodec(code=2, levels=255),
    "int4": ValueCodec(code=3, levels=15, per_byte=2),
    "int2": ValueCodec(code=4, levels=4, per_byte=4, narrow_by=1.5),
    "ternary": ValueCodec(code=5, levels=3, per_byte=5, narrow_by=1.0),
    "fp32z": ValueCodec(code=6, float_bytes=4, zstd=True),
    "fp16z": ValueCodec(code=7, float_bytes=2, zstd=True),
}


def encode_values(values: Vector, codec: ValueCodec, rng: np.random.Generator | None) -> bytes:
    """Finite values as bytes. Shape (k,).

    Args:
        values: What to store.
        codec: How.
        rng: Rounds up or down at random, so that the mean is right. None rounds to the nearest level, for callers who
            keep the residual: that error is smaller, and never larger than the values, or residuals would grow.
    """
    if codec.float_bytes:
        return _encode_float(values, codec)
    scales, spread = _scales_up(values, codec.narrow_by if rng is None else None)
    half = np.float32((codec.levels - 1) / 2)
    # Computed as a share of the scale first: dividing the level count by a tiny scale would overflow.
    share = np.divide(values, spread, where=spread > 0, out=np.zeros_like(values))
    shift = np.float32(0.5) if rng is None else rng.random(values.size, np.float32)
    symbols = np.clip(np.floor((np.clip(share, -1, 1) + 1) * half + shift), 0, codec.levels - 1).astype(np.uint8)
    return scales.tobytes() + _encode_symbols(symbols, codec)


def decode_values(data: memoryview, count: int, codec: ValueCodec) -> Vector:
    """The values of exactly these bytes; allocates for `count` values, whatever the bytes say.

    Raises:
        PayloadError: The bytes are cut short, too long, corrupt, or hold NaN or infinite values.
    """
    if codec.float_bytes:
        return _decode_float(data, count, codec)
    blocks = (count + BLOCK - 1) // BLOCK
    if len(data) < _SCALE_BYTES * blocks:
        raise PayloadError("the body ends inside its scales; it was cut short")
    scales = _scales_from(np.frombuffer(data[: _SCALE_BYTES * blocks], "<u2"))
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise PayloadError("a scale is negative, NaN or infinite; the body is corrupt")
    symbols = _decode_symbols(data[_SCALE_BYTES * blocks :], count, codec)
    step = (scales / np.float32((codec.levels - 1) / 2)).astype(np.float32)
    centred = symbols.astype(np.float32) - np.float32((codec.levels - 1) / 2)
    return centred * np.repeat(step, BLOCK)[:count]


def value_upper_bytes(count: int, codec: ValueCodec) -> int:
    """The most that `encode_values` takes for `count` values. [B]"""
    if codec.float_bytes:
        return codec.float_bytes * count + (1 if codec.zstd else 0)
    return _SCALE_BYTES * ((count + BLOCK - 1) // BLOCK) + 1 + (count + codec.per_byte - 1) // codec.per_byte


def _scales_up(values: Vector, narrow_by: float | None) -> tuple[NDArray[np.uint16], Vector]:
    """Each block's scale, rounded up to the upper half of a float32; and spread to every value.

    It is the block's largest magnitude; or, with few levels and a residual kept, so many times its mean magnitude m.
    With an inner level c at half of m or at m itself, ``sum (x - c)^2 = sum x^2 - n c (2 m - c) < sum x^2``: it shrinks.
    """
    if not values.size:
        return np.zeros(0, "<u2"), values
    starts, size = np.arange(0, values.size, BLOCK), np.abs(values)
    peaks = np.maximum.reduceat(size, starts)
    if narrow_by is not None:
        means = np.add.reduceat(size, starts, dtype=np.float64) / np.diff(starts, append=values.size)
        peaks = np.minimum(peaks, narrow_by * means).astype(np.float32)
    # Below the smallest normal number a scale could not be rounded up by a little: such blocks are sent as zeros.
    peaks = np.where(peaks < np.finfo(np.float32).tiny, np.float32(0), peaks)
    halves = (peaks.view(np.uint32).astype(np.uint64) + 0xFFFF) >> np.uint64(16)
    if (halves >= 0x7F80).any():
        raise PayloadError(f"a value of {peaks.max():g} is too large to quantize; lower the learning rate")
    scales = halves.astype("<u2")
    return scales, np.repeat(_scales_from(scales), BLOCK)[: values.size]


def _scales_from(halves: NDArray[np.uint16]) -> Vector:
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _encode_symbols(symbols: NDArray[np.uint8], codec: ValueCodec) -> bytes:
    packed = _pack(symbols, codec)
    best = bytes([_PLAIN]) + packed
    forms = [(_PACKED, packed)] if codec.per_byte == 1 else [(_PACKED, packed), (_SPREAD, symbols.tobytes())]
    for form, raw in forms:
        squeezed = _squeeze(raw)
        if 1 + len(squeezed) < len(best):
            best = bytes([form]) + squeezed
    return best


def _decode_symbols(data: memoryview, count: int, codec: ValueCodec) -> NDArray[np.uint8]:
    if not len(data):
        raise PayloadError("the body ends before its values; it was cut short")
    form, data = data[0], data[1:]
    packed_bytes = (count + codec.per_byte - 1) // codec.per_byte
    if form == _SPREAD and codec.per_byte > 1:
        symbols = np.frombuffer(_expand(data, count), np.uint8)
    elif form in (_PLAIN, _PACKED):
        raw = _expand(data, packed_bytes) if form == _PACKED else bytes(data)
        if len(raw) != packed_bytes:
            raise PayloadError(
                f"the body holds {len(raw)} bytes of values, {packed_bytes} are due; it is cut short or too long"
            )
        symbols = _unpack(np.frombuffer(raw, np.uint8), count, codec)
    else:
        raise PayloadError(f"unknown value form {form}; both sides need the same version")
    if (symbols >= codec.levels).any():
        raise PayloadError("a value lies outside its levels; the body is corrupt")
    return symbols


def _pack(symbols: NDArray[np.uint8], codec: ValueCodec) -> bytes:
    if codec.per_byte == 1:
        return symbols.tobytes()
    rows = np.zeros(((symbols.size + codec.per_byte - 1) // codec.per_byte, codec.per_byte), np.uint8)
    rows.reshape(-1)[: symbols.size] = symbols
    packed = rows[:, 0].copy()
    for column in range(1, codec.per_byte):
        packed += rows[:, column] * np.uint8(_base(codec) ** column)
    return packed.tobytes()


def _unpack(packed: NDArray[np.uint8], count: int, codec: ValueCodec) -> NDArray[np.uint8]:
    if codec.per_byte == 1:
        return packed
    rows = np.empty((packed.size, codec.per_byte), np.uint8)
    rest = packed
    for column in range(codec.per_byte):
        rest, rows[:, column] = np.divmod(rest, np.uint8(_base(codec)))
    symbols = rows.reshape(-1)
    if rest.any() or symbols[count:].any():
        raise PayloadError("bits that should be empty are not; the body is corrupt")
    return symbols[:count]


def _base(codec: ValueCodec) -> int:
    return 16 if codec.per_byte == 2 else codec.levels


def _encode_float(values: Vector, codec: ValueCodec) -> bytes:
    if codec.float_bytes == 2:
        top = np.finfo(np.float16).max
        raw = np.clip(values, -top, top).astype("<f2").tobytes()
    else:
        raw = values.astype("<f4", copy=False).tobytes()
    if not codec.zstd:
        return raw
    planes = np.frombuffer(raw, np.uint8).reshape(-1, codec.float_bytes).T.tobytes()
    squeezed = _squeeze(planes)
    return bytes([_PACKED]) + squeezed if len(squeezed) < len(raw) else bytes([_PLAIN]) + raw


def _decode_float(data: memoryview, count: int, codec: ValueCodec) -> Vector:
    raw: bytes | memoryview = data
    if codec.zstd:
        if not len(data) or data[0] not in (_PLAIN, _PACKED):
            raise PayloadError("the values' form is missing or unknown; the body is corrupt")
        raw = data[1:]
        if data[0] == _PACKED:
            planes = np.frombuffer(_expand(data[1:], codec.float_bytes * count), np.uint8)
            raw = planes.reshape(codec.float_bytes, -1).T.tobytes()
    if len(raw) != codec.float_bytes * count:
        raise PayloadError(
            f"the body holds {len(raw)} bytes of values, {codec.float_bytes * count} are due; it is cut short or too long"
        )
    values = np.frombuffer(raw, f"<f{codec.float_bytes}").astype(np.float32)
    if not np.isfinite(values).all():
        raise PayloadError("the update holds NaN or infinite values; it is refused")
    return values


def _squeeze(raw: bytes) -> bytes:
    # No magic, checksum or dictionary number: the frame around the body has its own.
    parameters = zstandard.ZstdCompressionParameters.from_level(3, format=_MAGICLESS, write_checksum=0, write_dict_id=0)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


def _expand(data: memoryview, size_bytes: int) -> bytes:
    try:
        declared = zstandard.get_frame_parameters(data, format=_MAGICLESS)
        if declared.content_size != size_bytes:
            raise PayloadError(
                f"the body claims {declared.content_size} bytes of values, {size_bytes} are due; it is corrupt"
            )
        # zstd itself allocates the window that a frame asks for, up to 128 MB.
        if declared.window_size > max(size_bytes, _LEAST_WINDOW_BYTES):
            raise PayloadError(f"the body's values ask for a window of {declared.window_size} bytes; it is refused")
        raw = zstandard.ZstdDecompressor(format=_MAGICLESS).decompress(
            data, max_output_size=size_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise PayloadError(f"the body's values do not decompress ({error}); it is corrupt") from None
    if len(raw) != size_bytes:
        raise PayloadError(f"the body holds {len(raw)} bytes of values, {size_bytes} are due; it is cut short")
    return raw
