"""Endpoints over real sockets: who is let in and believed, one port, and the end of it all."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import error as network
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from jetstreamproto.endpoints import session_pool
from jetstreamproto.errors import TrustError, UnknownHost, WrongFingerprint
from jetstreamproto.security.identity import Identity
from tests.doubles import IDENTITY, noise
from tests.loopback.lingering import linger_shortly
from tests.ports import free_port
from tests.streams import Notes


class Waiting(Notes):
    """Tells when a number of bytes has come, and when the connection is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: Deferred[None] = Deferred()
        self.on_lost = lambda: self.gone.callback(None)

    def receives(self, count: int) -> Deferred[bytes]:
        done: Deferred[bytes] = Deferred()

        def look(data: bytes = b"") -> None:
            if self.size >= count and not done.called:
                done.callback(self.received)

        self.on_data = look
        look()
        return done


class Echo(Waiting):
    def __init__(self) -> None:
        super().__init__()
        self.on_data = lambda data: self.transport.write(data)


class Echoes(Factory):
    def __init__(self) -> None:
        self.made: list[Echo] = []
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Echo:
        self.addresses.append(addr)
        self.made.append(Echo())
        return self.made[-1]


class EndpointTestCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        linger_shortly(self, reactor)
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.server_dir, self.client_dir = self.folder / "server", self.folder / "client"
        for where, identity in ((self.server_dir, IDENTITY), (self.client_dir, None)):
            where.mkdir()
            if identity is not None:
                (where / "both.pem").write_bytes(identity.to_pem())
        self.echoes = Echoes()
        self.pin = IDENTITY.fingerprint.replace(":", "\\:")

    async def listen(self, rest: str = "", port: int = 0) -> Any:
        description = (
            f"jetstream:{port}:stateDir={self.server_dir}:cert={self.server_dir}/both.pem"
            f":drainTimeout=0.5{rest}"
        )
        listening: Any = await serverFromString(reactor, description).listen(self.echoes)
        self.addCleanup(listening.stopListening)
        self.addCleanup(session_pool(reactor).close)
        return listening

    def connect(self, port: Any, rest: str = "", pin: str | None = None) -> Deferred[Waiting]:
        trust = f":pin={self.pin}" if pin is None else pin
        description = (
            f"jetstream:127.0.0.1:{port.getHost().port}:stateDir={self.client_dir}{trust}{rest}"
        )
        connecting: Deferred[Any] = clientFromString(reactor, description).connect(
            Factory.forProtocol(Waiting)
        )
        return connecting.addCallback(self.ended_with_the_test)

    def ended_with_the_test(self, protocol: Waiting) -> Waiting:
        self.addCleanup(protocol.transport.abortConnection)
        return protocol

    async def check_echo(self, protocol: Waiting) -> None:
        data = noise(300_000)
        protocol.transport.write(data)
        self.assertTrue(await protocol.receives(len(data)) == data)


class ConnectionTests(EndpointTestCase):
    async def test_all_transports_on_one_port(self) -> None:
        port = await self.listen()
        self.assertTrue(verifyObject(IListeningPort, port))
        for transport in ("tcp", "udp", "quic", "auto"):
            protocol = await self.connect(port, f":transport={transport}")
            await self.check_echo(protocol)
            used = protocol.transport.getPeer().transport
            self.assertEqual(used, "tcp" if transport == "auto" else transport)
            address = self.echoes.addresses[-1]
            self.assertEqual((address.host, address.transport), ("127.0.0.1", used))
        host = port.getHost()
        self.assertEqual((host.host, host.fingerprint), ("127.0.0.1", IDENTITY.fingerprint))
        self.assertEqual(host.service, "stream")

    async def test_auto_goes_by_udp_where_tcp_is_refused(self) -> None:
        port = await self.listen(":transport=udp")
        protocol = await self.connect(port)
        self.assertEqual(protocol.transport.getPeer().transport, "udp")
        await self.check_echo(protocol)

    async def test_many_connections_in_one_session(self) -> None:
        port = await self.listen()
        for transport in ("tcp", "udp", "quic"):
            protocols = await gatherResults(
                [self.connect(port, f":transport={transport}") for _ in range(50)]
            )
            await gatherResults(
                [Deferred.fromCoroutine(self.check_echo(protocol)) for protocol in protocols]
            )
        self.assertEqual(len(port.sessions.sessions), 3)
        self.assertEqual(len(self.echoes.made), 150)

    async def test_ipv6(self) -> None:
        port = await self.listen(":interface=\\:\\:1")
        description = f"jetstream:\\:\\:1:{port.getHost().port}:pin={self.pin}"
        for transport in ("tcp", "udp", "quic"):
            endpoint = clientFromString(
                reactor, f"{description}:transport={transport}:stateDir={self.client_dir}"
            )
            protocol: Any = await endpoint.connect(Factory.forProtocol(Waiting))
            self.ended_with_the_test(protocol)
            await self.check_echo(protocol)
            self.assertEqual(protocol.transport.getPeer().host, "::1")

    async def test_another_service(self) -> None:
        port = await self.listen(":service=web")
        await self.check_echo(await self.connect(port, ":service=web"))
        error = await self.assertFailure(self.connect(port), network.ConnectionRefusedError)
        self.assertIn("stream", str(error))


