"""Opening a session: the one place that knows what the name of a transport means to a client."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError

from jetstreamproto.endpoints.target import AUTO, Target
from jetstreamproto.errors import ConfigurationError, HandshakeTimeout
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.server.listeners import QUIC, TCP, UDP
from jetstreamproto.session.session import Session


def open_session(reactor: Any, target: Target, timeout: float) -> Deferred[Session]:
    """A connected session with `target`, about `timeout` seconds from now at the latest.

    Fails with a `JetStreamError` or one of Twisted's connection errors.
    """
    return Deferred.fromCoroutine(_open(reactor, target, timeout))


async def _open(reactor: Any, target: Target, timeout: float) -> Session:
    factory = target.client_factory(reactor)
    if target.transport != AUTO:
        return await open_over(target.transport, reactor, target, factory, timeout)
    try:
        return await open_over(TCP, reactor, target, factory, timeout / 2)
    except (ConnectError, HandshakeTimeout) as over_tcp:
        try:
            return await open_over(UDP, reactor, target, factory, timeout / 2)
        except Exception:
            raise over_tcp from None


def open_over(
    transport: str,
    reactor: Any,
    target: Target,
    factory: JetStreamClientFactory,
    timeout: float,
) -> Deferred[Session]:
    """A connected session over the transport of that name."""
    if transport == TCP:
        return Deferred.fromCoroutine(_open_tcp(reactor, target, factory, timeout))
    if transport in (UDP, QUIC):
        from jetstreamproto.datagram import connect_quic, connect_udp  # not needed by TCP alone

        connect = connect_quic if transport == QUIC else connect_udp
        return connect(
            reactor, target.host, target.port, factory, timeout=timeout, settings=target.datagrams
        )
    raise ConfigurationError(f"no endpoint can use the transport {transport!r} yet")


async def _open_tcp(
    reactor: Any, target: Target, factory: JetStreamClientFactory, timeout: float
) -> Session:
    endpoint = HostnameEndpoint(reactor, target.host, target.port, timeout=timeout)
    protocol = await endpoint.connect(factory)
    assert isinstance(protocol, JetStreamProtocol)
    try:
        return await protocol.when_connected()
    except BaseException:
        protocol.session.abort()
        raise
