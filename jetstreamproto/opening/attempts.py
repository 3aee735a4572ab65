"""One attempt: a session over one transport, with one IP address."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.opening.model import NEAR
from jetstreamproto.opening.racing import DroppedOut, in_time
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.reactors.profiled import profiled
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.profiles import profile_of


async def open_stream(
    reactor: Any,
    address: str,
    port: int,
    factory: JetStreamClientFactory,
    timeout: float,
    stuck: Exception,
    *,
    near: bool = False,
) -> Session:
    """A session over TCP. Raises `stuck` if there is a connection but no session in time.

    Otherwise it fails with one of Twisted's connection errors, or with what the handshake fails
    with; if `near`, with `DroppedOut` unless there is a connection within `NEAR` seconds.
    """
    deadline = reactor.seconds() + timeout
    endpoint = _endpoint(reactor, address, port, timeout, speaks_first=not near)
    if near:
        protocol = await _Near(reactor).connect(endpoint, factory)
    else:
        protocol = await endpoint.connect(factory)
    assert isinstance(protocol, JetStreamProtocol)
    left = max(0.0, deadline - reactor.seconds())
    return await _shake_hands(reactor, protocol.session, left, stuck)


async def open_datagrams(
    reactor: Any,
    address: str,
    port: int,
    factory: JetStreamClientFactory,
    timeout: float,
    late: Exception,
    settings: DatagramSettings,
    *,
    quic: bool,
) -> Session:
    """A session over our own datagrams, or over QUIC. Raises `late` if there is none in time.

    Otherwise it fails with what the handshake fails with, or with Twisted's `CannotListenError`.
    """
    from jetstreamproto.datagram import connect_datagrams  # not needed by TCP alone

    session = connect_datagrams(reactor, address, port, factory, settings, quic=quic)
    return await _shake_hands(reactor, session, timeout, late)


async def is_reachable(reactor: Any, address: str, port: int, timeout: float) -> bool:
    """Whether a TCP connection comes to be within `timeout` seconds. It is dropped at once."""
    endpoint = _endpoint(reactor, address, port, timeout, speaks_first=False)
    try:
        protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
    except ConnectError:
        return False
    protocol.transport.abortConnection()
    return True


def _endpoint(
    reactor: Any, address: str, port: int, timeout: float, *, speaks_first: bool
) -> IStreamClientEndpoint:
    kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
    # with TCP Fast Open a connection is there at once, which says nothing about the server
    ours = profiled(reactor, profile_of(reactor), speaks_first=speaks_first)
    endpoint: IStreamClientEndpoint = kind(ours, address, port, timeout=timeout)
    return endpoint


async def _shake_hands(reactor: Any, session: Session, seconds: float, late: Exception) -> Session:
    """`session`, once it is connected. It is dropped if that does not come to be."""
    try:
        return await in_time(reactor, session.when_connected(), seconds, late)
    except BaseException:
        session.abort()
        raise


class _Near:
    """Connects only to what is near."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._connecting: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._is_far = False

    async def connect(
        self, endpoint: IStreamClientEndpoint, factory: JetStreamClientFactory
    ) -> Any:
        """The connected protocol."""
        connecting: Deferred[Any] = endpoint.connect(factory)
        self._connecting = connecting
        self._timer = self._reactor.callLater(NEAR, self._time_up)
        try:
            return await connecting
        except (CancelledError, ConnectingCancelledError):
            if not self._is_far:
                raise
        finally:
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
        # the endpoint says so before it lets go of its socket, on which the server may answer yet
        await deferLater(self._reactor, 0)
        raise DroppedOut

    def _time_up(self) -> None:
        # a reactor that was busy looks at its sockets only after its timers
        self._timer = self._reactor.callLater(0, self._give_up)

    def _give_up(self) -> None:
        self._is_far = True
        assert self._connecting is not None
        self._connecting.cancel()
