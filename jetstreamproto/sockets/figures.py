"""What a socket in use has for options, as the statistics of sessions show it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from twisted.internet.abstract import FileDescriptor

from jetstreamproto.sockets import options
from jetstreamproto.sockets.datagrams import SOL_UDP, UDP_GRO, UDP_SEGMENT
from jetstreamproto.sockets.options import Outcome, Setting
from jetstreamproto.sockets.profiles import Moment, profile_of

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

_BATCHES = (
    (options.Option("UDP_SEGMENT", SOL_UDP, UDP_SEGMENT), "gso"),
    (options.Option("UDP_GRO", SOL_UDP, UDP_GRO, flag=True), "gro"),
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


def stream_settings(transport: Any) -> tuple[Setting, ...]:
    """What the profile of a TCP connection asked for, and what has become of it by now.

    Empty once it is closed, if it is no TCP, or if the profile leaves all to the system.
    """
    handle = stream_handle(transport)
    if handle is None or options.NO_DELAY.read(handle) is None:
        return ()
    reviewed = profile_of(transport).review(handle, Moment.CONNECTING)
    then = getattr(transport, "settings", None) or ()  # when it was connecting
    return (
        *map(_as_kept, reviewed),
        *(one for one in then if one.option == options.FAST_OPEN_CONNECT.name),
    )


def stream_report(transport: Any) -> dict[str, Any]:
    """Both, as the statistics of links name them: `socket` and `settings`."""
    return {"socket": stream_figures(transport), "settings": stream_settings(transport)}


def datagram_figures(port: Any) -> Mapping[str, int | str]:
    """The same of a UDP port of ours; empty for others."""
    settings = getattr(port, "settings", None)
    if not settings:
        return {}
    found = {one.option: one.granted for one in settings if one.granted is not None}
    batches = {one.name: int(getattr(port, kind)) for one, kind in _BATCHES if hasattr(port, kind)}
    return {"profile": profile_of(port).name, **found, **batches}


def datagram_settings(port: Any) -> tuple[Setting, ...]:
    """What was asked for a UDP port of ours, and what became of it; empty for others."""
    settings = getattr(port, "settings", None) or ()
    asked = getattr(port, "options", None)
    batches = [
        _batch_setting(option, getattr(port, kind), port.socket)
        for option, kind in _BATCHES
        if getattr(asked, kind, False) and hasattr(port, "socket")
    ]
    return *settings, *batches


def _as_kept(setting: Setting) -> Setting:
    """The kernel clears TCP_QUICKACK when it answers, and it is set again after each read."""
    if setting.option == options.QUICK_ACK.name and setting.outcome is Outcome.CLAMPED:
        return replace(setting, outcome=Outcome.GRANTED, why="again after each read")
    return setting


def _batch_setting(option: options.Option, used: bool, handle: socket.socket) -> Setting:
    if used:
        return Setting(option.name, 1, 1, Outcome.GRANTED)
    if option.read(handle) is None:
        return Setting(option.name, 1, None, Outcome.ABSENT)
    return Setting(option.name, 1, 0, Outcome.REFUSED)
