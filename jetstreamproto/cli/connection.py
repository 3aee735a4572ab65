"""From the command line's options to a session with the server."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from twisted.internet import error as network
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from jetstreamproto.cli.failure import CannotConnect, ConnectTimeout, NameNotFound, clean
from jetstreamproto.cli.options import AUTO, ConnectionOptions
from jetstreamproto.cli.output import note, reached
from jetstreamproto.cli.run import run
from jetstreamproto.cli.target import Target
from jetstreamproto.cli.trust import (
    accepts,
    client_identity,
    credentials,
    on_terminal,
    own_identity,
    server_trust,
    state_dir,
)
from jetstreamproto.errors import (
    ConfigurationError,
    NothingListens,
    TrustError,
    UnknownHost,
)
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.opening.destination import Destination
from jetstreamproto.opening.model import Memory
from jetstreamproto.opening.racing import in_time
from jetstreamproto.opening.store import TRANSPORTS_FILE, open_memory
from jetstreamproto.reactors.profiled import profiled
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import KnownHosts, Trust
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings

T = TypeVar("T")

__all__ = ["connect", "in_time", "route", "run_session", "run_sessions"]

Work = Callable[[ReactorBase, Session], Coroutine[Deferred[Any], Any, T]]
"""What a command does in its session; the session is ended when it returns."""

LongWork = Callable[
    [ReactorBase, JetStreamClientFactory, Callable[[], Deferred[Session]]],
    Coroutine[Deferred[Any], Any, T],
]
"""What a command does that makes its sessions itself."""

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


def run_sessions(
    options: ConnectionOptions, work: LongWork[T], settings: SessionSettings = DEFAULT_SETTINGS
) -> T:
    """What `work(reactor, factory, connect)` returns. Runs the reactor.

    Every call of `connect()` makes another session as `options` say, and `factory` is what they
    share. Both are up to `work`, which ends what it has begun.
    """
    own = own_identity(options)
    trust = server_trust(options, own)
    factory = _factory(options, own, trust, settings)

    def start(reactor: ReactorBase) -> Coroutine[Deferred[Any], Any, T]:
        return work(
            reactor,
            factory,
            lambda: Deferred.fromCoroutine(_meet(reactor, options, factory, trust)),
        )

    return run(start)


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
    session = await _meet(reactor, options, factory, trust)
    try:
        result = await work(reactor, session)
    except BaseException:
        session.abort()
        raise
    await session.close()
    return result


async def _meet(
    reactor: ReactorBase,
    options: ConnectionOptions,
    factory: JetStreamClientFactory,
    trust: Trust,
) -> Session:
    """A session with the target, which may be unknown so far."""
    try:
        return await connect(reactor, options, factory)
    except UnknownHost as unknown:
        known = await _first_contact(options, trust, unknown)
        try:
            return await connect(reactor, options, factory)
        finally:
            if unknown.fingerprint in known.known():
                note(f"{unknown.host} is known by {unknown.fingerprint} from now on")


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

    Says so on stderr if it is not over the transport that should serve best. Raises
    `CannotConnect`, or the `HandshakeError` or `SessionError` that came in between.
    """
    destination = Destination(
        profiled(reactor, options.profile),
        options.target.host,
        options.target.port,
        transport=options.transport,
        bulk=options.bulk,
        timeout=options.timeout,
        datagrams=options.datagram_settings(),
        memory=_memory(state_dir(options)) if options.transport == AUTO else None,
    )
    late = ConnectTimeout(f"no answer from {options.target} within {options.timeout:g} s")
    with _explained(options.target, late):
        session = await destination.open(factory)
    reached(route(session))
    if session.fallback is not None:
        note(f"over {session.transport}: {clean(session.fallback)}")
    return session


@functools.cache
def _memory(folder: Path) -> Memory:
    """What has been learnt of servers, also by runs before this one."""
    return open_memory(folder / TRANSPORTS_FILE, time.time())


def route(session: Session) -> dict[str, str]:
    """How the server is reached, for `--json`: `transport`, and `fallback` if it is one."""
    found = {"transport": session.transport}
    if session.fallback is not None:
        found["fallback"] = clean(session.fallback)
    return found


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
