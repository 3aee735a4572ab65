"""The messages of the service `chat`, as `schema/chat.fbs` declares them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from jetstreamproto.services.chat.model.notice import Member, Notice
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.schema_parser import load_schema

CHAT: Final = "chat"
"""The name of the service."""
VERSION: Final = 1
CLIENT_SIZE: Final = 16
"""Bytes of a client's id."""
MAX_MESSAGE: Final = 1 << 16
"""Bytes of the largest request that is looked at."""


class Action(IntEnum):
    """What a client asks for."""

    HELLO = 0
    JOIN = 1
    PART = 2
    SAY = 3
    TELL = 4
    NAME = 5
    TOPIC = 6
    WHO = 7
    KICK = 8
    MUTE = 9
    UNMUTE = 10


class Request(NamedTuple):
    """A request; `action` may be one that `Action` does not have."""

    since: int = 0
    number: int = 0
    history: int = 0
    action: int = Action.HELLO
    version: int = 0
    room: str = ""
    name: str = ""
    text: str = ""
    client: bytes = b""


class Answer(NamedTuple):
    """What came of a request, or notices only if `number` is 0."""

    last: int = 0
    number: int = 0
    retry_ms: int = 0
    code: int = 0
    complete: bool = False
    reason: str = ""
    name: str = ""
    room: str = ""
    topic: str = ""
    members: tuple[Member, ...] = ()
    notices: tuple[Notice, ...] = ()


_SCHEMA = load_schema("chat.fbs")

REQUEST: Final = Codec(_SCHEMA, "Request", Request)
ANSWER: Final = Codec(_SCHEMA, "Answer", Answer)
NOTICE: Final = Codec(_SCHEMA, "Notice", Notice)


def encode_notice(notice: Notice) -> bytes:
    """The message that tells a client of something: encoded once for all."""
    return ANSWER.encode(Answer(notices=(notice,)))
