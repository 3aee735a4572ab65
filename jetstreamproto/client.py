"""The client's side of a session: made once, or kept up for as long as a service runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import SessionClosed
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.opening.destination import Destination
from jetstreamproto.opening.model import AUTO, QUIC, UDP
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.reactors.profiled import profiled
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
from jetstreamproto.security.trust import Trust
from jetstreamproto.session.session import Session
from jetstreamproto.session.state import SessionState
from jetstreamproto.sockets.profiles import SocketProfile

_log = Logger()


def connect(
    reactor: Any,
    host: str,
    port: int,
    trust: Trust,
    *,
    timeout: float = 30,
    transport: str = AUTO,
    bulk: bool = False,
    datagrams: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
    profile: SocketProfile | str | None = None,
    **options: Any,
) -> Deferred[Session]:
    """A session with the server at `host` and `port`, over the transport that serves best.

    `transport` may be "tcp", "udp" or "quic" instead; `bulk` says that much is going to be moved
    (see `Destination`). `profile` is for the socket (see `profiled`); without one, the reactor's
    is taken. `options` are those of `JetStreamClientFactory`. Fails with a
    `JetStreamError`, or with Twisted's connection errors. Cancelling drops the attempt.
    """
    factory = JetStreamClientFactory(trust, host=host, reactor=reactor, **options)
    destination = Destination(
        reactor if profile is None else profiled(reactor, profile),
        host,
        port,
        transport=transport,
        bulk=bulk,
        timeout=timeout,
        datagrams=datagrams,
    )
    return destination.open(factory)


def connect_udp(
    reactor: Any,
    host: str,
    port: int,
    factory: JetStreamClientFactory,
    *,
    timeout: float = 10.0,
    settings: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
) -> Deferred[Session]:
    """A connected session with the server at `host` and `port` over UDP.

    Fails with Twisted's `DNSLookupError`, or with what the handshake failed with. The local port
    is closed some seconds after the session.
    """
    return Destination(
        reactor, host, port, transport=UDP, timeout=timeout, datagrams=settings
    ).open(factory)


def connect_quic(
    reactor: Any,
    host: str,
    port: int,
    factory: JetStreamClientFactory,
    *,
    timeout: float = 10.0,
    settings: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
) -> Deferred[Session]:
    """As `connect_udp`, over QUIC."""
    return Destination(
        reactor, host, port, transport=QUIC, timeout=timeout, datagrams=settings
    ).open(factory)


async def _connect(endpoint: IStreamClientEndpoint, factory: JetStreamClientFactory) -> Session:
    protocol = await endpoint.connect(factory)
    assert isinstance(protocol, JetStreamProtocol)
    try:
        return await protocol.when_connected()
    except CancelledError:
        protocol.session.abort()
        raise


def _start(endpoint: Any, factory: JetStreamClientFactory) -> Deferred[Session]:
    return Deferred.fromCoroutine(_connect(endpoint, factory))


class ReconnectingClient(Service):
    """Keeps a session with a server while it runs, as Twisted's `ClientService` does.

    The server is a `Destination`, or an endpoint whose connections are TCP's or like them. A lost
    session, or one that could not be made, is tried again after a wait that grows from one second
    to one minute, with jitter (`retry_policy`, see `backoffPolicy`). `prepare` is called with every
    new session before anybody gets it, to open channels or subscribe; if it fails, or its Deferred
    does, that session counts as not made.

    Without a `factory`, `endpoint` is a function that returns a Deferred of a connected session,
    over whichever transport.
    """

    def __init__(
        self,
        endpoint: Destination | IStreamClientEndpoint | Callable[[], Deferred[Session]],
        factory: JetStreamClientFactory | None = None,
        prepare: Callable[[Session], Deferred[Any] | None] | None = None,
        *,
        retry_policy: Callable[[int], float] | None = None,
        clock: IReactorTime | None = None,
    ) -> None:
        make: Any = endpoint
        if isinstance(endpoint, Destination):
            assert factory is not None
            make = partial(endpoint.open, factory)
        elif factory is not None:
            make = partial(_start, endpoint, factory)
        self._clock = clock
        self._connections = ClientService(
            _SessionEndpoint(make, prepare),
            Factory.forProtocol(_SessionHolder),
            retryPolicy=retry_policy or backoffPolicy(),
            clock=clock,
        )

    def startService(self) -> None:
        super().startService()
        self._connections.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._connections.stopService()

    def when_connected(self, fail_after: int | None = None) -> Deferred[Session]:
        """The session there is, or the next one; one that is closing does not count.

        Fails with what went wrong after `fail_after` attempts in a row (None: never), or with
        `CancelledError` when the service is stopped.
        """
        return Deferred.fromCoroutine(self._connected(fail_after))

    async def _connected(self, fail_after: int | None) -> Session:
        while True:
            session = await self._next_session(fail_after)
            if session.accepts_channels:
                return session
            await session.when_closed()
            # Those who hear of the end of a session before the service does may ask for the next.
            await deferLater(self._clock_in_use(), 0)

    async def _next_session(self, fail_after: int | None) -> Session:
        """What the service has, or gets. Whoever waits may call the service again at once.

        `ClientService` tells its news from within, where it must not be called (it is a state
        machine in the middle of a step), so what was waited for is handed on a turn later.
        """
        waiting: Deferred[Any] = self._connections.whenConnected(failAfterFailures=fail_after)
        there_already = waiting.called
        try:
            holder = await waiting
        except CancelledError:
            raise  # it is all over
        except Exception:
            await deferLater(self._clock_in_use(), 0)
            raise
        if not there_already:
            await deferLater(self._clock_in_use(), 0)
        session: Session = holder.session
        return session

    def _clock_in_use(self) -> IReactorTime:
        if self._clock is None:
            from twisted.internet import reactor

            self._clock = cast(IReactorTime, reactor)
        return self._clock


class _SessionHolder(Protocol):
    """A session, as `ClientService` knows connections: lost when the session is closed."""

    transport: _SessionTransport  # type: ignore[assignment]

    @property
    def session(self) -> Session:
        return self.transport.session


@implementer(IStreamClientEndpoint)
class _SessionEndpoint:
    """Connects to sessions that are ready for use, where an endpoint connects to sockets.

    So a handshake that fails is, for `ClientService`, a connection that fails.
    """

    def __init__(
        self,
        make: Callable[[], Deferred[Session]],
        prepare: Callable[[Session], Deferred[Any] | None] | None,
    ) -> None:
        self._make = make
        self._prepare = prepare

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        try:
            session = await self._make()
        except Exception as error:
            self._tell("no session", error)
            raise
        try:
            prepared = self._prepare(session) if self._prepare is not None else None
            if prepared is not None:
                await prepared
        except BaseException:
            session.abort()
            raise
        if session.state is SessionState.CLOSED:
            raise session.close_reason or SessionClosed("the session ended at once")
        holder: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        holder.makeConnection(_SessionTransport(session))
        session.when_closed().addCallback(lambda _: self._lost(session, holder))
        return holder

    def _lost(self, session: Session, holder: Any) -> None:
        if session.close_reason is not None:
            self._tell(f"the session over {session.transport} is lost", session.close_reason)
        holder.connectionLost(Failure(session.close_reason or ConnectionDone()))

    def _tell(self, what: str, error: Exception) -> None:
        if not isinstance(error, CancelledError):
            why = str(error) or type(error).__name__
            _log.info("{what}: {why}; trying again", what=what, why=why)


class _SessionTransport:
    """What `ClientService` may ask of a session: to end."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def loseConnection(self) -> None:
        self.session.close()
