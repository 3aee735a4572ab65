"""HELLO: what each side says of itself, and what is made of what the peer says."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.session.codes import MAX_AGENT, MAX_CREDENTIAL, MIN_WINDOW, PROTOCOL_VERSION
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.session_messages import HELLO, Hello

_FAR = 0.01


class Windows(NamedTuple):
    """Bytes of credit for a start: of every new channel, and of the session."""

    channel: int
    session: int


def first_windows(settings: SessionSettings, rtt: float | None) -> Windows:
    """The windows to start with: larger ones where the peer is `rtt` seconds away.

    What small windows save in memory traffic they cost there in round trips until they have grown.
    """
    windows = Windows(settings.channel_window, settings.session_window)
    if rtt is None or rtt < _FAR:
        return windows
    return Windows(
        min(8 * windows.channel, settings.max_channel_window),
        min(2 * windows.session, settings.max_session_window),
    )


def introduce(
    settings: SessionSettings, windows: Windows, credentials: tuple[str, str] | None
) -> bytes:
    """The HELLO payload of a side with these settings; a client may add user and password."""
    if credentials is None:
        return _anonymous(settings, windows)
    username, password = credentials
    return HELLO.encode(_hello(settings, windows)._replace(username=username, password=password))


@lru_cache(maxsize=16)
def _anonymous(settings: SessionSettings, windows: Windows) -> bytes:
    return HELLO.encode(_hello(settings, windows))


def _hello(settings: SessionSettings, windows: Windows) -> Hello:
    return Hello(
        version=PROTOCOL_VERSION,
        max_message=settings.max_message,
        max_channels=settings.max_channels,
        channel_window=windows.channel,
        session_window=windows.session,
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
    for credential in (hello.username, hello.password):
        if credential and len(credential.encode()) > MAX_CREDENTIAL:
            raise ProtocolViolation(f"a user name or password of over {MAX_CREDENTIAL} bytes")
    if len(hello.agent) > MAX_AGENT:
        hello = hello._replace(agent=hello.agent[:MAX_AGENT])
    return hello
