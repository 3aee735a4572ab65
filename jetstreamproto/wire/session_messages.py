"""The payloads of HELLO and OPEN packets, as `schema/session.fbs` declares them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from jetstreamproto.wire.codec import RecurringCodec
from jetstreamproto.wire.schema_parser import load_schema


class Mode(IntEnum):
    """How a channel delivers its messages."""

    ORDERED = 0
    UNORDERED = 1
    EXPIRING = 2


class Hello(NamedTuple):
    """Each side's first packet: what it is and what it will accept.

    max_message: bytes of one message, after decompression.
    max_channels: open at once by the peer.
    channel_window: credit that every new channel starts with, in bytes.
    session_window: credit that the session starts with, in bytes.
    lz4: payloads to this side may be LZ4 blocks.
    """

    version: int
    max_message: int
    max_channels: int
    channel_window: int
    session_window: int
    lz4: bool = False
    agent: str = ""
    username: str | None = None
    password: str | None = None


class Open(NamedTuple):
    """Opens a channel to a service.

    urgency: 0 first to 7 last, as in RFC 9218.
    deadline_ms: how long a message may take in a channel of mode EXPIRING, in milliseconds.
    secret: neither side may compress what is sent on this channel.
    """

    service: str
    mode: Mode = Mode.ORDERED
    urgency: int = 3
    deadline_ms: int = 0
    secret: bool = False


_SCHEMA = load_schema("session.fbs")

HELLO: Final = RecurringCodec(
    _SCHEMA, "Hello", Hello, secret=lambda hello: hello.password is not None
)
OPEN: Final = RecurringCodec(_SCHEMA, "Open", Open, secret=lambda request: False)
