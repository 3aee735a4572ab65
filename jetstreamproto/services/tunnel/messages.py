"""The messages of a tunnel's channels, as `schema/tunnel.fbs` declares them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.schema_parser import load_schema


class Purpose(IntEnum):
    """What a channel is opened for."""

    CONNECT = 0
    LISTEN = 1
    ACCEPTED = 2


class Request(NamedTuple):
    """The first message on a channel. `host` is a name or an IP address, without brackets."""

    purpose: Purpose
    host: str
    port: int
    listener: int = 0


class Reply(NamedTuple):
    """It is done, and this is the address that came of it."""

    host: str
    port: int


_SCHEMA = load_schema("tunnel.fbs")

REQUEST: Final = Codec(_SCHEMA, "Request", Request)
REPLY: Final = Codec(_SCHEMA, "Reply", Reply)
