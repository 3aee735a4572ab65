"""From the command line's options to a session with the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
from twisted.internet import error as network
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.threads import deferToThread

from jetstreamproto.cli.failure import CannotConnect, ConnectTimeout, NameNotFound
from jetstreamproto.cli.options import ConnectionOptions
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
from jetstreamproto.errors import ConfigurationError, HandshakeTimeout, TrustError, UnknownHost
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
        session = await connect(reactor, options.target, factory, options.timeout)
    except UnknownHost as unknown:
        await _first_contact(options, trust, unknown)
        session = await connect(reactor, options.target, factory, options.timeout)
    try:
        result = await work(reactor, session)
    except BaseException:
        session.abort()
        raise
    await session.close()
    return result


async def _first_contact(options: ConnectionOptions, trust: Trust, unknown: UnknownHost) -> None:
    """Returns once the server is among the known hosts; raises a `TrustError` if it shall not."""
    if not isinstance(trust, KnownHosts):
        raise unknown
    if not options.trust_new:
        if not on_terminal():
            raise unknown
        if not await deferToThread(accepts, unknown):
            raise TrustError(f"{unknown.host} was not accepted")
    trust.remember(unknown.fingerprint)
    note(f"{unknown.host} is known by {unknown.fingerprint} from now on")


async def connect(
    reactor: ReactorBase, target: Target, factory: JetStreamClientFactory, timeout: float
) -> Session:
    """A connected session with `target`, at most `timeout` seconds from now.

    Raises `CannotConnect`, or the `HandshakeError` or `SessionError` that came in between.
    """
    deadline = reactor.seconds() + timeout
    endpoint = HostnameEndpoint(reactor, target.host, target.port, timeout=2 * timeout)
    protocol = await _reach(reactor, endpoint.connect(factory), target, timeout)
    session = protocol.session
    late = HandshakeTimeout(f"{target} accepts connections, but no session within {timeout:g} s")
    try:
        left = max(0.0, deadline - reactor.seconds())
        return await in_time(reactor, protocol.when_connected(), left, late)
    except BaseException:
        session.abort()
        raise


async def _reach(
    reactor: ReactorBase, connecting: Deferred[Any], target: Target, timeout: float
) -> JetStreamProtocol:
    """The protocol of the connection being made, or a `CannotConnect` that says what is wrong."""
    late = ConnectTimeout(f"no answer from {target} within {timeout:g} s")
    try:
        protocol = await in_time(reactor, connecting, timeout, late)
    except network.DNSLookupError as error:
        raise NameNotFound(f"the host name {target.host} has no address") from error
    except network.ConnectionRefusedError as error:
        raise CannotConnect(f"nothing listens at {target}") from error
    except (network.TimeoutError, network.TCPTimedOutError) as error:
        raise late from error
    except network.ConnectError as error:
        raise CannotConnect(f"cannot connect to {target}: {_reason(error)}") from error
    assert isinstance(protocol, JetStreamProtocol)
    return protocol


def _reason(error: network.ConnectError) -> str:
    return str(error.osError) if error.osError is not None else str(error)


async def in_time(reactor: ReactorBase, waiting: Deferred[T], seconds: float, late: Exception) -> T:
    """The result of `waiting`; it is cancelled and `late` raised after `seconds`."""

    def timed_out(_result: object, _seconds: float) -> T:
        raise late

    waiting.addTimeout(seconds, reactor, timed_out)
    return await waiting
