"""The envelope of calls, as `wire/schema/rpc.fbs` declares it, and the values in it.

Many frames make one message, so that what a message costs the session is shared by the calls
that are made, or answered, at the same time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from jetstreamproto.errors import RpcError, SchemaError, WireError
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import lay_out_tail
from jetstreamproto.wire.schema_parser import load_schema

RPC: Final = "rpc"
"""The name of the service."""
VERSION: Final = 1
"""Of the envelope."""
MAX_FRAMES: Final = 2048
"""In one message: what it makes the receiver do at once is bounded."""
MAX_CALL_ID: Final = (1 << 32) - 1
MAX_TIMEOUT_MS: Final = (1 << 32) - 1

Metadata: TypeAlias = Mapping[str, str]
FrameParts: TypeAlias = tuple[int, int, int, int, int, int, int, memoryview]
"""call, number, name_size, metadata_size, kind, flags, version and body of one frame."""

DECODE_ERRORS: Final = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""


class Kind(IntEnum):
    """What a frame is."""

    NONE = 0  # in no frame
    CALL = 1
    ITEM = 2
    END = 3
    RESULT = 4
    ERROR = 5
    CANCEL = 6
    CLOSING = 7  # to a stream's server: the session is about to end


class Flag:
    """The bits of a frame's `flags`."""

    RAW: Final = 1  # the payload is bytes as they are, not MessagePack
    NOT_STARTED: Final = 2  # ERROR: the method has not been run, so the call may be repeated
    NO_VALUE: Final = 4  # RESULT: the method's items were its result
    STREAM: Final = 8  # CALL: it has its channel for itself, so items may go either way


class _Frame(NamedTuple):
    call: int
    number: int
    name_size: int
    metadata_size: int
    kind: int
    flags: int
    version: int
    body: memoryview


_SCHEMA = load_schema("rpc.fbs")
_CODEC = Codec(_SCHEMA, "Frame", _Frame, size_prefixed=True)
_LAYOUT = lay_out_tail(_SCHEMA.table("Frame"), size_prefixed=True)
if _LAYOUT.names != _Frame._fields[:-1]:
    raise SchemaError(f"rpc.fbs: Frame starts with the unknown fields {_LAYOUT.names}")

HEAD_SIZE: Final = _LAYOUT.head.size
"""Bytes of a frame that precede its body."""
_CONSTANTS: Final = _LAYOUT.constants
_SIZE_BASE: Final = _LAYOUT.size_base
_pack = _LAYOUT.head.pack
_unpack = _LAYOUT.head.unpack_from

encode_value = msgspec.msgpack.Encoder().encode
"""A value as MessagePack. Raises `TypeError`, `ValueError` or `OverflowError` for what is none."""
decode_value = msgspec.msgpack.Decoder().decode
_encode_error = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(tuple[str, Any]).decode
_decode_metadata = msgspec.msgpack.Decoder(dict[str, str]).decode


def encode_frame(kind: int, call: int, body: bytes = b"", number: int = 0, flags: int = 0) -> bytes:
    """One frame but a CALL."""
    size = len(body)
    return (
        _pack(_SIZE_BASE + size, _CONSTANTS, call, number, 0, 0, kind, flags, VERSION, size) + body
    )


def encode_call(
    call: int, timeout_ms: int, name: bytes, metadata: bytes, payload: bytes, flags: int
) -> bytes:
    """A CALL. Raises `ValueError` for a name or metadata that is too long for its field."""
    name_size, metadata_size = len(name), len(metadata)
    size = name_size + metadata_size + len(payload)
    try:
        head = _pack(
            _SIZE_BASE + size,
            _CONSTANTS,
            call,
            timeout_ms,
            name_size,
            metadata_size,
            Kind.CALL,
            flags,
            VERSION,
            size,
        )
    except struct.error as problem:
        raise ValueError(f"Frame: {problem}") from None
    return b"".join((head, name, metadata, payload))


def split_frames(message: bytes) -> Iterator[FrameParts]:
    """The frames of a message, in order. Bodies are views of it, and kinds any number.

    Raises `WireError` when it comes to one that is malformed, or one too many, or to a message
    without any.
    """
    view = memoryview(message)
    start, end, left = 0, len(message), MAX_FRAMES
    if not end:
        raise WireError("a message without a frame")
    while start < end:
        left -= 1
        if left < 0:
            raise WireError(f"a message of more than {MAX_FRAMES} frames")
        body = start + HEAD_SIZE
        if body <= end:
            size, found, *fields, length = _unpack(message, start)
            stop = body + length
            if found == _CONSTANTS and size == _SIZE_BASE + length and stop <= end:
                yield (*fields, view[body:stop])
                start = stop
                continue
        buffer = _cut_buffer(view, start)
        yield _CODEC.decode(buffer)
        start += len(buffer)


def _cut_buffer(view: memoryview, start: int) -> memoryview:
    left = len(view) - start - 4
    size = int.from_bytes(view[start : start + 4], "little")
    if not 0 <= size <= left:
        raise WireError(f"a frame announces {size} bytes, but {max(0, left)} are left")
    return view[start : start + 4 + size]


def encode_metadata(metadata: Metadata | None, limits: RpcLimits) -> bytes:
    """Raises `ValueError` for metadata that is too long, `TypeError` for what is none."""
    if not metadata:
        return b""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError("metadata is text by names")
    data: bytes = encode_value(dict(metadata))
    if len(data) > limits.metadata:
        raise ValueError(f"{len(data)} bytes of metadata; the limit is {limits.metadata}")
    return data


def decode_metadata(data: memoryview, limits: RpcLimits) -> Metadata:
    """Raises `RpcError` (INVALID_ARGUMENT) for what is no metadata."""
    if not data:
        return {}
    if len(data) > limits.metadata:
        raise RpcError(RpcStatus.INVALID_ARGUMENT, f"more than {limits.metadata} bytes of metadata")
    try:
        return _decode_metadata(data)
    except DECODE_ERRORS as error:
        raise RpcError(RpcStatus.INVALID_ARGUMENT, f"metadata: {error}") from None


def encode_error(call: int, error: RpcError, limits: RpcLimits) -> bytes:
    """An ERROR; details that cannot be sent are left out."""
    message = error.message[: limits.error_text]
    try:
        body = _encode_error((message, error.details))
    except (TypeError, ValueError, OverflowError, RecursionError):
        body = b""
    if not 0 < len(body) <= limits.error_size:
        body = _encode_error((message.encode("utf-8", "replace").decode(), None))
    flags = 0 if error.started else Flag.NOT_STARTED
    return encode_frame(Kind.ERROR, call, body, int(error.status), flags)


def decode_error(number: int, flags: int, body: memoryview) -> RpcError:
    """The error that a frame reports; UNKNOWN for a status that there is not."""
    try:
        status = RpcStatus(number)
    except ValueError:
        status = RpcStatus.UNKNOWN
    if status is RpcStatus.OK:
        status = RpcStatus.UNKNOWN
    try:
        message, details = _decode_error(body)
    except DECODE_ERRORS:
        message, details = "the peer sent an error that cannot be read", None
    return RpcError(status, message, details, started=not flags & Flag.NOT_STARTED)
