"""Frames: what the plaintext of a sealed datagram is made of (docs/protocol.md section 8)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from jetstreamproto.errors import WireError

PADDING: Final = 0x00
PING: Final = 0x01
ACK: Final = 0x02
FLOOR: Final = 0x03
WINDOW: Final = 0x04
STREAM: Final = 0x05
STREAM_FIN: Final = 0x06
MESSAGE: Final = 0x07
MESSAGE_FIN: Final = 0x08
SKIP: Final = 0x09
SOURCE: Final = 0x0A
REPAIR: Final = 0x0B
PATH_CHALLENGE: Final = 0x0C
PATH_RESPONSE: Final = 0x0D
END: Final = 0x0E
CLOSE: Final = 0x0F
RECOVERED: Final = 0x10

STREAM_HEAD: Final = struct.Struct(">BIQH")
MESSAGE_HEAD: Final = struct.Struct(">BIQIH")
SOURCE_HEAD: Final = struct.Struct(">BI3x")
REPAIR_HEAD: Final = struct.Struct(">BIBBB")
_ACK_HEAD = struct.Struct(">BQIIH")
_NUMBER = struct.Struct(">BQ")
_SKIP = struct.Struct(">BIQI")
_RECOVERED_HEAD = struct.Struct(">BIH")
_CLOSE_HEAD = struct.Struct(">BHH")

MAX_BITMAP: Final = 1024
"""Bytes of an acknowledgement's bitmap at most: 8192 packets."""
MAX_CLOSE_TEXT: Final = 256
PATH_DATA: Final = 8
MICROSECONDS: Final = 0xFFFFFFFF
"""Clocks and delays are sent in microseconds modulo 2^32."""


class Ack(NamedTuple):
    """Which packets came: bit i of `bitmap` is packet `largest` - i, so bit 0 is always set.

    `received_at` is when `largest` came, by the receiver's clock; `delay` how long the
    acknowledgement waited; both in microseconds.
    """

    largest: int
    received_at: int
    delay: int
    bitmap: int


class Piece(NamedTuple):
    """Bytes of a stream (`number` -1) or message, from `offset` on; `fin`: nothing follows."""

    channel: int
    number: int
    offset: int
    data: memoryview
    fin: bool


class Skip(NamedTuple):
    """Message `number` of a channel, of `size` bytes, has expired and will not come."""

    channel: int
    number: int
    size: int


class Repair(NamedTuple):
    """A repair symbol over `covers` source symbols from `base` on; `row` of the code of `k`."""

    base: int
    covers: int
    k: int
    row: int
    data: memoryview


class Close(NamedTuple):
    """The peer ends the connection at once, and why."""

    code: int
    text: str


Frame = tuple[int, object]
"""A frame's type and content: one of the above, a number, bytes or None."""


def encode_ack(largest: int, received_at: int, delay: int, bitmap: int) -> bytes:
    """An ACK frame; the oldest packets are left out where the bitmap would be too long.

    Raises ValueError, as all of these do, for a number that its field cannot hold.
    """
    body = _bitmap_body(bitmap)
    received_at, delay = received_at & MICROSECONDS, min(delay, MICROSECONDS)
    return _pack(_ACK_HEAD, ACK, largest, received_at, delay, len(body)) + body


def encode_recovered(newest: int, bitmap: int) -> bytes:
    """A RECOVERED frame: bit i of `bitmap` is symbol `newest` - i."""
    body = _bitmap_body(bitmap)
    return _pack(_RECOVERED_HEAD, RECOVERED, newest, len(body)) + body


def encode_control(kind: int, value: object) -> bytes:
    """A frame that says one thing: `value` is what `parse_frames` gives for that type."""
    if kind in (FLOOR, WINDOW):
        return _pack(_NUMBER, kind, value)
    if kind == SKIP:
        assert isinstance(value, Skip)
        return _pack(_SKIP, SKIP, *value)
    if kind in (PATH_CHALLENGE, PATH_RESPONSE):
        assert isinstance(value, bytes) and len(value) == PATH_DATA
        return bytes((kind,)) + value
    assert kind in (PING, END)
    return bytes((kind,))


def encode_close(code: int, text: str) -> bytes:
    """A CLOSE frame; a long text is cut."""
    reason = text.encode("utf-8", "replace")[:MAX_CLOSE_TEXT]
    return _pack(_CLOSE_HEAD, CLOSE, code, len(reason)) + reason


