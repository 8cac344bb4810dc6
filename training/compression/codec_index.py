"""Codes a sorted set of indices near its entropy, log2 of C(n, k): Golomb codes of the gaps, layer by layer.

Each layer names how many entries it keeps and its own Golomb divisor, so layers of different density each come near
their own bound; where layers are many and small, one code over the whole vector, or a bitmap, is used if smaller.
All of it is vectorized: the quotients in unary, the low bits and the odd bits are three streams of packed bits.

Source: Golomb, Run-length encodings, IEEE Trans. Information Theory 12, 1966; Gallager and Van Voorhis 1975.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.select import Indices

_WHOLE, _BY_LAYER, _BITMAP = 0, 1, 2
_TUNED_FROM = 64  # entries from which a layer spends a byte on the divisor that suits its own clusters
_TUNE_STEPS = 8  # divisors at n/k times ln 2, and halved up to seven times

Span = tuple[int, int]


def encode_indices(indices: Indices, bounds: tuple[int, ...]) -> bytes:
    """Ascending distinct indices below `bounds[-1]` as bytes that end by themselves.

    Args:
        indices: Shape (k,).
        bounds: Where each layer starts, and the end of the last.
    """
    size = bounds[-1]
    counts: list[int] = np.diff(np.searchsorted(indices, np.asarray(bounds))).tolist()
    forms = {
        _WHOLE: _encode_gaps(indices, [(0, size)], [indices.size]),
        _BY_LAYER: _varints(counts) + _encode_gaps(indices, list(pairwise(bounds)), counts),
    }
    form = min(forms, key=lambda form: len(forms[form]))
    if (size + 7) // 8 >= len(forms[form]):
        return bytes([form]) + forms[form]
    mask = np.zeros(size, np.bool_)
    mask[indices] = True
    return bytes([_BITMAP]) + np.packbits(mask, bitorder="little").tobytes()


def decode_indices(data: memoryview, bounds: tuple[int, ...], kept: int) -> tuple[Indices, memoryview]:
    """The indices, and the bytes behind them. `kept` must be checked against the layout's size already.

    Raises:
        PayloadError: The bytes are no such set.
    """
    size = bounds[-1]
    form, data = _take(data, 1)
    if form[0] == _BITMAP:
        raw, data = _take(data, (size + 7) // 8)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        indices = np.flatnonzero(bits).astype(np.int64, copy=False)
        if indices.size != kept or bits[size:].any():
            raise PayloadError(f"the bitmap holds {indices.size} indices and the head says {kept}; the body is corrupt")
        return indices, data
    if form[0] == _WHOLE:
        return _decode_gaps(data, [(0, size)], [kept])
    if form[0] != _BY_LAYER:
        raise PayloadError(f"unknown index code {form[0]}; both sides need the same version")
    spans = list(pairwise(bounds))
    counts, data = _read_varints(data, len(spans))
    if sum(counts) != kept or any(count > stop - start for count, (start, stop) in zip(counts, spans, strict=True)):
        raise PayloadError("the layers' counts do not fit the layout; the body is corrupt")
    return _decode_gaps(data, spans, counts)


@lru_cache(maxsize=256)
def index_upper_bytes(size: int, kept: int) -> int:
    """The most that `encode_indices` takes for up to `kept` of `size` indices, wherever they lie. [B]

    The maximum over all counts up to `kept`, taken over ranges of counts that are bounded at their ends, so that its own
    cost does not grow with the model. Ranges of one count, up to some hundreds, are exact; the others within 1 %.
    """
    if kept == 0:
        return 1
    fewest = np.unique(np.geomspace(1, kept, 4096).astype(np.int64))
    most = np.append(fewest[1:] - 1, kept)
    wide, narrow = (np.maximum(1, np.rint(math.log(2) * size / count)).astype(np.int64) for count in (fewest, most))
    low = np.frexp(wide)[1].astype(np.int64) - 1  # divisors and their widths fall as counts rise
    odd = np.where((wide == 1 << low) & (narrow == wide), 0, most)
    gaps = _ceil8(most + (size - fewest) // narrow) + _ceil8(most * low) + _ceil8(odd) + 1
    return 1 + min(int(gaps.max()), (size + 7) // 8)


def _ceil8(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    return (bits + 7) // 8


def _divisor(size: int, kept: int, tune: int) -> int:
    return max(1, int(np.rint(math.log(2) * size / kept)) >> tune)


def _encode_gaps(indices: Indices, spans: list[Span], counts: list[int]) -> bytes:
    kept = np.asarray(counts)
    first = np.concatenate([[0], np.cumsum(kept)])
    gaps = np.diff(indices, prepend=-1) - 1
    used = [layer for layer, count in enumerate(counts) if count]
    gaps[first[used]] = indices[first[used]] - np.asarray([spans[layer][0] for layer in used], np.int64)
    tunes, divisors = bytearray(), np.ones(len(counts), np.int64)
    for layer in used:
        size = spans[layer][1] - spans[layer][0]
        tune = 0
        if counts[layer] >= _TUNED_FROM:
            own = gaps[first[layer] : first[layer + 1]]
            tune = min(range(_TUNE_STEPS), key=lambda tune: _cost_bits(own, _divisor(size, own.size, tune)))
            tunes.append(tune)
        divisors[layer] = _divisor(size, counts[layer], tune)
    divisor = np.repeat(divisors, kept)
    quotient, rest = np.divmod(gaps, divisor)
    unary = np.zeros(int(quotient.sum()) + gaps.size, np.bool_)
    unary[np.cumsum(quotient + 1) - 1] = True
    width = np.frexp(divisor)[1].astype(np.int64) - 1
    short = (2 << width) - divisor  # rests below it take `width` bits, the others one more
    long = rest >= short
    code = np.where(long, rest + short, rest)
    parts = (unary, _to_bits(np.where(long, code >> 1, code), width), (code[long] & 1).astype(np.bool_))
    return bytes(tunes) + b"".join(np.packbits(part, bitorder="little").tobytes() for part in parts)


def _cost_bits(gaps: Indices, divisor: int) -> int:
    quotient, rest = np.divmod(gaps, divisor)
    width = divisor.bit_length() - 1
    return int(quotient.sum()) + gaps.size * (1 + width) + int(np.count_nonzero(rest >= (2 << width) - divisor))


def _decode_gaps(data: memoryview, spans: list[Span], counts: list[int]) -> tuple[Indices, memoryview]:
    kept = np.asarray(counts, np.int64)
    total = int(kept.sum())
    if total == 0:
        return np.zeros(0, np.int64), data
    tunes, data = _take(data, sum(count >= _TUNED_FROM for count in counts))
    if any(tune >= _TUNE_STEPS for tune in tunes):
        raise PayloadError("a layer's divisor is out of range; the body is corrupt")
    tune = iter(tunes)
    divisor = np.repeat(
        [
            _divisor(stop - start, count, next(tune) if count >= _TUNED_FROM else 0) if count else 1
            for (start, stop), count in zip(spans, counts, strict=True)
        ],
        kept,
    )
    # The unary part of gaps that fit the vector has at most one bit an entry of the vector, so this is what is unpacked.
    some = np.unpackbits(np.frombuffer(data[: (spans[-1][1] + 7) // 8], np.uint8), bitorder="little")
    ends = np.flatnonzero(some)[:total]
    if ends.size < total:
        raise PayloadError("the indices end too early; the body was cut short or is corrupt")
    quotient = np.diff(ends, prepend=-1) - 1
    data = _skip_bits(data, some, int(ends[-1]) + 1)
    width = np.frexp(divisor)[1].astype(np.int64) - 1
    bits, data = _take_bits(data, int(width.sum()))
    code = _from_bits(bits, width)
    short = (2 << width) - divisor
    long = code >= short
    bits, data = _take_bits(data, int(np.count_nonzero(long)))
    code[long] = (code[long] << 1 | bits) - short[long]
    steps = np.cumsum(quotient * divisor + code + 1)
    first = np.concatenate([[0], np.cumsum(kept)])
    before = np.concatenate([[0], steps])[first[:-1]]
    starts, stops = np.asarray(spans, np.int64).T
    indices = steps + np.repeat(starts - 1 - before, kept)
    last = first[1:][kept > 0] - 1
    if (indices[last] >= stops[kept > 0]).any():
        raise PayloadError("an index lies behind its layer; the body is corrupt")
    return indices, data


def _to_bits(values: NDArray[np.int64], width: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The low `width` bits of each value, one after the other."""
    place = np.arange(int(width.sum())) - np.repeat(np.cumsum(width) - width, width)
    return (np.repeat(values, width) >> place & 1).astype(np.bool_)


