"""Packets: what a session's plaintext is made of.

A packet is a size-prefixed FlatBuffers buffer of the table `Packet` in `schema/packet.fbs`.
One plaintext holds any number of packets, one right after the other. This module writes and
reads the canonical layout of that table directly, and leaves any other layout to a `Codec`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from jetstreamproto.errors import SchemaError, WireError
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import lay_out_tail
from jetstreamproto.wire.schema_parser import load_schema

PacketParts: TypeAlias = tuple[int, int, int, int, int, memoryview]
"""seq, channel, kind, flags, code and payload of one packet."""


class Kind(IntEnum):
    """What a packet is for."""

    NONE = 0  # In no packet: the schema language wants every enum in a struct to have a zero.
    HELLO = 1
    OPEN = 2
    ACCEPT = 3
    DATA = 4
    CREDIT = 5
    END = 6
    RESET = 7
    PING = 8
    PONG = 9
    GOAWAY = 10


class Flag:
    """The bits of a packet's `flags`."""

    MORE: Final = 1  # More fragments of this message follow.
    LZ4: Final = 2  # The payload is an LZ4 block.
    DROPPED: Final = 4  # The packet was given up on the way; the payload is its payload's size.


class _Header(NamedTuple):
    seq: int
    channel: int
    kind: int  # Not `Kind`: what to do about an unknown kind is the session's decision.
    flags: int
    code: int


class _Packet(NamedTuple):
    header: _Header
    payload: memoryview


_SCHEMA = load_schema("packet.fbs")
_CODEC = Codec(_SCHEMA, "Packet", _Packet, size_prefixed=True)
_LAYOUT = lay_out_tail(_SCHEMA.table("Packet"), size_prefixed=True)
if _LAYOUT.names != tuple(f"header.{name}" for name in _Header._fields):
    raise SchemaError(f"packet.fbs: Packet starts with the unknown fields {_LAYOUT.names}")

HEAD_SIZE: Final = _LAYOUT.head.size
"""How many bytes of a packet, as `encode_head` writes it, precede its payload."""

_CONSTANTS: Final = _LAYOUT.constants
_SIZE_BASE: Final = _LAYOUT.size_base
_pack = _LAYOUT.head.pack


def encode_head(
    seq: int, channel: int, kind: int, flags: int, code: int, payload_len: int
) -> bytes:
    """The `HEAD_SIZE` bytes that make a packet when `payload_len` bytes of payload follow.

    Raises ValueError for a number that its field cannot hold.
    """
    try:
        return _pack(
            payload_len + _SIZE_BASE, _CONSTANTS, seq, channel, kind, flags, code, payload_len
        )
    except struct.error as problem:
        raise ValueError(f"Packet: {problem}") from None


def cut_batch(batch: Sequence[bytes | memoryview], most: int) -> list[list[bytes | memoryview]]:
    """Batches of up to `most` bytes each from a longer one: a head, its payload, a head ..."""
    batches: list[list[bytes | memoryview]] = [[]]
    size = 0
    for index in range(0, len(batch), 2):
        packet = len(batch[index]) + len(batch[index + 1])
        if size + packet > most and batches[-1]:
            batches.append([])
            size = 0
        batches[-1] += batch[index : index + 2]
        size += packet
    return batches


def split_packets(plaintext: bytes | memoryview) -> list[PacketParts]:
    """The packets that make up `plaintext`, in order; none if it is empty.

    Payloads are views of `plaintext`; kinds may be numbers that `Kind` does not have. Raises
    WireError if a packet is malformed or the last one is not complete.
    """
    view = memoryview(plaintext)
    unpack, constants, head_size = _LAYOUT.head.unpack_from, _CONSTANTS, HEAD_SIZE
    size_base = _SIZE_BASE
    packets: list[PacketParts] = []
    start, end = 0, len(plaintext)
    last_head = end - head_size
    while start < end:
        if start <= last_head:
            size, found, seq, channel, kind, flags, code, length = unpack(plaintext, start)
            payload = start + head_size
            stop = payload + length
            if found == constants and size == size_base + length and stop <= end:
                packets.append((seq, channel, kind, flags, code, view[payload:stop]))
                start = stop
                continue
        buffer = _cut_buffer(view, start)
        header, content = _CODEC.decode(buffer)
        packets.append((*header, content))
        start += len(buffer)
    return packets


def _cut_buffer(view: memoryview, start: int) -> memoryview:
    """The size-prefixed buffer that starts at `start`."""
    left = len(view) - start - 4
    if left < 0:
        raise WireError("the plaintext ends within a packet's size")
    size = int.from_bytes(view[start : start + 4], "little")
    if size > left:
        raise WireError(f"a packet announces {size} bytes, but {left} are left")
    return view[start : start + 4 + size]


_SEQ_AT, _KIND_AT = 24, 36  # in the canonical layout


def is_data(head: bytes) -> bool:
    """Whether a head, as `encode_head` writes it, is that of a DATA packet."""
    return head[_KIND_AT] == Kind.DATA


def sequence_number(head: bytes) -> int:
    """The `seq` in a head, as `encode_head` writes it."""
    return int.from_bytes(head[_SEQ_AT : _SEQ_AT + 8], "little")
