"""What went wrong when a session was opened: which error is final, and which tells most."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet import error as network

from jetstreamproto.errors import (
    HandshakeError,
    HandshakeTimeout,
    JetStreamError,
    NothingListens,
    Refused,
    SessionError,
    TrustError,
)
from jetstreamproto.opening.model import TCP

_SILENT = (HandshakeTimeout, network.TimeoutError, network.TCPTimedOutError)
_REFUSED = (NothingListens, network.ConnectionRefusedError)
_OF_ONE_TRANSPORT = (HandshakeError, SessionError, network.ConnectError, network.CannotListenError)


def is_final(error: BaseException) -> bool:
    """Whether another transport must not be tried.

    So it is with what the server has decided, and with what we have decided about the server: who
    is not trusted over one transport shall get no second chance over another.
    """
    if isinstance(error, TrustError | Refused):
        return True
    return not isinstance(error, _OF_ONE_TRANSPORT)


def most_telling(failures: Sequence[tuple[str, Exception]]) -> Exception:
    """The error to show of those of several attempts, each with its transport.

    Somebody who is there tells more than nobody; of what nobody says, TCP tells most, since UDP
    may be filtered.
    """
    return min(failures, key=_rank)[1]


def _rank(failure: tuple[str, Exception]) -> tuple[bool, int]:
    transport, error = failure
    if isinstance(error, HandshakeTimeout) and transport == TCP:
        return False, 1  # the server has accepted the connection
    if not isinstance(error, _SILENT + _REFUSED):
        return False, 0 if isinstance(error, JetStreamError) else 2
    return True, 2 * (transport != TCP) + isinstance(error, _SILENT)


def reason(transport: str, failure: Exception | None, seconds: float) -> str:
    """Why `transport` did not serve, after so many seconds, in a few words."""
    if failure is None or isinstance(failure, _SILENT):
        return f"{transport} did not answer within {seconds:.2g} s"
    if isinstance(failure, _REFUSED):
        return f"{transport}: nothing listens there"
    return f"{transport}: {failure}"