def _from_bits(bits: NDArray[np.uint8], width: NDArray[np.int64]) -> NDArray[np.int64]:
    start = np.cumsum(width) - width
    place = np.arange(bits.size) - np.repeat(start, width)
    sums = np.concatenate([[0], np.cumsum(bits.astype(np.int64) << place)])
    values: NDArray[np.int64] = sums[start + width] - sums[start]
    return values


def _take(data: memoryview, length: int) -> tuple[memoryview, memoryview]:
    if len(data) < length:
        raise PayloadError(f"the body ends {length - len(data)} bytes too early; it was cut short")
    return data[:length], data[length:]


def _take_bits(data: memoryview, count: int) -> tuple[NDArray[np.uint8], memoryview]:
    raw, rest = _take(data, (count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    _skip_bits(raw, bits, count)
    return bits[:count], rest


def _skip_bits(data: memoryview, bits: NDArray[np.uint8], count: int) -> memoryview:
    """What follows `count` bits, whose last byte must be filled up with zeros: one set has one code only."""
    length = (count + 7) // 8
    if bits[count : 8 * length].any():
        raise PayloadError("bits that should be empty are not; the body is corrupt")
    return data[length:]


def _varints(numbers: list[int]) -> bytes:
    out = bytearray()
    for number in numbers:
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


def _read_varints(data: memoryview, count: int) -> tuple[list[int], memoryview]:
    numbers, place = [], 0
    for _ in range(count):
        number = shift = 0
        while True:
            if place >= len(data) or shift > 56:
                raise PayloadError("the layers' counts are cut short or too large; the body is corrupt")
            byte = data[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(number)
    return numbers, data[place:]
