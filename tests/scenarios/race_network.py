"""A client and a server in virtual time, with TCP, UDP and QUIC, each of which can be broken.

UDP goes over a `SimulatedNetwork`, TCP in memory. What is left behind can be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError, TimeoutError, UserError
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IReactorUDP
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.datagram import JetStreamDatagramProtocol
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.opening.destination import Destination
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import LinkOptions, SimulatedNetwork
from jetstreamproto.testing.pair import MemoryTransport
from jetstreamproto.testing.simnet import Datagram
from tests.doubles import IDENTITY, QuickClock
from tests.scenarios.udp_pairs import UdpTestCase

T = TypeVar("T")

CLIENT, SERVER, PORT = "10.0.0.1", "10.0.0.2", 9000
NAME = "server.example"
SETTINGS = SessionSettings(heartbeat=2, idle_timeout=6, drain_timeout=5)


class Wire(MemoryTransport):
    """One end of a TCP connection, of which either side learns only what comes through."""

    silent = False
    """Whatever is sent vanishes, and the connection stays."""

    def _deliver(self) -> None:
        if not self.silent:
            super()._deliver()


class Connector:
    """A connection being made, as `connectTCP` returns it."""

    def __init__(self, reactor: Reactor, address: str, factory: Any, timeout: float) -> None:
        self._factory = factory
        self._reactor = reactor
        self._address = address
        self._wire: Wire | None = None
        tcp = reactor.network.tcp
        clock = reactor.network.clock
        reactor.connecting.append(self)
        if address != SERVER or tcp == "silent":
            self._timer = clock.callLater(timeout, self._fail, TimeoutError())
        elif tcp == "refused" or not reactor.network.up:
            self._timer = clock.callLater(2 * reactor.network.latency, self._refused)
        else:
            self._timer = clock.callLater(2 * reactor.network.latency, self._connected)
        factory.doStart()
        factory.startedConnecting(self)

    def stopConnecting(self) -> None:
        self._timer.cancel()
        self._fail(UserError())

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", self._address, PORT)

    def _refused(self) -> None:
        self._fail(ConnectionRefusedError())

    def _fail(self, error: Exception) -> None:
        self._reactor.connecting.remove(self)
        self._factory.clientConnectionFailed(self, Failure(error))
        self._factory.doStop()

    def _connected(self) -> None:
        self._reactor.connecting.remove(self)
        self._reactor.network.join(self._factory, self._address)


@implementer(IReactorTime, IReactorUDP, IReactorTCP)
class Reactor:
    """The client's: time and UDP of a simulated host, TCP in memory, names by a table."""

    def __init__(self, network: RaceNetwork) -> None:
        self.network = network
        self.host = network.net.host(CLIENT)
        self.connecting: list[Connector] = []
        self.names: dict[str, list[str]] = {NAME: [SERVER], SERVER: [SERVER]}
        self.resolves = True
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Connector:
        return Connector(self, host, factory, timeout)

    def resolveHostName(self, receiver: Any, name: str, *_: Any, **__: Any) -> None:
        receiver.resolutionBegan(None)
        if not self.resolves:
            return
        for address in self.names.get(name, ()):
            receiver.addressResolved(IPv4Address("TCP", address, 0))
        receiver.resolutionComplete()


