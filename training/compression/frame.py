"""The payload: a compressed update in a frame that says what it is, for whom, and whether it arrived whole.

A frame is 45 bytes of head, the compressor's body, and a CRC-32 of all that. The checksum finds accidents, not forgery:
authenticity is the transport's. Parsing is bounded by sizes that are checked first, and never unpickles.

| offset | bytes | what |
|---|---|---|
| 0 | 4 | magic `BJUP` |
| 4 | 1 | version, 1 |
| 5 | 16 | fingerprint of the layout: names, shapes, order, type |
| 21 | 4 | client |
| 25 | 8 | base version |
| 33 | 8 | examples |
| 41 | 4 | length of the body |
| 45 | n | body |
| 45 + n | 4 | CRC-32 of everything before |

All integers are unsigned and little-endian.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from budjoule.energy.errors import PayloadError
from budjoule.training.compression.compress import Compressor, decode
from budjoule.training.compression.update import Layout, Update

MAGIC = b"BJUP"
VERSION = 1
_HEAD = struct.Struct("<4sB16sIQQI")
_CHECK = struct.Struct("<I")
OVERHEAD_BYTES = _HEAD.size + _CHECK.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What a frame carries.

    Args:
        client: Number of the client.
        base_version: Version of the model that it trained from.
        examples: Number of examples it trained on.
        body: The bytes inside.
    """

    client: int
    base_version: int
    examples: int
    body: bytes


def wrap(parcel: Parcel, layout: Layout, *, magic: bytes = MAGIC) -> bytes:
    """A frame around a body.

    Raises:
        PayloadError: A number does not fit the head.
    """
    try:
        numbers = (parcel.client, parcel.base_version, parcel.examples, len(parcel.body))
        head = _HEAD.pack(magic, VERSION, layout.fingerprint, *numbers)
    except struct.error:
        raise PayloadError(
            f"the frame's head cannot hold client {parcel.client}, base version {parcel.base_version}, "
            f"{parcel.examples} examples, {len(parcel.body)} bytes; all must be whole, not negative and below 2**32"
        ) from None
    frame = head + parcel.body
    return frame + _CHECK.pack(zlib.crc32(frame))


def unwrap(data: bytes, layout: Layout, *, max_bytes: int, magic: bytes = MAGIC) -> Parcel:
    """What a frame carries, its body unread.

    Args:
        data: The frame, whole.
        layout: What the receiver trains; the frame's must be the same.
        max_bytes: Frames above this size are refused before they are read. [B]
        magic: How it must begin.

    Raises:
        PayloadError: It is too large, cut short, too long, corrupt, or of another model.
    """
    if len(data) > max_bytes:
        raise PayloadError(
            f"a frame of {len(data)} bytes is over the limit of {max_bytes}; raise the limit or send less"
        )
    if len(data) < OVERHEAD_BYTES:
        raise PayloadError(f"a frame has at least {OVERHEAD_BYTES} bytes, this one {len(data)}; it was cut short")
    found, version, fingerprint, client, base_version, examples, length = _HEAD.unpack_from(data)
    if found != magic:
        raise PayloadError(f"no frame: it begins with {found!r} instead of {magic!r}")
    if version != VERSION:
        raise PayloadError(f"a frame of version {version}, this side reads {VERSION}; both sides need the same version")
    if len(data) != OVERHEAD_BYTES + length:
        raise PayloadError(
            f"the frame says {OVERHEAD_BYTES + length} bytes and has {len(data)}; it was cut short or runs on"
        )
    if zlib.crc32(memoryview(data)[: -_CHECK.size]) != _CHECK.unpack_from(data, len(data) - _CHECK.size)[0]:
        raise PayloadError("the frame's checksum does not match; it was damaged on the way, send it again")
    if fingerprint != layout.fingerprint:
        raise PayloadError(
            f"the frame is of another model ({fingerprint.hex()[:12]}, not {layout.fingerprint.hex()[:12]}); "
            "train the layers that the server names"
        )
    body = data[_HEAD.size : -_CHECK.size]
    return Parcel(client=client, base_version=base_version, examples=examples, body=body)


def pack(update: Update, layout: Layout, compressor: Compressor, rng: np.random.Generator) -> bytes:
    """The update as bytes to send.

    Raises:
        PayloadError: The values are not the layout's, are not finite, or a number does not fit the head.
    """
    body = compressor.encode(update.values, layout, rng)
    return wrap(
        Parcel(client=update.client, base_version=update.base_version, examples=update.examples, body=body), layout
    )


def unpack(data: bytes, layout: Layout, *, max_bytes: int) -> Update:
    """The update that a frame holds, its values decompressed.

    Raises:
        PayloadError: As `unwrap`, or it holds NaN or infinite values, or a body that cannot be read.
    """
    parcel = unwrap(data, layout, max_bytes=max_bytes)
    values = decode(parcel.body, layout)
    return Update(client=parcel.client, base_version=parcel.base_version, examples=parcel.examples, values=values)


def size_upper_bytes(layout: Layout, compressor: Compressor) -> int:
    """The largest frame that `pack` can make: what a reservation for sending is based on. [B]"""
    return OVERHEAD_BYTES + compressor.size_upper_bytes(layout)