def _pack(head: struct.Struct, *fields: object) -> bytes:
    try:
        return head.pack(*fields)
    except struct.error as problem:
        raise ValueError(f"a frame of type 0x{fields[0]:02x}: {problem}") from None


def _bitmap_body(bitmap: int) -> bytes:
    bits = min(bitmap.bit_length(), 8 * MAX_BITMAP)
    return (bitmap & ((1 << bits) - 1)).to_bytes((bits + 7) >> 3, "little")


def parse_frames(plaintext: bytes) -> list[Frame]:
    """The frames of a packet, in order, without its padding. Raises `WireError`.

    Data are views of `plaintext`. REPAIR takes the rest of the packet. The content of SOURCE is
    its symbol's number and the rest of the packet, which is parsed as well: only pieces of
    streams and messages may be in there.
    """
    view = memoryview(plaintext)
    frames: list[Frame] = []
    start, end = 0, len(plaintext)
    protected = False
    try:
        while start < end:
            kind = plaintext[start]
            if kind == PADDING:
                break
            if protected and not STREAM <= kind <= MESSAGE_FIN:
                raise WireError("a packet protected by FEC carries more than streams")
            content, start = _parse(kind, view, start)
            frames.append((kind, content))
            protected = protected or kind == SOURCE
    except struct.error:
        raise WireError("a packet ends within a frame") from None
    return frames


def _parse(kind: int, view: memoryview, start: int) -> tuple[object, int]:
    if STREAM <= kind <= MESSAGE_FIN:
        return _parse_piece(kind, view, start)
    if kind == ACK:
        _, largest, received_at, delay, size = _ACK_HEAD.unpack_from(view, start)
        bits, start = _bitmap(view, start + _ACK_HEAD.size, size)
        if not bits & 1 or bits.bit_length() > largest + 1:
            raise WireError("an acknowledgement names packets that cannot be")
        return Ack(largest, received_at, delay, bits), start
    if kind in (FLOOR, WINDOW):
        return _NUMBER.unpack_from(view, start)[1], start + _NUMBER.size
    if kind in (PING, END):
        return None, start + 1
    if kind == SOURCE:
        symbol, start = SOURCE_HEAD.unpack_from(view, start)[1], start + SOURCE_HEAD.size
        return (symbol, view[start:]), start
    if kind == REPAIR:
        _, base, covers, k, row = REPAIR_HEAD.unpack_from(view, start)
        return Repair(base, covers, k, row, view[start + REPAIR_HEAD.size :]), len(view)
    if kind == RECOVERED:
        _, newest, size = _RECOVERED_HEAD.unpack_from(view, start)
        bits, start = _bitmap(view, start + _RECOVERED_HEAD.size, size)
        return (newest, bits), start
    if kind == SKIP:
        return Skip(*_SKIP.unpack_from(view, start)[1:]), start + _SKIP.size
    if kind in (PATH_CHALLENGE, PATH_RESPONSE):
        data, start = _cut(view, start + 1, PATH_DATA)
        return bytes(data), start
    if kind == CLOSE:
        _, code, size = _CLOSE_HEAD.unpack_from(view, start)
        if size > MAX_CLOSE_TEXT:
            raise WireError(f"a reason of {size} bytes; at most {MAX_CLOSE_TEXT}")
        text, start = _cut(view, start + _CLOSE_HEAD.size, size)
        return Close(code, bytes(text).decode("utf-8", "replace")), start
    raise WireError(f"unknown frame type 0x{kind:02x}")


def _parse_piece(kind: int, view: memoryview, start: int) -> tuple[Piece, int]:
    if kind <= STREAM_FIN:
        _, channel, offset, size = STREAM_HEAD.unpack_from(view, start)
        number, start = -1, start + STREAM_HEAD.size
    else:
        _, channel, number, offset, size = MESSAGE_HEAD.unpack_from(view, start)
        start += MESSAGE_HEAD.size
    data, start = _cut(view, start, size)
    return Piece(channel, number, offset, data, kind in (STREAM_FIN, MESSAGE_FIN)), start


def _bitmap(view: memoryview, start: int, size: int) -> tuple[int, int]:
    if size > MAX_BITMAP:
        raise WireError(f"a bitmap of {size} bytes; at most {MAX_BITMAP}")
    body, start = _cut(view, start, size)
    return int.from_bytes(body, "little"), start


def _cut(view: memoryview, start: int, size: int) -> tuple[memoryview, int]:
    end = start + size
    if end > len(view):
        raise WireError("a packet ends within a frame")
    return view[start:end], end