class TrustTests(EndpointTestCase):
    async def test_who_is_believed(self) -> None:
        port = await self.listen()
        for transport in ("tcp", "udp", "quic"):
            rest = f":transport={transport}"
            error = await self.assertFailure(self.connect(port, rest, ""), network.ConnectError)
            self.assertIsInstance(error.__cause__, UnknownHost)
            other = ":pin=sha256\\:" + "A" * 43
            error = await self.assertFailure(self.connect(port, rest, other), network.ConnectError)
            self.assertIsInstance(error.__cause__, WrongFingerprint)
            self.assertIsInstance(error.__cause__, TrustError)
        await self.connect(port, "", ":trustNew=yes")
        self.assertIn(IDENTITY.fingerprint, (self.client_dir / "known_hosts").read_text())
        await self.check_echo(await self.connect(port, "", ""))

    async def test_who_is_let_in(self) -> None:
        from datetime import UTC, datetime

        known = Identity.load_or_create(self.client_dir, datetime.now(UTC))
        allow = known.fingerprint.replace(":", "\\:")
        port = await self.listen(f":allow={allow}")
        for transport in ("tcp", "udp", "quic"):
            protocol = await self.connect(port, f":transport={transport}")
            await self.check_echo(protocol)
            address = self.echoes.made[-1].transport.getPeer()
            self.assertEqual(address.fingerprint, known.fingerprint)
        self.client_dir = self.folder / "nobody"
        for transport in ("tcp", "udp", "quic"):
            await self.assertFailure(
                self.connect(port, f":transport={transport}"), network.ConnectError
            )


class EndTests(EndpointTestCase):
    async def test_stop_listening_lets_connections_finish(self) -> None:
        port = await self.listen()
        for transport in ("tcp", "udp", "quic"):
            protocol = await self.connect(port, f":transport={transport}")
            stopped = port.stopListening()
            await self.check_echo(protocol)
            protocol.transport.loseConnection()
            await protocol.gone
            await stopped
            assert protocol.reason is not None
            self.assertIs(protocol.reason.type, network.ConnectionDone)
            self.assertEqual(self.echoes.numPorts, 0)
            port = await self.listen()
        await port.stopListening()
        await port.stopListening()

    async def test_connections_that_do_not_finish_are_cut(self) -> None:
        port = await self.listen()
        protocols = [
            await self.connect(port, f":transport={name}") for name in ("tcp", "udp", "quic")
        ]
        await port.stopListening()
        for protocol in (*protocols, *self.echoes.made):
            await protocol.gone
            assert protocol.reason is not None
            self.assertIs(protocol.reason.type, network.ConnectionLost)
        for transport in ("tcp", "udp", "quic"):
            await self.assertFailure(
                self.connect(port, f":transport={transport}"), network.ConnectionRefusedError
            )

    async def test_a_server_that_comes_back(self) -> None:
        number = free_port()
        port = await self.listen("", number)
        for transport in ("tcp", "udp", "quic"):
            protocol = await self.connect(port, f":transport={transport}")
            await port.stopListening()
            await protocol.gone
            port = await self.listen("", number)
            await self.check_echo(await self.connect(port, f":transport={transport}"))

    async def test_a_taken_port(self) -> None:
        port = await self.listen()
        number = port.getHost().port
        for transport in ("tcp", "udp", "tcp,udp"):
            with self.assertRaises(network.CannotListenError):
                await self.listen(f":transport={transport}", number)
        self.assertEqual(self.echoes.numPorts, 1)

    async def test_nobody_answers(self) -> None:
        import socket

        silent = socket.create_server(("127.0.0.1", free_port()), backlog=5)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(silent.close)
        self.addCleanup(datagrams.close)
        datagrams.bind(silent.getsockname())
        for transport in ("tcp", "udp", "auto"):
            description = (
                f"jetstream:127.0.0.1:{silent.getsockname()[1]}:transport={transport}"
                f":stateDir={self.client_dir}:timeout=0.3"
            )
            endpoint = clientFromString(reactor, description)
            error = await self.assertFailure(
                endpoint.connect(Factory.forProtocol(Waiting)), network.TimeoutError
            )
            self.assertIn("0.3 s", str(error))

    async def test_a_name_without_an_address(self) -> None:
        endpoint = clientFromString(reactor, f"jetstream:none.invalid:1:stateDir={self.client_dir}")
        await self.assertFailure(
            endpoint.connect(Factory.forProtocol(Waiting)), network.DNSLookupError
        )
