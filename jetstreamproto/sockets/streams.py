"""What a JetStream connection sets on its Twisted transport."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from jetstreamproto.sockets.figures import stream_handle
from jetstreamproto.sockets.profiles import profile_of
from jetstreamproto.sockets.unsent import Unsent

TRANSFER_SIZE = 1 << 19
"""Bytes that are read or written with one system call; Twisted's own are 64 and 128 KiB."""


def tune_stream(transport: Any, clock: IReactorTime) -> Unsent | None:
    """Set what pays on a TCP connection, and leave other transports as they are.

    Larger system calls, the limit on unsent bytes that is returned, and the `default` profile
    unless the transport has one already.
    """
    handle = stream_handle(transport)
    if handle is None:
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        return None
    if not hasattr(transport, "socket_profile"):
        profile_of(transport).tune(handle)
    transport.SEND_LIMIT = TRANSFER_SIZE
    return Unsent.of(handle, clock)
