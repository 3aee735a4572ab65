"""What a socket in use has for options, as the statistics of sessions show it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.abstract import FileDescriptor

from jetstreamproto.sockets import options
from jetstreamproto.sockets.profiles import profile_of

_SHOWN = (
    options.NO_DELAY,
    options.KEEPALIVE,
    options.KEEP_IDLE,
    options.KEEP_INTERVAL,
    options.KEEP_COUNT,
    options.QUICK_ACK,
    options.SEND_BUFFER,
    options.RECEIVE_BUFFER,
    options.UNSENT,
)


def stream_handle(transport: Any) -> socket.socket | None:
    """The socket of one of Twisted's own connections."""
    handle = getattr(transport, "socket", None)
    if isinstance(transport, FileDescriptor) and isinstance(handle, socket.socket):
        return handle
    return None


def stream_figures(transport: Any) -> Mapping[str, int | str]:
    """The profile of a TCP connection and its socket's options as they are now, by their names.

    Buffers are in bytes, as the kernel counts them. Empty once it is closed, or if it is no TCP.
    """
    handle = stream_handle(transport)
    if handle is None:
        return {}
    found: dict[str, int | str | None] = {o.name: o.read(handle) for o in _SHOWN}
    found["TCP_CONGESTION"] = options.read_congestion(handle)
    if found["TCP_NODELAY"] is None:  # not TCP, or closed
        return {}
    known = {name: value for name, value in found.items() if value is not None}
    return {"profile": profile_of(transport).name, **known}


def datagram_figures(port: Any) -> Mapping[str, int | str]:
    """The same of a UDP port of ours; empty for others."""
    settings = getattr(port, "settings", None)
    if not settings:
        return {}
    found = {one.option: one.granted for one in settings if one.granted is not None}
    batches = (
        {"UDP_SEGMENT": int(port.gso), "UDP_GRO": int(port.gro)} if hasattr(port, "gso") else {}
    )
    return {"profile": profile_of(port).name, **found, **batches}
