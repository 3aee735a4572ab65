"""From the command line's options to a session with the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from twisted.internet import error as network
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.threads import deferToThread

from jetstreamproto.cli.failure import CannotConnect, ConnectTimeout, NameNotFound
from jetstreamproto.cli.options import QUIC, UDP, ConnectionOptions
from jetstreamproto.cli.output import note
from jetstreamproto.cli.run import run
from jetstreamproto.cli.target import Target
from jetstreamproto.cli.trust import (
    accepts,
    client_identity,
    credentials,
    on_terminal,
    own_identity,
    server_trust,
)
from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeTimeout,
    NothingListens,
    SessionCut,
    TrustError,
    UnknownHost,
)
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import KnownHosts, Trust
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings

T = TypeVar("T")

Work = Callable[[ReactorBase, Session], Coroutine[Deferred[Any], Any, T]]
"""What a command does in its session; the session is ended when it returns."""

_DRAIN_TIMEOUT = 3.0
"""What a command waits at most for the server's end, when its own work is done."""


def run_session(
    options: ConnectionOptions, work: Work[T], settings: SessionSettings = DEFAULT_SETTINGS
) -> T:
    """What `work(reactor, session)` returns, in a session as `options` say. Runs the reactor.

    Raises a `JetStreamError` (`CannotConnect`, `TrustError`, ...), or what `work` raises.
    """
    own = own_identity(options)
    trust = server_trust(options, own)
    factory = _factory(options, own, trust, settings)
    return run(lambda reactor: _use(reactor, options, factory, trust, work))


def _factory(
    options: ConnectionOptions, own: Identity | None, trust: Trust, settings: SessionSettings
) -> JetStreamClientFactory:
    identity, login = client_identity(options, own), credentials(options)
    settings = dataclasses.replace(
        settings, handshake_timeout=2 * options.timeout, drain_timeout=_DRAIN_TIMEOUT
    )
    try:
        return JetStreamClientFactory(
            trust,
            host=options.target.host,
            identity=identity,
            credentials=login,
            settings=settings,
        )
    except ConfigurationError as error:  # a file of --ca, --cert or --key that OpenSSL refuses
        raise click.UsageError(str(error)) from error


async def _use(
    reactor: ReactorBase,
    options: ConnectionOptions,
    factory: JetStreamClientFactory,
    trust: Trust,
    work: Work[T],
) -> T:
    try:
        session = await connect(reactor, options, factory)
    except UnknownHost as unknown:
        known = await _first_contact(options, trust, unknown)
        try:
            session = await connect(reactor, options, factory)
        finally:
            if unknown.fingerprint in known.known():
                note(f"{unknown.host} is known by {unknown.fingerprint} from now on")
    try:
        result = await work(reactor, session)
    except BaseException:
        session.abort()
        raise
    await session.close()
    return result


async def _first_contact(
    options: ConnectionOptions, trust: Trust, unknown: UnknownHost
) -> KnownHosts:
    """`trust`, which accepts the server from now on; raises a `TrustError` if it shall not.

    The server is written to the known hosts once it has proved that the key is its own.
    """
    if not isinstance(trust, KnownHosts):
        raise unknown
    if not options.trust_new:
        if not on_terminal():
            raise unknown
        if not await deferToThread(accepts, unknown):
            raise TrustError(f"{unknown.host} was not accepted")
    trust.accept(unknown.fingerprint)
    return trust


async def connect(
    reactor: ReactorBase, options: ConnectionOptions, factory: JetStreamClientFactory
) -> Session:
    """A connected session with the target, at most `timeout` seconds from now.

    Raises `CannotConnect`, or the `HandshakeError` or `SessionError` that came in between.
    """
    late = ConnectTimeout(f"no answer from {options.target} within {options.timeout:g} s")
    with _explained(options.target, late):
        if options.transport in (UDP, QUIC):
            return await _connect_datagrams(reactor, options, factory, late)
        return await _connect_tcp(reactor, options, factory, late)


async def _connect_tcp(
    reactor: ReactorBase,
    options: ConnectionOptions,
    factory: JetStreamClientFactory,
    late: ConnectTimeout,
) -> Session:
    target, timeout = options.target, options.timeout
    deadline = reactor.seconds() + timeout
    endpoint = HostnameEndpoint(reactor, target.host, target.port, timeout=2 * timeout)
    connecting: Deferred[Any] = endpoint.connect(factory)
    protocol = await in_time(reactor, connecting, timeout, late)
    assert isinstance(protocol, JetStreamProtocol)
    session = protocol.session
    stuck = HandshakeTimeout(f"{target} accepts connections, but no session within {timeout:g} s")
    try:
        left = max(0.0, deadline - reactor.seconds())
        return await in_time(reactor, protocol.when_connected(), left, stuck)
    except BaseException:
        session.abort()
        raise


async def _connect_datagrams(
    reactor: ReactorBase,
    options: ConnectionOptions,
    factory: JetStreamClientFactory,
    late: ConnectTimeout,
) -> Session:
    from jetstreamproto.datagram import connect_quic, connect_udp

    connect_over = connect_quic if options.transport == QUIC else connect_udp
    connecting = connect_over(
        reactor,
        options.target.host,
        options.target.port,
        factory,
        timeout=options.timeout,
        settings=options.datagram_settings(),
    )
    try:
        return await in_time(reactor, connecting, options.timeout, late)
    except SessionCut as error:  # it gave up before we did
        raise late from error


@contextmanager
def _explained(target: Target, late: ConnectTimeout) -> Iterator[None]:
    """Makes a `CannotConnect` that says what is wrong of the transports' errors."""
    try:
        yield
    except network.DNSLookupError as error:
        raise NameNotFound(f"the host name {target.host} has no address") from error
    except (network.ConnectionRefusedError, NothingListens) as error:
        raise CannotConnect(f"nothing listens at {target}") from error
    except (network.TimeoutError, network.TCPTimedOutError) as error:
        raise late from error
    except network.ConnectError as error:
        raise CannotConnect(f"cannot connect to {target}: {_reason(error)}") from error


def _reason(error: network.ConnectError) -> str:
    return str(error.osError) if error.osError is not None else str(error)


async def in_time(reactor: ReactorBase, waiting: Deferred[T], seconds: float, late: Exception) -> T:
    """The result of `waiting`; it is cancelled and `late` raised after `seconds`."""

    def timed_out(_result: object, _seconds: float) -> T:
        raise late

    waiting.addTimeout(seconds, reactor, timed_out)
    return await waiting
