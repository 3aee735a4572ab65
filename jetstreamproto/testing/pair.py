"""Two real sessions joined in memory, under a clock that only moves when the test moves it.

    pair = SessionPair(services={"echo": Echo})
    inbox = pair.run(pair.client.open("echo"))
    inbox.channel.send(b"hello")
    assert pair.run(inbox.get()) == b"hello"

Handshake, keys and records are the real ones; only the sockets are not. Bytes arrive in order
after `latency` seconds of virtual time, at most `chop` of them at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory, Service
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings

T = TypeVar("T")

_STEPS = 100_000
_ROUNDING = 1e-9  # seconds


@implementer(ITransport)
class MemoryTransport:
    """One end of a connection in memory, with the parts of `ITCPTransport` that a link uses."""

    disconnecting = False

    def __init__(self, pair: SessionPair, port: int, peer_port: int) -> None:
        self.sent = 0
        """Bytes that this end has written."""
        self._pair = pair
        self._addresses = tuple(IPv4Address("TCP", "127.0.0.1", p) for p in (port, peer_port))
        self._protocol: Protocol
        self._other: MemoryTransport
        self._on_the_way: deque[tuple[float, bytes]] = deque()  # when it arrives, and what
        self._producer: IProducer | None = None
        self._connected = True
        self._paused = False

    def connect(self, protocol: Protocol, other: MemoryTransport) -> None:
        """Give this end its protocol and its other end."""
        self._protocol, self._other = protocol, other

    def write(self, data: bytes) -> None:
        if data and self._connected and not self.disconnecting:
            self.sent += len(data)
            clock = self._pair.clock
            self._on_the_way.append((clock.seconds() + self._pair.latency, data))
            clock.callLater(self._pair.latency, self._deliver)
            clock.callLater(0, self._written)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self._connected and not self.disconnecting:
            self.disconnecting = True
            self._pair.clock.callLater(self._pair.latency, self._finish)

    def abortConnection(self) -> None:
        if self._connected:
            self._on_the_way.clear()
            self._pair.clock.callLater(0, self.lose, ConnectionAborted())
            self._pair.clock.callLater(self._pair.latency, self._other.lose, ConnectionLost())

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = producer
        if not streaming:
            producer.resumeProducing()  # type: ignore[attr-defined]

    def unregisterProducer(self) -> None:
        self._producer = None

    def getPeer(self) -> IAddress:
        return self._addresses[1]

    def getHost(self) -> IAddress:
        return self._addresses[0]

    def pause(self) -> None:
        """Stop taking bytes off this end, as a peer does that has stopped reading."""
        self._paused = True

    def resume(self) -> None:
        """Take bytes again."""
        self._paused = False
        self._pair.clock.callLater(0, self._deliver)
        self._pair.clock.callLater(0, self._written)

    def lose(self, reason: Exception) -> None:
        """The connection is gone for this end."""
        if self._connected:
            self._connected = False
            self._on_the_way.clear()
            self._protocol.connectionLost(Failure(reason))

    def _written(self) -> None:
        """The line has taken what was written; while it is paused it takes nothing."""
        if self._connected and not self._paused and self._producer is not None:
            self._producer.resumeProducing()  # type: ignore[attr-defined]

    def _deliver(self) -> None:
        """Hand over what has arrived by now."""
        now = self._pair.clock.seconds()
        while self._on_the_way and not self._paused and self._on_the_way[0][0] <= now + _ROUNDING:
            _, data = self._on_the_way.popleft()
            step = self._pair.chop or len(data)
            for start in range(0, len(data), step):
                if self._other._connected:
                    self._other._protocol.dataReceived(data[start : start + step])

    def _finish(self) -> None:
        self._deliver()
        if self._on_the_way:
            self._pair.clock.callLater(max(self._pair.latency, 0.001), self._finish)
            return
        self.lose(ConnectionDone())
        self._pair.clock.callLater(self._pair.latency, self._other.lose, ConnectionDone())


class SessionPair:
    """A client's and a server's session with each other, connected unless `connect=False`.

    `services` are the server's, `client_services` the client's; further settings go to the
    factories. `clock` is a `twisted.internet.task.Clock`.
    """

    def __init__(
        self,
        services: Mapping[str, Service] | None = None,
        client_services: Mapping[str, Service] | None = None,
        *,
        settings: SessionSettings = DEFAULT_SETTINGS,
        client_settings: SessionSettings | None = None,
        latency: float = 0.0,
        chop: int = 0,
        clock: Clock | None = None,
        identity: Identity | None = None,
        connect: bool = True,
        server_options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.latency = latency
        self.chop = chop
        identity = identity or Identity.create(datetime.now(UTC))
        self.server_factory = JetStreamServerFactory(
            identity, services, settings=settings, reactor=self.clock, **(server_options or {})
        )
        options: dict[str, Any] = {"trust": PinnedKeys([identity.fingerprint])}
        options.update(client_options or {})
        self.client_factory = JetStreamClientFactory(
            services=client_services,
            settings=client_settings or settings,
            reactor=self.clock,
            **options,
        )
        self.client_transport = MemoryTransport(self, 50000, 9000)
        self.server_transport = MemoryTransport(self, 9000, 50000)
        client_protocol = self.client_factory.buildProtocol(self.client_transport.getPeer())
        server_protocol = self.server_factory.buildProtocol(self.server_transport.getPeer())
        self.client_transport.connect(client_protocol, self.server_transport)
        self.server_transport.connect(server_protocol, self.client_transport)
        self.client: Session = client_protocol.session
        self.server: Session = server_protocol.session  # type: ignore[attr-defined]
        server_protocol.makeConnection(self.server_transport)
        client_protocol.makeConnection(self.client_transport)
        if connect:
            self.run(self.client.when_connected())
            self.run(self.server.when_connected())

    def run(self, deferred: Deferred[T]) -> T:
        """Move the clock from event to event until `deferred` fires; its result or exception.

        Raises `AssertionError` when nothing is left to happen and it has not fired.
        """
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.run_until(lambda: bool(results))
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Move the clock from event to event until `condition()` holds."""
        for _ in range(_STEPS):
            if condition():
                return
            calls = self.clock.getDelayedCalls()
            if not calls:
                break
            self.clock.advance(max(0.0, calls[0].getTime() - self.clock.seconds()))
        raise AssertionError("nothing happens any more, and what was waited for has not happened")

    def advance(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass, with everything that happens in them."""
        end = self.clock.seconds() + seconds
        while calls := self.clock.getDelayedCalls():
            if calls[0].getTime() > end:
                break
            self.clock.advance(max(0.0, calls[0].getTime() - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def cut(self) -> None:
        """Break the connection, as when a cable is pulled and both ends notice."""
        self.client_transport.lose(ConnectionLost())
        self.server_transport.lose(ConnectionLost())
