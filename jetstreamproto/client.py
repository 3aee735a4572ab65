"""The client's side of a connection: made once, or kept up for as long as a service runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from jetstreamproto.errors import SessionClosed
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.security.trust import Trust
from jetstreamproto.session.session import Session


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
        self._prepare = prepare
        self._session: Session | None = None
        self._connections = ClientService(
            endpoint,
            factory,
            retryPolicy=retry_policy or backoffPolicy(),
            clock=clock,
            prepareConnection=self._prepare_connection,
        )

    def startService(self) -> None:
        super().startService()
        self._connections.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def when_connected(self, fail_after: int | None = None) -> Deferred[Session]:
        """The session there is, or the next one.

        Fails with what went wrong after `fail_after` attempts in a row (None: never), or with
        `CancelledError` when the service is stopped.
        """
        return Deferred.fromCoroutine(self._connected(fail_after))

    async def _connected(self, fail_after: int | None) -> Session:
        while True:
            await self._connections.whenConnected(failAfterFailures=fail_after)
            session = self._session
            if session is not None and session.accepts_channels:
                return session
            if not self.running:
                raise SessionClosed("the client was stopped")
            if session is not None:
                await session.when_closed()

    def _prepare_connection(self, protocol: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._introduce(protocol))

    async def _introduce(self, protocol: JetStreamProtocol) -> None:
        session = await protocol.when_connected()
        try:
            prepared = self._prepare(session) if self._prepare is not None else None
            if prepared is not None:
                await prepared
        except Exception:
            session.abort()
            raise
        self._session = session

    async def _stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._connections.stopService()
