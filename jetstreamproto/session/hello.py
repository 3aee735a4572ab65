"""HELLO: what each side says of itself, and what is made of what the peer says."""

from __future__ import annotations

from functools import lru_cache

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.session.codes import MAX_AGENT, MAX_CREDENTIAL, MIN_WINDOW, PROTOCOL_VERSION
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.session_messages import HELLO, Hello


def introduce(settings: SessionSettings, credentials: tuple[str, str] | None) -> bytes:
    """The HELLO payload of a side with these settings; a client may add user and password."""
    if credentials is None:
        return _anonymous(settings)
    username, password = credentials
    return HELLO.encode(_hello(settings)._replace(username=username, password=password))


@lru_cache(maxsize=16)
def _anonymous(settings: SessionSettings) -> bytes:
    return HELLO.encode(_hello(settings))


def _hello(settings: SessionSettings) -> Hello:
    return Hello(
        version=PROTOCOL_VERSION,
        max_message=settings.max_message,
        max_channels=settings.max_channels,
        channel_window=settings.channel_window,
        session_window=settings.session_window,
        lz4=settings.compression is not None,
        agent=settings.agent,
    )


def meet(payload: memoryview) -> Hello:
    """The peer's HELLO; `ProtocolViolation` if it cannot be worked with."""
    hello = HELLO.decode(payload)
    if hello.version < 1:
        raise ProtocolViolation(f"protocol version {hello.version}")
    if min(hello.channel_window, hello.session_window) < MIN_WINDOW:
        raise ProtocolViolation(f"the peer announced a window of less than {MIN_WINDOW} bytes")
    if not hello.max_message:
        raise ProtocolViolation("the peer accepts no messages")
    for credential in (hello.username or "", hello.password or ""):
        if len(credential.encode()) > MAX_CREDENTIAL:
            raise ProtocolViolation(f"a user name or password of over {MAX_CREDENTIAL} bytes")
    return hello._replace(agent=hello.agent[:MAX_AGENT])
