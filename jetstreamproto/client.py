"""The client's side of a connection: made once, or kept up for as long as a service runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import SessionClosed
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.security.trust import Trust
from jetstreamproto.session.session import Session
from jetstreamproto.session.state import SessionState


def connect(
    reactor: Any, host: str, port: int, trust: Trust, *, timeout: float = 30, **options: Any
) -> Deferred[Session]:
    """A session with the server at `host` and `port` over TCP.

    `options` are those of `JetStreamClientFactory`; `timeout`, in seconds, is for the TCP
    connection, and the handshake has the deadline of the settings. Fails with a
    `HandshakeError`, or with Twisted's connection errors. Cancelling drops the attempt.
    """
    factory = JetStreamClientFactory(trust, host=host, reactor=reactor, **options)
    endpoint = HostnameEndpoint(reactor, host, port, timeout=timeout)
    return Deferred.fromCoroutine(_connect(endpoint, factory))


async def _connect(endpoint: IStreamClientEndpoint, factory: JetStreamClientFactory) -> Session:
    protocol = await endpoint.connect(factory)
    assert isinstance(protocol, JetStreamProtocol)
    try:
        return await protocol.when_connected()
    except CancelledError:
        protocol.session.abort()
        raise


class ReconnectingClient(Service):
    """Keeps a session with a server while it runs, as Twisted's `ClientService` does.

    A lost session, or one that could not be made, is tried again after a wait that grows from
    one second to one minute, with jitter (`retry_policy`, see `backoffPolicy`). `prepare` is
    called with every new session before anybody gets it, to open channels or subscribe; if it
    fails, or its Deferred does, that session counts as not made.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        factory: JetStreamClientFactory,
        prepare: Callable[[Session], Deferred[Any] | None] | None = None,
        *,
        retry_policy: Callable[[int], float] | None = None,
        clock: IReactorTime | None = None,
    ) -> None:
        self._connections = ClientService(
            _SessionEndpoint(endpoint, factory, prepare),
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
            holder: Any = await self._connections.whenConnected(failAfterFailures=fail_after)
            session: Session = holder.session
            if session.accepts_channels:
                return session
            await session.when_closed()


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
        endpoint: IStreamClientEndpoint,
        factory: JetStreamClientFactory,
        prepare: Callable[[Session], Deferred[Any] | None] | None,
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._prepare = prepare

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        session = await _connect(self._endpoint, self._factory)
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
        session.when_closed().addCallback(
            lambda _: holder.connectionLost(Failure(session.close_reason or ConnectionDone()))
        )
        return holder


class _SessionTransport:
    """What `ClientService` may ask of a session: to end."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def loseConnection(self) -> None:
        self.session.close()
