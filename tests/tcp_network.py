"""TCP in memory and in virtual time: a reactor on whose one host programs connect and listen.

Bytes take no time. What a paused reader has not taken stays with the writer, as does its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    UserError,
)
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.streams import HalfNotes, Notes


def address(host: str, port: int) -> Any:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


class MemoryTcp:
    """One end of a connection, as Twisted's TCP transports are."""

    disconnecting = False
    bufferSize = 1 << 16

    def __init__(self, clock: Any, host: Any, peer: Any) -> None:
        self.protocol: Any = None
        self.other: MemoryTcp
        self.paused = False
        self.gone = False
        self.reset = False
        """Whether it was broken off by this end."""
        self.waiting = 0
        self.most_waiting = 0
        self._clock = clock
        self._addresses = (host, peer)
        self._queue: deque[bytes] = deque()
        self._producer: Any = None
        self._streaming = False
        self._ending = self._end_sent = False

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        if not self.gone and not self._ending and data:
            self._queue.append(data)
            self.waiting += len(data)
            self.most_waiting = max(self.most_waiting, self.waiting)
            self._later()

    def loseWriteConnection(self) -> None:
        self._ending = True
        self._later()

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = self._ending = True
            self._later()

    def abortConnection(self) -> None:
        if not self.gone:
            self.reset = True
            self._queue.clear()
            self._clock.callLater(0, self.lose, ConnectionAborted())
            self._clock.callLater(0, self.other.lose, ConnectionLost())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self._producer is None
        self._producer, self._streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.other._later()

    def setTcpNoDelay(self, enabled: bool) -> None:
        assert enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        assert enabled

    def getHost(self) -> Any:
        return self._addresses[0]

    def getPeer(self) -> Any:
        return self._addresses[1]

    def lose(self, reason: Exception) -> None:
        if not self.gone:
            self.gone = True
            self.protocol.connectionLost(Failure(reason))

    def _later(self) -> None:
        self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        other = self.other
        while self._queue and not self.gone and not other.paused:
            data = self._queue.popleft()
            self.waiting -= len(data)
            if other.gone:
                self.lose(ConnectionLost())
                return
            other.protocol.dataReceived(data)
        if self._queue or self.gone or (other.paused and not other.gone):
            return
        if self._producer is not None and not self._streaming:
            self._producer.resumeProducing()
            if self._queue:
                return
        if self._ending and not self._end_sent:
            self._end_sent = True
            other._peer_ended()
            if not self.disconnecting:
                self.protocol.writeConnectionLost()
        if self.disconnecting:
            self.lose(ConnectionDone())

    def _peer_ended(self) -> None:
        if self.gone:
            return
        if IHalfCloseableProtocol(self.protocol, None) is not None:
            self.protocol.readConnectionLost()
        else:
            self.lose(ConnectionDone())
            if not self._end_sent:
                self._end_sent = True
                self.other._peer_ended()


class _Port:
    def __init__(self, network: TcpNetwork, host: Any, factory: Any) -> None:
        self.factory = factory
        self._network = network
        self._host = host

    def getHost(self) -> Any:
        return self._host

    def stopListening(self) -> None:
        self._network.ports.pop((self._host.host, self._host.port), None)


class _Connector:
    def __init__(self, network: TcpNetwork, destination: Any, factory: ClientFactory) -> None:
        self.stopped = False
        self._network = network
        self._destination = destination
        self._factory = factory

    def getDestination(self) -> Any:
        return self._destination

    def stopConnecting(self) -> None:
        self.stopped = True
        self.fail(UserError())

    def fail(self, error: Exception) -> None:
        self._factory.clientConnectionFailed(self, Failure(error))  # type: ignore[arg-type]

    def connect(self) -> None:
        network, there = self._network, self._destination
        if self.stopped:
            return
        error = network.errors.get(there.host)
        if error is not None:
            self.fail(error)
            return
        if there.host in network.silent:
            return
        port = network.ports.get((there.host, there.port))
        if port is None:
            self.fail(ConnectionRefusedError())
            return
        network.join(self._factory, port.factory, there)


class TcpNetwork:
    """A reactor, as far as TCP and time go. `connects` are the addresses that were tried."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.callLater = clock.callLater
        self.seconds = clock.seconds
        self.ports: dict[tuple[str, int], _Port] = {}
        self.errors: dict[str, ConnectError] = {}
        """What connecting to a host fails with."""
        self.silent: set[str] = set()
        self.connects: list[tuple[str, int]] = []
        self.names: dict[str, list[str]] = {}
        self.lookups: list[str] = []
        self._number = 40000

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> _Connector:
        self.connects.append((host, port))
        connector = _Connector(self, address(host, port), factory)
        factory.doStart()
        factory.startedConnecting(connector)
        self.callLater(0, connector.connect)
        return connector

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> _Port:
        if port == 0:
            self._number += 1
            port = self._number
        if (interface, port) in self.ports:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        self.ports[interface, port] = _Port(self, address(interface, port), factory)
        return self.ports[interface, port]

    def join(self, client: Any, server: Any, there: Any) -> None:
        self._number += 1
        here = address("::1" if ":" in there.host else "127.0.0.1", self._number)
        near, far = MemoryTcp(self, here, there), MemoryTcp(self, there, here)
        near.other, far.other = far, near
        near.protocol, far.protocol = client.buildProtocol(there), server.buildProtocol(here)
        far.protocol.makeConnection(far)
        near.protocol.makeConnection(near)

    # --- what tests do ----------------------------------------------------------------------

    def serve(
        self, port: int, make: Callable[[], Notes] = HalfNotes, host: str = "127.0.0.1"
    ) -> list[Any]:
        """A program that listens; the protocols of its connections."""
        made: list[Any] = []

        class Server(ClientFactory):
            def buildProtocol(self, addr: Any) -> Notes:
                made.append(make())
                return made[-1]

        self.listenTCP(port, Server(), interface=host)
        return made

    def program(
        self, port: int, make: Callable[[], Notes] = HalfNotes, host: str = "127.0.0.1"
    ) -> Any:
        """A program that connects to a port at which something listens."""
        made = make()
        factory = ClientFactory()
        factory.buildProtocol = lambda addr: made  # type: ignore[method-assign, assignment]
        self.join(factory, self.ports[host, port].factory, address(host, port))
        return made

    async def resolve(self, _reactor: Any, name: str) -> list[str]:
        """What the tunnel looks names up with."""
        from twisted.internet.error import DNSLookupError

        self.lookups.append(name)
        if name not in self.names:
            raise DNSLookupError(name)
        return self.names[name]
