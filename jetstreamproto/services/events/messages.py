"""The messages of the service `events`, as `schema/events.fbs` declares them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from jetstreamproto.errors import SchemaError, WireError
from jetstreamproto.services.events.model.event import Event, Policy, Start
from jetstreamproto.services.events.model.limits import MAX_BATCH, MAX_BATCH_BYTES
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import lay_out_tail
from jetstreamproto.wire.schema_parser import load_schema

EVENTS: Final = "events"
"""The name of the service."""
VERSION: Final = 1

PartFields = tuple[int, int, memoryview]
"""Kind, number and body."""


class Kind(IntEnum):
    """What a message is."""

    NONE = 0
    PUBLISHER = 1
    PUBLISH = 2
    PUBLISHED = 3
    REFUSED = 4
    SUBSCRIBE = 5
    SUBSCRIBED = 6
    EVENTS = 7
    MISSED = 8
    ACK = 9
    ACKED = 10
    MANAGE = 11
    STREAMS = 12


class Answer(IntEnum):
    """What a subscriber says about an event of a durable consumer."""

    DONE = 0
    AGAIN = 1
    GIVE_UP = 2


class Action(IntEnum):
    """What is to be done about streams."""

    LIST = 0
    ADD = 1
    REMOVE = 2
    INFO = 3
    FORGET = 4


class Events(NamedTuple):
    """Events as columns; see the schema."""

    names: tuple[str, ...]
    topics: tuple[int, ...]
    ends: tuple[int, ...]
    payloads: bytes
    time: int = 0
    times: tuple[int, ...] = ()
    sequences: tuple[int, ...] = ()
    attempts: tuple[int, ...] = ()


class Published(NamedTuple):
    """The events of a PUBLISH were taken."""

    sequences: tuple[int, ...] = ()
    duplicates: bytes = b""


class Refused(NamedTuple):
    """None of the events of a PUBLISH was taken, or a MANAGE was not done."""

    code: int
    reason: str = ""


class Subscribe(NamedTuple):
    """What a subscription is to get."""

    pattern: str
    start: Start = Start.NEW
    origin: int = 0
    policy: Policy = Policy.DROP
    queue_events: int = 0
    queue_bytes: int = 0
    durable: str = ""
    group: str = ""
    ack_wait_ms: int = 0
    max_deliver: int = 0
    max_pending: int = 0
    done: tuple[int, ...] = ()


class Subscribed(NamedTuple):
    """The subscription is there."""

    stream: str = ""
    stream_id: int = 0
    next: int = 0


class Ack(NamedTuple):
    """What a subscriber says about some events."""

    sequences: tuple[int, ...]
    answer: Answer = Answer.DONE
    delay_ms: int = 0


class Manage(NamedTuple):
    """What is to be done about streams."""

    action: Action
    stream: StreamConfig | None = None
    consumer: str = ""


class Consumer(NamedTuple):
    """A durable consumer, and how far it is."""

    name: str
    pattern: str
    group: str = ""
    floor: int = 0
    outstanding: int = 0
    members: int = 0


class Stream(NamedTuple):
    """A stream, what is in it (from `first` to `last`), and its consumers if that was asked for."""

    config: StreamConfig
    first: int = 0
    last: int = 0
    events: int = 0
    size: int = 0
    consumers: tuple[Consumer, ...] = ()


class Streams(NamedTuple):
    """The answer to a MANAGE."""

    streams: tuple[Stream, ...] = ()


class _Part(NamedTuple):
    number: int
    kind: int
    version: int
    body: memoryview


_SCHEMA = load_schema("events.fbs")
_CODEC = Codec(_SCHEMA, "Part", _Part)
_LAYOUT = lay_out_tail(_SCHEMA.table("Part"), size_prefixed=False)
if _LAYOUT.names != ("number", "kind", "version"):
    raise SchemaError(f"events.fbs: Part starts with the unknown fields {_LAYOUT.names}")

BATCH: Final = Codec(_SCHEMA, "Events", Events)
PUBLISHED: Final = Codec(_SCHEMA, "Published", Published)
REFUSED: Final = Codec(_SCHEMA, "Refused", Refused)
SUBSCRIBE: Final = Codec(_SCHEMA, "Subscribe", Subscribe)
SUBSCRIBED: Final = Codec(_SCHEMA, "Subscribed", Subscribed)
ACK: Final = Codec(_SCHEMA, "Ack", Ack)
MANAGE: Final = Codec(_SCHEMA, "Manage", Manage)
STREAMS: Final = Codec(_SCHEMA, "Streams", Streams)

_CONSTANTS: Final = _LAYOUT.constants
_HEAD_SIZE: Final = _LAYOUT.head.size
_pack = _LAYOUT.head.pack


class UnknownVersion(WireError):
    """The message is of another version of the service."""


def encode_part(kind: Kind, body: bytes | memoryview = b"", number: int = 0) -> bytes:
    """One message. The body is copied once."""
    return b"".join((_pack(_CONSTANTS, number, kind, VERSION, len(body)), body))


def decode_part(message: bytes) -> PartFields:
    """Kind (it may be one that `Kind` does not have), number and body, which is not copied.

    Raises `WireError` for bytes that are no `Part`, and `UnknownVersion`.
    """
    if len(message) >= _HEAD_SIZE:
        found, number, kind, version, length = _LAYOUT.head.unpack_from(message)
        if found == _CONSTANTS and length == len(message) - _HEAD_SIZE and version == VERSION:
            return kind, number, memoryview(message)[_HEAD_SIZE:]
    number, kind, version, body = _CODEC.decode(message)
    if version != VERSION:
        raise UnknownVersion(f"version {version} of events; this is version {VERSION}")
    return kind, number, body


def encode_events(events: Sequence[Event]) -> bytes:
    """The body of EVENTS: what all subscribers get, encoded once."""
    topics, payloads, sequences, times, attempts = zip(*events, strict=True)
    time = times[0]
    return BATCH.encode(
        Events(
            *_columns(topics, payloads),
            time,
            () if times.count(time) == len(times) else times,
            sequences if any(sequences) else (),
            attempts if max(attempts) > 1 else (),
        )
    )


def encode_publish(events: Sequence[tuple[str, bytes]]) -> bytes:
    """The body of PUBLISH, for events as pairs of topic and payload."""
    topics, payloads = zip(*events, strict=True)
    return BATCH.encode(Events(*_columns(topics, payloads)))


def _columns(
    topics: Sequence[str], payloads: Sequence[bytes]
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...], bytes]:
    first = topics[0]
    names: tuple[str, ...] = (first,)
    indexes: tuple[int, ...] = ()
    if topics.count(first) != len(topics):
        numbers = {name: number for number, name in enumerate(dict.fromkeys(topics))}
        names, indexes = tuple(numbers), tuple([numbers[topic] for topic in topics])
    end = 0
    ends = tuple([end := end + len(payload) for payload in payloads])
    return names, indexes, ends, b"".join(payloads)


def decode_publish(body: bytes | memoryview) -> tuple[tuple[str, ...], list[tuple[str, bytes]]]:
    """The topics of a PUBLISH, each once, and its events. Raises `WireError`."""
    batch = BATCH.decode(body)
    return batch.names, list(zip(_topics(batch), _payloads(batch), strict=True))


def decode_events(body: bytes | memoryview) -> list[Event]:
    """The events of an EVENTS. Raises `WireError`."""
    batch = BATCH.decode(body)
    payloads = _payloads(batch)
    count = len(payloads)
    columns = (
        _topics(batch),
        payloads,
        _column(batch.sequences, count, 0),
        _column(batch.times, count, batch.time),
        _column(batch.attempts, count, 1),
    )
    make = Event._make
    return [make(values) for values in zip(*columns, strict=True)]


def _column(values: tuple[int, ...], count: int, absent: int) -> Sequence[int]:
    if not values:
        return (absent,) * count
    if len(values) != count:
        raise WireError(f"{len(values)} values for {count} events")
    return values


def _topics(batch: Events) -> Sequence[str]:
    count, names = len(batch.ends), batch.names
    if not 0 < len(names) <= count:
        raise WireError(f"{len(names)} topics for {count} events")
    if not batch.topics:
        return (names[0],) * count
    if len(batch.topics) != count or max(batch.topics) >= len(names):
        raise WireError("events without a topic")
    return [names[index] for index in batch.topics]


def _payloads(batch: Events) -> list[bytes]:
    data, ends = batch.payloads, batch.ends
    if not 0 < len(ends) <= MAX_BATCH or len(data) > MAX_BATCH_BYTES:
        raise WireError(f"{len(ends)} events with {len(data)} bytes in one message")
    start, payloads = 0, []
    for end in ends:
        if end < start:
            raise WireError("an event ends before it begins")
        payloads.append(data[start:end])
        start = end
    if start != len(data):
        raise WireError(f"the events have {start} bytes, and {len(data)} came")
    return payloads


def pack_flags(flags: Iterable[bool]) -> bytes:
    """`duplicates` of `Published`."""
    return array("B", flags).tobytes()
