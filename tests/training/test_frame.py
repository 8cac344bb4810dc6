"""Frames arrive whole or are refused: every way to damage one, and what a hostile one may make the parser allocate."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.compress import Compressor, decode
from budjoule.training.compression.frame import OVERHEAD_BYTES, pack, size_upper_bytes, unpack
from budjoule.training.compression.update import Layout, Update, layout_of

LAYOUT = layout_of([("conv.weight", (16, 1, 3, 3)), ("fc.weight", (30, 40)), ("fc.bias", (7,))])
STEPS = [
    [],
    ["fp32z"],
    ["fp16z"],
    ["quantize:4"],
    ["topk:0.1", "quantize:8"],
    ["topk:0.05", "ternary"],
    ["randomk:0.1"],
    ["lowrank:2", "quantize:8"],
]
MAX_BYTES = 1 << 20


def update(seed=0):
    values = np.random.default_rng(seed).standard_normal(LAYOUT.size).astype(np.float32)
    return Update(client=7, base_version=12345678901, examples=640, values=values)


def frame(steps=("topk:0.1", "quantize:8"), seed=0):
    return pack(update(seed), LAYOUT, Compressor.parse(steps), np.random.default_rng(seed))


def resealed(data):
    """The frame with a checksum that fits, as somebody who means harm would send it."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@pytest.mark.parametrize("steps", STEPS)
def test_a_frame_arrives_with_what_was_packed(steps):
    sent = update()
    compressor = Compressor.parse(steps)
    data = pack(sent, LAYOUT, compressor, np.random.default_rng(3))
    got = unpack(data, LAYOUT, max_bytes=len(data))
    assert (got.client, got.base_version, got.examples) == (7, 12345678901, 640)
    assert np.array_equal(got.values, decode(compressor.encode(sent.values, LAYOUT, np.random.default_rng(3)), LAYOUT))
    assert len(data) <= size_upper_bytes(LAYOUT, compressor)
    assert len(data) == OVERHEAD_BYTES + len(compressor.encode(sent.values, LAYOUT, np.random.default_rng(3)))


@pytest.mark.parametrize("steps", STEPS)
def test_every_cut_of_a_frame_is_refused(steps):
    data = frame(steps)
    for length in [*range(min(len(data), 400)), *range(400, len(data), 97)]:
        with pytest.raises(PayloadError):
            unpack(data[:length], LAYOUT, max_bytes=MAX_BYTES)


