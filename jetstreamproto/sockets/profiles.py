"""What a JetStream TCP connection sets on its socket."""

from __future__ import annotations

import socket
from typing import Any

NOT_SENT_LOW_WATER = 1 << 18
"""Bytes that may wait in the kernel unsent: enough to keep the link busy between two turns of the
reactor, and no more, because whatever is there goes before an urgent message (tcp(7))."""


def tune_stream(transport: Any) -> None:
    """Set TCP_NODELAY and TCP_NOTSENT_LOWAT where `transport` is a TCP connection that has them."""
    if hasattr(transport, "setTcpNoDelay"):
        transport.setTcpNoDelay(True)
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if isinstance(handle, socket.socket) and option is not None:
        try:
            handle.setsockopt(socket.IPPROTO_TCP, option, NOT_SENT_LOW_WATER)
        except OSError:
            return  # not a TCP socket, or a kernel without it: the connection works all the same
