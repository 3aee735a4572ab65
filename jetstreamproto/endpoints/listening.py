"""Listening: the one place that knows what the name of a transport means to a server.

QUIC and our own datagrams share a UDP port.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError

from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.server.listeners import QUIC, TCP, UDP

_BACKLOG = 1024  # the kernel lowers it to net.core.somaxconn
_FREE_PORT_ATTEMPTS = 10


@attrs.frozen
class OpenPort:
    """A socket that accepts sessions. It is stopped in two steps, the sessions end in between."""

    number: int
    stop_accepting: Callable[[], Any]
    close: Callable[[], Any]


def open_ports(
    reactor: Any,
    transports: Sequence[str],
    interface: str,
    port: int,
    factory: JetStreamServerFactory,
    datagrams: DatagramSettings,
) -> Sequence[OpenPort]:
    """Sockets for these transports, all on one port: for 0, one that is free for all.

    Raises `CannotListenError`.
    """
    for _ in range(_FREE_PORT_ATTEMPTS if port == 0 else 0):
        try:
            return _open_all(reactor, transports, interface, port, factory, datagrams)
        except CannotListenError:  # free for one transport, but not for another
            continue
    return _open_all(reactor, transports, interface, port, factory, datagrams)


def _open_all(
    reactor: Any,
    transports: Sequence[str],
    interface: str,
    port: int,
    factory: JetStreamServerFactory,
    datagrams: DatagramSettings,
) -> Sequence[OpenPort]:
    opened: list[OpenPort] = []
    over_udp = [name for name in transports if name in (UDP, QUIC)]
    try:
        if TCP in transports:
            listener = reactor.listenTCP(port, factory, backlog=_BACKLOG, interface=interface)
            port = listener.getHost().port
            opened.append(OpenPort(port, listener.stopListening, _nothing))
        if over_udp:
            opened.append(_open_udp(reactor, over_udp, interface, port, factory, datagrams))
    except BaseException:
        for one in opened:
            maybeDeferred(one.stop_accepting)
            maybeDeferred(one.close)
        raise
    return opened


def _open_udp(
    reactor: Any,
    transports: Sequence[str],
    interface: str,
    port: int,
    factory: JetStreamServerFactory,
    datagrams: DatagramSettings,
) -> OpenPort:
    from jetstreamproto.datagram import JetStreamDatagramProtocol  # TCP alone needs none of it
    from jetstreamproto.sockets.offload import listen_datagrams

    protocol = JetStreamDatagramProtocol(
        factory,
        udp=UDP in transports,
        quic=QUIC in transports,
        settings=datagrams,
        reactor=reactor,
    )
    bound = listen_datagrams(reactor, port, protocol, interface, gso=datagrams.gso)

    def close() -> Deferred[Any]:
        return protocol.stop().addCallback(lambda _: bound.stopListening())

    return OpenPort(bound.getHost().port, _nothing, close)


def _nothing() -> None:
    """UDP sockets are needed until the last session has ended, TCP's are not."""