class RaceNetwork:
    """`latency` is of either direction. `udp` and `quic` say what the server has."""

    def __init__(
        self,
        latency: float = 0.02,
        *,
        udp: bool = True,
        quic: bool = True,
        seed: int = 0,
        settings: SessionSettings = SETTINGS,
    ) -> None:
        self.net = SimulatedNetwork(QuickClock(), seed)
        self.clock = self.net.clock
        self.latency = latency
        self.chop = 0  # as of a `SessionPair`
        self.net.host(SERVER)  # which refuses what nothing listens to
        self.net.join(CLIENT, SERVER, LinkOptions(delay=latency))
        self.net.tap = self._passes
        self.tcp = "up"
        self.up = True
        self.udp_filtered = self.quic_filtered = False
        self.wires: list[Wire] = []
        self.first_sent: dict[str, float] = {}
        self.reactor = Reactor(self)
        self.server = self._server_factory(settings)
        self._has_udp, self._has_quic = udp, quic
        self._port: Any = None
        self._protocol: Any = None
        self._settings = settings
        if udp or quic:
            self._listen()

    def _server_factory(self, settings: SessionSettings) -> JetStreamServerFactory:
        return JetStreamServerFactory(
            IDENTITY, {"echo": Echo}, settings=settings, reactor=self.clock
        )

    def _listen(self) -> None:
        host = self.net.host(SERVER)
        self._protocol = JetStreamDatagramProtocol(
            self.server, udp=self._has_udp, quic=self._has_quic, reactor=host
        )
        self._port = self.net.listen_udp(self._protocol, host, PORT, batches=True)

    # --- what may go wrong -----------------------------------------------------------------

    def _passes(self, datagram: Datagram) -> bool:
        name = "quic" if datagram.data[0] & 0x40 else "udp"
        self.first_sent.setdefault(name, self.clock.seconds())
        return not (self.quic_filtered if name == "quic" else self.udp_filtered)

    def filter_udp(self) -> None:
        """Whatever goes over UDP vanishes from now on."""
        self.udp_filtered = self.quic_filtered = True

    def crash(self) -> None:
        """The server is gone, without a word over UDP; TCP connections are reset."""
        self.up = False
        if self._port is not None:
            for link in self._protocol._all_links:
                link.forget()
            self._port.stopListening()
            self._port = None
        for wire in self.wires:
            wire.lose(ConnectionLost())

    def restart(self) -> None:
        """The server is there again, and knows nobody."""
        self.up = True
        self.server = self._server_factory(self._settings)
        if self._has_udp or self._has_quic:
            self._listen()

    def join(self, factory: Any, address: str) -> None:
        """Connect a client's protocol with one of the server."""
        wires = Wire(self, 50000, PORT), Wire(self, PORT, 50000)  # type: ignore[arg-type]
        near, far = wires
        client = factory.buildProtocol(IPv4Address("TCP", address, PORT))
        server = self.server.buildProtocol(near.getHost())
        near.connect(client, far)
        far.connect(server, near)  # type: ignore[arg-type]
        self.wires += wires
        server.makeConnection(far)  # type: ignore[union-attr]
        client.makeConnection(near)

    # --- the client ------------------------------------------------------------------------

    def factory(self, fingerprint: str = IDENTITY.fingerprint) -> JetStreamClientFactory:
        return JetStreamClientFactory(
            PinnedKeys([fingerprint]), settings=self._settings, reactor=self.clock
        )

    def destination(self, host: str = NAME, **options: Any) -> Destination:
        return Destination(self.reactor, host, PORT, **options)

    def open(self, factory: Any = None, **options: Any) -> Deferred[Session]:
        return self.destination(**options).open(factory or self.factory())

    def connect(self, factory: Any = None, **options: Any) -> Session:
        """A session that works."""
        session = self.run(self.open(factory, **options))
        self.ask(session)
        return session

    def ask(self, session: Session) -> None:
        inbox = self.run(session.open("echo", Inbox()))
        inbox.channel.send(b"hello")
        assert self.run(inbox.get()) == b"hello"
        inbox.channel.end()
        self.run(inbox.channel.when_closed())

    def run(self, deferred: Deferred[T]) -> T:
        return self.net.run(deferred)

    def run_until(self, condition: Callable[[], bool]) -> None:
        self.net.run_until(condition, 3600)

    def advance(self, seconds: float) -> None:
        self.net.advance(seconds)


class RaceCase(UdpTestCase):
    """With UDP ports of clients on the simulated network, and a look at what is left."""

    def setUp(self) -> None:
        patch = mock.patch("jetstreamproto.datagram.listen_datagrams", _listen_simulated)
        patch.start()
        self.addCleanup(patch.stop)

    def assert_nothing_left(self, network: Any, seconds: float = 12.0) -> None:
        """No session, timer, socket, or place at the server, a while after the end."""
        network.advance(seconds)
        self.assertEqual(network.server._tickets, {})
        self.assertEqual(network.server.sessions, set())
        self.assertEqual(network.reactor.connecting, [])
        self.assertEqual(network.reactor.host.ports, {})
        self.assertEqual([wire for wire in network.wires if wire._connected], [])
        self.assertEqual(network.clock.getDelayedCalls(), [])

    def assert_ends(self, network: Any, session: Session) -> None:
        network.run(session.close())
        self.assertIsNone(session.close_reason)
        self.assert_nothing_left(network)

    @contextmanager
    def network(self, *arguments: Any, **options: Any) -> Iterator[RaceNetwork]:
        """A network; a failure says with which seed it was made."""
        network = RaceNetwork(*arguments, **options)
        try:
            yield network
        except Exception as error:
            raise self.failureException(f"at {options}: {error!r}") from error


def _listen_simulated(reactor: Any, port: int, protocol: Any, interface: str = "", **_: Any) -> Any:
    network = reactor.network
    return network.net.listen_udp(protocol, reactor.host, port, batches=True)
