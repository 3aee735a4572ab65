"""Listeners: sockets that are opened before the server becomes a daemon.

A taken port is then an error of the command that started the server, not a line in its log.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from jetstreamproto.errors import ConfigurationError

_BACKLOG = 1024  # the kernel lowers it to net.core.somaxconn
_FREE_PORT_ATTEMPTS = 10


class PortTaken(ConfigurationError):
    """Another program listens there."""


def open_listeners(interfaces: Sequence[str], port: int) -> list[socket.socket]:
    """Sockets that listen on each of these IP addresses, all on one port: a free one for 0.

    `::` takes IPv4 as well, unless an IPv4 address is among the interfaces. Raises
    `ConfigurationError` naming the address that cannot be had.
    """
    for _ in range(_FREE_PORT_ATTEMPTS if port == 0 else 0):
        try:
            return _open_all(interfaces, port)
        except PortTaken:  # free on the first interface, but not on all
            continue
    return _open_all(interfaces, port)


def _open_all(interfaces: Sequence[str], port: int) -> list[socket.socket]:
    dual = all(":" in interface for interface in interfaces)
    with ExitStack() as opened:
        listeners = []
        for interface in interfaces:
            listener = opened.enter_context(_open(interface, port, dual and interface == "::"))
            port = listener.getsockname()[1]
            listeners.append(listener)
        opened.pop_all()
    return listeners


def _open(interface: str, port: int, dual: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    try:
        listener = socket.create_server(
            (interface, port),
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=dual and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        where = show_address(interface, port)
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"{where} is taken: another program listens there") from error
        # a getaddrinfo error has a negative number
        if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:
            raise ConfigurationError(f"{where}: this host has no such address") from error
        raise ConfigurationError(f"{where}: {os.strerror(error.errno or 0)}") from error
    listener.setblocking(False)
    return listener


def show_address(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
