"""Listeners: sockets that are opened before the server becomes a daemon.

A taken port is then an error of the command that started the server, not a line in its log.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.sockets.datagrams import share_port
from jetstreamproto.sockets.options import Setting
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, Moment, SocketProfile

TCP, UDP, QUIC = "tcp", "udp", "quic"
TRANSPORTS = (TCP, UDP, QUIC)
"""The transports that there are."""

_OVER_UDP = (UDP, QUIC)

_BACKLOG = 1024  # the kernel lowers it to net.core.somaxconn
_FREE_PORT_ATTEMPTS = 10


class PortTaken(ConfigurationError):
    """Another program listens there."""


@dataclass(frozen=True)
class Listeners:
    """Sockets that are bound to one port: `streams` listen for TCP, `datagrams` are of UDP.

    `transports` are those that they are for; our own datagrams and QUIC share the UDP sockets.
    `settings` says what has become of the profile's options, for one socket of each kind.
    """

    streams: list[socket.socket] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)
    transports: Sequence[str] = TRANSPORTS
    settings: dict[socket.SocketKind, list[Setting]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The port of them all."""
        port: int = (self.streams or self.datagrams)[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Give the port up."""
        for listener in (*self.streams, *self.datagrams):
            listener.close()


def open_listeners(
    interfaces: Sequence[str],
    port: int,
    transports: Sequence[str] = TRANSPORTS,
    profile: SocketProfile = DEFAULT_PROFILE,
) -> Listeners:
    """Sockets on each of these IP addresses, all on one port: for 0, one that is free on all.

    `::` takes IPv4 as well, unless an IPv4 address is among the interfaces. Raises
    `ConfigurationError` naming the address that cannot be had.
    """
    return open_shared_listeners(interfaces, port, transports, 1, profile)[0]


def open_shared_listeners(
    interfaces: Sequence[str],
    port: int,
    transports: Sequence[str],
    count: int,
    profile: SocketProfile = DEFAULT_PROFILE,
) -> list[Listeners]:
    """As `open_listeners`, for `count` processes that share the port: the sockets of each."""
    for _ in range(_FREE_PORT_ATTEMPTS if port == 0 else 0):
        try:
            return _open_shared(interfaces, port, transports, count, profile)
        except PortTaken:  # free on the first interface, or over one transport, but not on all
            continue
    return _open_shared(interfaces, port, transports, count, profile)


def _open_shared(
    interfaces: Sequence[str],
    port: int,
    transports: Sequence[str],
    count: int,
    profile: SocketProfile,
) -> list[Listeners]:
    first = _open_all(interfaces, port, transports, profile, False)
    if count == 1:
        return [first]
    # without SO_REUSEPORT it was nobody else's; with it another server could be joined unawares
    port = first.port
    first.close()
    shared: list[Listeners] = []
    try:
        for _ in range(count):
            shared.append(_open_all(interfaces, port, transports, profile, True))
    except BaseException:
        for listeners in shared:
            listeners.close()
        raise
    return shared


def _open_all(
    interfaces: Sequence[str],
    port: int,
    transports: Sequence[str],
    profile: SocketProfile,
    share: bool,
) -> Listeners:
    dual = all(":" in interface for interface in interfaces) and socket.has_dualstack_ipv6()
    listeners = Listeners(transports=transports)
    with ExitStack() as opened:
        for served, found, kind in (
            ((TCP,), listeners.streams, socket.SOCK_STREAM),
            (_OVER_UDP, listeners.datagrams, socket.SOCK_DGRAM),
        ):
            names = [name for name in transports if name in served]
            for interface in interfaces if names else ():
                where = f"{show_address(interface, port)} ({', '.join(names)})"
                listener = opened.enter_context(socket.socket(_family(interface), kind))
                listeners.settings[kind] = _tune(listener, profile, share)
                _bind(where, listener, interface, port, dual and interface == "::")
                found.append(listener)
                port = listeners.port
        opened.pop_all()
    return listeners


def _tune(listener: socket.socket, profile: SocketProfile, share: bool) -> list[Setting]:
    """What pays before it is bound; `share` if other processes have the port too."""
    if share:
        share_port(listener)
    stream = listener.type == socket.SOCK_STREAM
    return profile.apply(listener, Moment.LISTENING if stream else Moment.DATAGRAMS)


def _bind(where: str, listener: socket.socket, interface: str, port: int, dual: bool) -> None:
    try:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        listener.bind((interface, port))
        if listener.type == socket.SOCK_STREAM:
            listener.listen(_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"{where} is taken: another program listens there") from error
        # a getaddrinfo error has a negative number
        if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:
            raise ConfigurationError(f"{where}: this host has no such address") from error
        raise ConfigurationError(f"{where}: {os.strerror(error.errno or 0)}") from error
    listener.setblocking(False)


def _family(interface: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in interface else socket.AF_INET


def show_address(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
