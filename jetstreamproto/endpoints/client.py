"""`JetStreamClientEndpoint`: makes connections, each a channel of a session that they share."""

from __future__ import annotations

from typing import Any

from twisted.internet import error as network
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from jetstreamproto.address import JetStreamAddress
from jetstreamproto.bytestream import ChannelTransport
from jetstreamproto.endpoints.pool import SessionPool, SharedSession, session_pool
from jetstreamproto.endpoints.target import Target
from jetstreamproto.errors import (
    ChannelReset,
    HandshakeTimeout,
    JetStreamError,
    NothingListens,
    PeerSilent,
    ServiceNotFound,
    SessionError,
)
from jetstreamproto.session.codes import ResetCode

STREAM = "stream"
"""The service that byte streams are offered as, unless they are given another name."""

DEFAULT_TIMEOUT = 10.0


@implementer(IStreamClientEndpoint)
class JetStreamClientEndpoint:
    """Connects to the byte streams that a server offers as `service`.

    A connection is a channel; those of endpoints with equal targets (see `Target`) are in one
    session. `timeout` is for all it takes to connect, in seconds.
    """

    def __init__(
        self,
        reactor: Any,
        target: Target,
        service: str = STREAM,
        timeout: float = DEFAULT_TIMEOUT,
        pool: SessionPool | None = None,
    ) -> None:
        self.target = target
        self.service = service
        self.timeout = timeout
        self._reactor = reactor
        self._pool = pool

    def __repr__(self) -> str:
        return f"<JetStreamClientEndpoint {self.target} {self.target.transport} {self.service!r}>"

    @property
    def pool(self) -> SessionPool:
        """The sessions there are."""
        return self._pool if self._pool is not None else session_pool(self._reactor)

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """A connection with the protocol that `factory` makes.

        Fails with one of Twisted's `ConnectError`s or a `DNSLookupError`; the `__cause__` is
        the `JetStreamError`, where that is what went wrong. With `ConnectingCancelledError` if it
        is cancelled, with `NoProtocol` if the factory makes none.
        """
        attempt = _Attempt(self, factory)
        connecting: Deferred[Any] = Deferred.fromCoroutine(attempt.run())
        timer = self._reactor.callLater(self.timeout, attempt.time_out, connecting)

        def settled(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        connecting.addBoth(settled)
        return connecting


class _Attempt:
    """One connection being made."""

    def __init__(self, endpoint: JetStreamClientEndpoint, factory: IProtocolFactory) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._protocol: IProtocol | None = None
        self._failure: BaseException | None = None  # of the factory
        self._late = False

    def time_out(self, connecting: Deferred[Any]) -> None:
        """It has taken too long."""
        self._late = True
        connecting.cancel()

    async def run(self) -> IProtocol:
        """The connected protocol."""
        self._factory.doStart()
        try:
            return await self._connect()
        except BaseException as error:
            self._factory.doStop()
            explained = self._explain(error)
            if explained is error:
                raise
            raise explained from error

    async def _connect(self) -> IProtocol:
        endpoint = self._endpoint
        pool = endpoint.pool
        shared = pool.lease(endpoint.target, endpoint.timeout)
        if shared.connected:
            try:
                return await self._open(shared)
            except (SessionError, ChannelReset) as error:
                # the session may have been at its end, which only the attempt has shown
                if isinstance(error, ChannelReset) and error.code != ResetCode.GOING_AWAY:
                    raise
                shared.forget()
            shared = pool.lease(endpoint.target, endpoint.timeout)
        return await self._open(shared)

    async def _open(self, shared: SharedSession) -> IProtocol:
        """The protocol on a new channel of a leased session, which is released in time."""
        transport = ChannelTransport(self._build, on_lost=self._factory.doStop)
        try:
            session = await shared.ready()
            try:
                # secret: what such connections carry may not be compressed unasked (CRIME)
                await session.open(self._endpoint.service, transport, secret=True)
            except JetStreamError:
                if self._failure is not None:
                    raise self._failure from None
                if self._protocol is None:
                    raise  # otherwise it was connected, and has let go of the connection already
        except BaseException:
            if self._late:
                shared.forget()  # its peer may be gone
            shared.release()
            raise
        transport.channel.when_closed().addBoth(lambda _: shared.release())
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        return protocol

    def _build(self, address: IAddress) -> IProtocol | None:
        try:
            self._protocol = self._factory.buildProtocol(address)
        except Exception as error:
            self._failure = error
        else:
            if self._protocol is None:
                self._failure = network.NoProtocol()
        return self._protocol

    def _explain(self, error: BaseException) -> BaseException:
        """What Twisted's users expect in place of `error`."""
        endpoint = self._endpoint
        target = endpoint.target
        if isinstance(error, CancelledError):
            if self._late:
                return network.TimeoutError(
                    string=f"no connection to {target} within {endpoint.timeout:g} s"
                )
            address = JetStreamAddress(target.host, target.port, target.transport, endpoint.service)
            return network.ConnectingCancelledError(address)
        if error is self._failure or not isinstance(error, JetStreamError):
            return error
        return _connect_error(error)(string=str(error))


def _connect_error(error: JetStreamError) -> type[network.ConnectError]:
    """The nearest of Twisted's errors."""
    if isinstance(error, NothingListens | ServiceNotFound):
        return network.ConnectionRefusedError
    if isinstance(error, HandshakeTimeout | PeerSilent):
        return network.TimeoutError
    return network.ConnectError