def test_every_flipped_bit_is_noticed():
    data = frame()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(PayloadError):
            unpack(bytes(damaged), LAYOUT, max_bytes=MAX_BYTES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"PKLE" + data[4:], "no frame: it begins with b'PKLE'"),
        (lambda data: data[:4] + b"\x02" + data[5:], "version 2, this side reads 1"),
        (lambda data: data + b"\x00", "runs on"),
        (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], "checksum does not match"),
        (lambda data: b"", "at least 49 bytes, this one 0"),
        (lambda data: data[:41] + b"\xff\xff\xff\xff" + data[45:], "the frame says 4294967344 bytes"),
        (lambda data: resealed(data[:5] + bytes(16) + data[21:]), "of another model"),
    ],
)
def test_what_is_wrong_is_said(change, reason):
    with pytest.raises(PayloadError, match=reason):
        unpack(change(frame()), LAYOUT, max_bytes=MAX_BYTES)


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    data = frame()
    with pytest.raises(PayloadError, match=f"{len(data)} bytes is over the limit of {len(data) - 1}"):
        unpack(data, LAYOUT, max_bytes=len(data) - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("steps", [[], ["fp16"], ["fp32z"], ["topk:0.1"]])
def test_values_that_are_not_finite_are_refused_whoever_sends_them(steps, bad):
    data = bytearray(frame(steps))
    if steps == ["fp32z"]:
        import zstandard

        values = update().values.copy()
        values[5] = bad
        planes = values.view(np.uint8).reshape(-1, 4).T.tobytes()
        parameters = zstandard.ZstdCompressionParameters.from_level(3, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        body = bytes(data[45:51]) + b"\x01" + zstandard.ZstdCompressor(compression_params=parameters).compress(planes)
        data = data[:41] + struct.pack("<I", len(body)) + body + bytes(4)
    else:
        raw = np.array([bad], "<f2" if steps == ["fp16"] else "<f4").tobytes()
        data[-4 - len(raw) : -4] = raw
    with pytest.raises(PayloadError, match="NaN or infinite"):
        unpack(resealed(bytes(data)), LAYOUT, max_bytes=MAX_BYTES)


def test_layouts_differ_by_name_shape_and_order():
    layouts = [
        LAYOUT,
        layout_of([("conv.weight", (16, 1, 3, 3)), ("fc.weight", (40, 30)), ("fc.bias", (7,))]),
        layout_of([("fc.weight", (30, 40)), ("conv.weight", (16, 1, 3, 3)), ("fc.bias", (7,))]),
        layout_of([("conv.weight", (16, 1, 3, 3)), ("fc2.weight", (30, 40)), ("fc.bias", (7,))]),
        layout_of([("conv.weigh", (16, 1, 3, 3)), ("tfc.weight", (30, 40)), ("fc.bias", (7,))]),
        layout_of([("conv.weight", (16, 1, 9)), ("fc.weight", (30, 40)), ("fc.bias", (7,))]),
    ]
    assert len({layout.fingerprint for layout in layouts}) == len(layouts)
    assert LAYOUT.fingerprint == Layout(names=LAYOUT.names, shapes=LAYOUT.shapes).fingerprint


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.sampled_from(STEPS), edits=st.integers(1, 6))
def test_forged_bodies_are_refused_or_decode_to_finite_values(seed, steps, edits):
    rng = np.random.default_rng(seed)
    data = bytearray(frame(steps, seed % 8))
    for _ in range(edits):
        # Mostly in the structural bytes at the body's start, where an error would do the most.
        end = rng.choice([60, 120, len(data) - 4])
        data[int(rng.integers(45, min(end, len(data) - 4)))] = int(
            rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        )
    try:
        got = unpack(resealed(bytes(data)), LAYOUT, max_bytes=MAX_BYTES)
    except PayloadError:
        return
    assert got.values.shape == (LAYOUT.size,)
    assert np.isfinite(got.values).all()


def body_frame(body):
    head = struct.pack("<4sB16sIQQI", b"BJUP", 1, LAYOUT.fingerprint, 1, 1, 1, len(body))
    return resealed(head + body + bytes(4))


def bomb(size):
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(3, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(size))


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<BBI", 0, 6, LAYOUT.size) + b"\x01" + bomb(200_000_000),  # a zstd bomb
        struct.pack("<BBI", 0, 2, LAYOUT.size) + bytes(8) + b"\x01" + bomb(200_000_000),
        struct.pack("<BBI", 1, 0, 2**32 - 1) + b"\x00" + bytes(1000),  # more entries than the layout
        struct.pack("<BBI", 1, 0, LAYOUT.size) + b"\x01" + b"\xff" * 100,  # varints without end
        struct.pack("<BBI", 1, 0, 3) + b"\x01" + b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 3 + bytes(100),
        struct.pack("<BBI", 1, 0, 5) + b"\x00" + bytes(MAX_BYTES - 100),  # a unary part of zeros only
        struct.pack("<BBI", 2, 0, 5) + bytes(7),
        struct.pack("<BBI", 9, 0, 5) + bytes(70),
        struct.pack("<BBI", 0, 99, LAYOUT.size) + bytes(70),
        struct.pack("<BBIB", 3, 0, 1000, 2) + bytes(4000),  # no factors of this layout
        struct.pack("<BBIB", 3, 0, LAYOUT.size, 0) + bytes(4 * LAYOUT.size),
        struct.pack("<BBIB", 3, 0, 16 + 9 + 70 + 7, 1) + b"\x7f" * 4 * (16 + 9 + 70 + 7),  # the product is infinite
        b"",
    ],
)
def test_a_hostile_frame_is_refused_within_its_permitted_memory(body):
    data = body_frame(body)
    unpack(frame(), LAYOUT, max_bytes=MAX_BYTES)  # imports and caches are not the frame's
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError):
            unpack(data, LAYOUT, max_bytes=MAX_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data) + 64 * LAYOUT.size


@pytest.mark.parametrize(
    "numbers", [{"client": -1}, {"client": 2**32}, {"examples": -1}, {"base_version": -1}, {"examples": 2**64}]
)
def test_numbers_that_do_not_fit_the_head_are_refused(numbers):
    sent = update()
    fields = {"client": 1, "base_version": 1, "examples": 1, "values": sent.values, **numbers}
    with pytest.raises(PayloadError, match="the frame's head cannot hold"):
        pack(Update(**fields), LAYOUT, Compressor.parse([]), np.random.default_rng(0))
