"""The messages of key-value, as `wire/schema/kv.fbs` declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from jetstreamproto.errors import WireError
from jetstreamproto.services.kv.envelope import Envelope, pack, unpack
from jetstreamproto.services.kv.model import (
    ANY_REVISION,
    KEEP_TTL,
    MAX_PACK,
    WRITES,
    Action,
    ChangeKind,
    KeyEntry,
    Refusal,
    Status,
    Step,
)
from jetstreamproto.wire.schema_parser import load_schema

VERSION = 1


class Request(NamedTuple):
    """What a client asks for; `action` is an `Action`, or a number that this side does not know."""

    version: int
    action: int
    id: int
    limit: int
    revision: int
    ttl: int
    bucket: str
    key: str
    names: tuple[str, ...]
    values: tuple[bytes, ...]


class Reply(NamedTuple):
    """The answer to the request of the same id; `status` is a `Status`."""

    id: int
    status: int
    more: bool
    revision: int
    expires: int
    names: tuple[str, ...]
    values: Sequence[bytes | None]
    packed: bool = False


class RequestTable(NamedTuple):
    """A `Request` as the schema has it."""

    revision: int
    ttl: int
    id: int
    limit: int
    key_size: int
    names: int
    values: int
    version: int
    action: int
    bucket_size: int
    data: memoryview


class ReplyTable(NamedTuple):
    """A `Reply` as the schema has it."""

    revision: int
    expires: int
    id: int
    names: int
    values: int
    status: int
    more: bool
    packed: bool
    data: memoryview


class EntryTable(NamedTuple):
    """A `KeyEntry` as the schema has it."""

    revision: int
    expires: int
    key_size: int
    names: int
    values: int
    kind: int
    complete: bool
    data: memoryview


_SCHEMA = load_schema("kv.fbs")

REQUEST: Final = Envelope(_SCHEMA, "Request", RequestTable)
REPLY: Final = Envelope(_SCHEMA, "Reply", ReplyTable)
ENTRY: Final = Envelope(_SCHEMA, "Entry", EntryTable)

_KINDS = frozenset(ChangeKind)


def encode_request(
    action: int,
    bucket: str,
    key: str = "",
    *,
    id: int = 0,
    names: Sequence[str] = (),
    values: Sequence[bytes] = (),
    revision: int = ANY_REVISION,
    ttl: int = KEEP_TTL,
    limit: int = 0,
    version: int = VERSION,
) -> bytes:
    """One message to the server. Raises `ValueError` for what a message cannot hold."""
    place, key_bytes = bucket.encode(), key.encode()
    parts: list[bytes | None] = [name.encode() for name in names]
    parts += values
    return REQUEST.encode(
        b"%b%b%b" % (place, key_bytes, pack(parts)) if parts else place + key_bytes,
        revision,
        ttl,
        id,
        limit,
        len(key_bytes),
        len(names),
        len(values),
        version,
        action,
        len(place),
    )


def read_request(message: bytes) -> Request:
    """What `encode_request` wrote. Raises `WireError`."""
    fields, buffer, start = REQUEST.decode(message)
    _, revision, ttl, id, limit, key_size, names, values, version, action, bucket_size, _ = fields
    key_at = start + bucket_size
    parts_at = key_at + key_size
    try:
        bucket, key = str(buffer[start:key_at], "utf-8"), str(buffer[key_at:parts_at], "utf-8")
        parts = unpack(buffer, parts_at, names + values)
        named = _texts(parts, names) if names else ()
        given = tuple(parts[names:])
    except UnicodeDecodeError as error:
        raise WireError(f"not UTF-8: {error.reason}") from None
    if None in given:
        raise WireError("a value that is absent")
    return Request(
        version,
        action,
        id,
        limit,
        revision,
        ttl,
        bucket,
        key,
        named,
        given,  # type: ignore[arg-type]
    )


def encode_step(step: Step, bucket: str = "", id: int = 0) -> bytes:
    """One write as a message."""
    action, key, names, values, revision, ttl = step
    return encode_request(
        action, bucket, key, id=id, names=names, values=values, revision=revision, ttl=ttl
    )


def read_step(request: Request) -> Step:
    """The write that a request is. Raises `Refusal` if it is none."""
    _, action, _, _, revision, ttl, _, key, names, values = request
    if action not in WRITES:
        raise Refusal(Status.INVALID, f"the action {action} is not a write")
    return Step(Action(action), key, names, values, revision, ttl)


def encode_reply(
    id: int,
    values: Sequence[bytes | None] = (),
    *,
    names: Sequence[str] = (),
    revision: int = 0,
    expires: int = 0,
    more: bool = False,
    status: Status = Status.DONE,
    packed: bool = False,
) -> bytes:
    """One message to the client."""
    parts = [*(name.encode() for name in names), *values] if names else values
    return REPLY.encode(
        pack(parts), revision, expires, id, len(names), len(values), status, more, packed
    )


def read_reply(message: bytes) -> Reply:
    """What `encode_reply` wrote. Raises `WireError`."""
    fields, buffer, start = REPLY.decode(message)
    _, revision, expires, id, names, values, status, more, packed, _ = fields
    parts = unpack(buffer, start, names + values)
    if not names:
        return Reply(id, status, bool(more), revision, expires, (), parts, bool(packed))
    try:
        named = _texts(parts, names)
    except UnicodeDecodeError as error:
        raise WireError(f"not UTF-8: {error.reason}") from None
    return Reply(id, status, bool(more), revision, expires, named, parts[names:], bool(packed))


def pack_requests(messages: Sequence[bytes]) -> bytes:
    """Several requests as one message."""
    return encode_request(Action.PACK, "", values=messages)


def packed_requests(request: Request) -> Sequence[Request]:
    """The requests in a PACK. Raises `WireError`."""
    _check_count(request.values)
    return [read_request(value) for value in request.values]


def pack_replies(messages: Sequence[bytes]) -> bytes:
    """Several replies as one message."""
    return encode_reply(0, messages, packed=True)


def packed_replies(reply: Reply) -> Sequence[Reply]:
    """The replies in one that is packed. Raises `WireError`."""
    _check_count(reply.values)
    replies = [read_reply(value or b"") for value in reply.values]
    if any(inner.packed for inner in replies):
        raise WireError("a pack in a pack")
    return replies


def _check_count(messages: Sequence[bytes | None]) -> None:
    if not 0 < len(messages) <= MAX_PACK:
        raise WireError(f"{len(messages)} messages in a pack, which has 1 to {MAX_PACK}")


def encode_entry(entry: KeyEntry) -> bytes:
    """One key of a page, or of a watch."""
    fields = entry.fields or {}
    key = entry.key.encode()
    return ENTRY.encode(
        key + pack([*(name.encode() for name in fields), *fields.values()]),
        entry.revision,
        entry.expires,
        len(key),
        len(fields),
        len(fields),
        entry.kind,
        entry.fields is not None,
    )


def read_entry(message: bytes) -> KeyEntry:
    """What `encode_entry` wrote. Raises `WireError`."""
    fields, buffer, start = ENTRY.decode(message)
    _, revision, expires, key_size, names, values, kind, complete, _ = fields
    if kind not in _KINDS:
        raise WireError(f"{kind} is no kind of change")
    if names != values:
        raise WireError(f"{values} values for {names} fields")
    parts_at = start + key_size
    parts = unpack(buffer, parts_at, 2 * names)
    try:
        key, named = str(buffer[start:parts_at], "utf-8"), _texts(parts, names)
    except UnicodeDecodeError as error:
        raise WireError(f"not UTF-8: {error.reason}") from None
    known = None
    if complete:
        given = zip(named, parts[names:], strict=True)
        known = {name: value or b"" for name, value in given}
    return KeyEntry(ChangeKind(kind), key, revision, expires, known)


def _texts(parts: Sequence[bytes | None], count: int) -> tuple[str, ...]:
    """The first `count` byte strings as text. Raises `UnicodeDecodeError`."""
    return tuple([str(part or b"", "utf-8") for part in parts[:count]])
