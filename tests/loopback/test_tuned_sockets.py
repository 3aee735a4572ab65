"""The hook on real sockets: what code that knows nothing of us gets from a tuned reactor."""

from __future__ import annotations

import dataclasses
import socket
import tempfile
import unittest
from typing import Any

from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ClientEndpoint,
    TCP6ServerEndpoint,
)
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Factory, Protocol
from twisted.logger import LogLevel, globalLogPublisher

from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.opening.attempts import open_stream
from jetstreamproto.reactors.profiled import profiled
from jetstreamproto.reactors.transports import TunedClient, TunedServer
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.sockets import options
from jetstreamproto.sockets.figures import stream_figures, stream_settings
from jetstreamproto.sockets.options import ON_LINUX, Outcome
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, Moment, SocketProfile
from tests.tuned import TunedReactorCase

with socket.socket() as _handle:
    OTHER = "cubic" if options.read_congestion(_handle) == "reno" else "reno"
MINE = SocketProfile(
    name="mine",
    keepalive_idle=41,
    keepalive_interval=7,
    keepalive_count=4,
    receive_buffer=1 << 20,
    datagram_receive_buffer=1 << 20,
    local_congestion=OTHER,
)
HAS_IPV6 = socket.has_ipv6
try:
    socket.create_server(("::1", 0), family=socket.AF_INET6).close()
except OSError:
    HAS_IPV6 = False


class Keeper(Protocol):
    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Keepers(Factory):
    """Keeps what it builds."""

    noisy = False

    def __init__(self) -> None:
        self.built: list[Any] = []

    def buildProtocol(self, addr: Any) -> Protocol:
        self.built.append(Keeper())
        return self.built[-1]


def idle(handle: socket.socket) -> int | None:
    return options.KEEP_IDLE.read(handle)


class HookTests(TunedReactorCase):
    def setUp(self) -> None:
        super().setUp()
        self.reactor.socket_profile = MINE
        self.factory = Keepers()

    def connect(self, port: Any, host: str = "127.0.0.1") -> Any:
        """A client's protocol and the server's, connected through the reactor."""
        clients = Keepers()
        kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        connecting = kind(self.reactor, host, port.getHost().port).connect(clients)
        self.addCleanup(lambda: connecting.addErrback(lambda _: None))
        self.wait(lambda: clients.built and clients.built[0].transport and self.factory.built)
        self.wait(lambda: self.factory.built[0].transport)
        return clients.built[0], self.factory.built[0]

    def assert_tuned(self, handle: socket.socket) -> None:
        self.assertEqual(options.NO_DELAY.read(handle), 1)
        self.assertEqual(idle(handle), 41)
        self.assertEqual(options.KEEP_INTERVAL.read(handle), 7)
        self.assertEqual(options.KEEP_COUNT.read(handle), 4)
        if ON_LINUX:
            self.assertEqual(options.read_congestion(handle), OTHER)

    def test_listeners_and_connections_of_others(self) -> None:
        port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        asked = {setting.option: setting.asked for setting in port.settings}
        self.assertEqual(asked["SO_RCVBUF"], 1 << 20)
        self.assertEqual(options.REUSE_ADDRESS.read(port.socket), 1)
        client, server = self.connect(port)
        self.assertIsInstance(client.transport, TunedClient)
        self.assertIsInstance(server.transport, TunedServer)
        self.assert_tuned(client.transport.socket)
        self.assert_tuned(server.transport.socket)

    def test_figures_are_of_the_socket_as_long_as_there_is_one(self) -> None:
        port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        client, server = self.connect(port)
        figures = stream_figures(server.transport)
        self.assertEqual((figures["profile"], figures["TCP_KEEPIDLE"]), ("mine", 41))
        for transport in (server.transport, client.transport):
            found = {one.option: one for one in stream_settings(transport)}
            self.assertEqual((found["TCP_KEEPIDLE"].asked, found["TCP_KEEPIDLE"].granted), (41, 41))
            self.assertEqual(found["TCP_KEEPIDLE"].outcome, Outcome.GRANTED)
            self.assertEqual(found["SO_RCVBUF"].asked, 1 << 20)
        server.transport.abortConnection()
        self.wait(lambda: server.transport.disconnected)
        self.assertEqual(stream_figures(server.transport), {})
        self.assertEqual(stream_figures(object()), {})
        self.assertEqual((stream_settings(server.transport), stream_settings(object())), ((), ()))
        self.wait(lambda: client.transport.disconnected)

    @unittest.skipUnless(ON_LINUX, "Linux has it")
    def test_our_own_clients_speak_first(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for profile, asked in (("low-latency", 1), ("default", 0)):
                trust = PinnedKeys(["sha256:" + "A" * 43])
                factory = JetStreamClientFactory(trust, reactor=self.reactor)
                place, number = profiled(self.reactor, profile), listener.getsockname()[1]
                opening = Deferred.fromCoroutine(
                    open_stream(place, "127.0.0.1", number, factory, 10, TimeoutError())
                )
                opening.addErrback(lambda _: None)
                (client,) = self.wait(self.clients)
                self.assertEqual(options.FAST_OPEN_CONNECT.read(client.socket), asked)
                client.abortConnection()
                self.wait(lambda: not self.clients())

    def clients(self) -> list[TunedClient]:
        return [one for one in self.reactor.getReaders() if isinstance(one, TunedClient)]

    @unittest.skipUnless(ON_LINUX, "only Linux lets them grow")
    def test_buffers_are_larger_before_the_handshake(self) -> None:
        port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        granted = {setting.option: setting.granted for setting in port.settings}["SO_RCVBUF"]
        _, server = self.connect(port)
        size = options.RECEIVE_BUFFER.read(server.transport.socket)
        self.assertGreaterEqual(size, 2 * granted)
        self.assertEqual(server.transport.socket.getsockopt(socket.SOL_SOCKET, 72), 0)

    @unittest.skipUnless(HAS_IPV6, "no IPv6 here")
    def test_ipv6_and_dual_stack(self) -> None:
        listening = TCP6ServerEndpoint(self.reactor, 0, interface="::").listen(self.factory)
        ports: list[Any] = []
        listening.addCallback(ports.append)
        client, server = self.connect(ports[0], "::1")
        self.assert_tuned(client.transport.socket)
        self.assert_tuned(server.transport.socket)
        del self.factory.built[:]
        client, server = self.connect(ports[0], "127.0.0.1")
        self.assert_tuned(server.transport.socket)

    def test_a_listener_of_another_profile(self) -> None:
        other = dataclasses.replace(MINE, name="other", keepalive_idle=42)
        ports: list[Any] = []
        endpoint = TCP4ServerEndpoint(profiled(self.reactor, other), 0, interface="127.0.0.1")
        endpoint.listen(self.factory).addCallback(ports.append)
        client, server = self.connect(ports[0])
        self.assertEqual(idle(server.transport.socket), 42)
        self.assertEqual(server.transport.socket_profile.name, "other")
        self.assertEqual(idle(client.transport.socket), 41)
        self.assertIs(server.transport.reactor, self.reactor)

    def test_tls_through_a_profile_has_it_too(self) -> None:
        place = profiled(self.reactor, dataclasses.replace(MINE, name="other"))
        port = place.listenSSL(0, self.factory, ssl.CertificateOptions(), interface="127.0.0.1")
        self.assertEqual(port.socket_profile.name, "other")
        connector = place.connectSSL(
            "127.0.0.1", port.getHost().port, ClientFactory(), ssl.CertificateOptions()
        )
        self.assertEqual(connector.socket_profile.name, "other")

    @unittest.skipUnless(hasattr(socket, "AF_UNIX"), "no UNIX sockets here")
    def test_unix_sockets_are_left_alone(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for place in (self.reactor, profiled(self.reactor, "bulk")):
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(f"{folder}/{place is self.reactor}")
                    bound.listen()
                    bound.setblocking(False)
                    port = place.adoptStreamPort(bound.fileno(), socket.AF_UNIX, self.factory)
                self.assertFalse(hasattr(port, "socket_profile"))

    def test_udp_and_multicast(self) -> None:
        for listen in (self.reactor.listenUDP, self.reactor.listenMulticast):
            port = listen(0, DatagramProtocol(), interface="127.0.0.1")
            granted = {setting.option: setting.granted for setting in port.settings}
            self.assertGreater(granted["SO_RCVBUF"], 0)
            size = options.RECEIVE_BUFFER.read(port.socket)
            self.assertEqual(size, granted["SO_RCVBUF"] * (2 if ON_LINUX else 1))

    def test_sockets_that_are_adopted(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            bound.setblocking(False)
            port = self.reactor.adoptStreamPort(bound.fileno(), socket.AF_INET, self.factory)
            _, server = self.connect(port)
        self.assert_tuned(server.transport.socket)
        with socket.create_connection(("127.0.0.1", port.getHost().port)) as made:
            made.setblocking(False)
            keepers = Keepers()
            self.reactor.adoptStreamConnection(made.fileno(), socket.AF_INET, keepers)
            self.assert_tuned(keepers.built[0].transport.socket)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            bound.setblocking(False)
            udp = self.reactor.adoptDatagramPort(bound.fileno(), socket.AF_INET, DatagramProtocol())
            self.assertTrue(udp.settings)

    @unittest.skipUnless(ON_LINUX, "Linux has it")
    def test_acknowledgements_are_asked_for_again_after_each_read(self) -> None:
        quick = dataclasses.replace(MINE, quick_ack=True)
        ports = {}
        for profile in (MINE, quick):
            self.factory = Keepers()
            port = profiled(self.reactor, profile).listenTCP(0, self.factory, interface="127.0.0.1")
            client, server = self.connect(port)
            handle = server.transport.socket
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            client.transport.write(b"hello")
            self.wait(lambda server=server: server.received)
            ports[profile.quick_ack] = options.QUICK_ACK.read(handle)
        self.assertEqual(ports, {False: 0, True: 1})

    def test_the_callable_of_an_application(self) -> None:
        seen: list[Moment] = []

        def also(handle: socket.socket, moment: Moment) -> None:
            seen.append(moment)
            if moment is Moment.CONNECTED:
                raise ValueError("of the application")

        self.reactor.socket_profile = dataclasses.replace(DEFAULT_PROFILE, also=also)
        port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        client, server = self.connect(port)
        self.assertEqual(seen, [Moment.LISTENING, Moment.CONNECTING, Moment.CONNECTED])
        failures = [event for event in events if event.get("log_level") is LogLevel.critical]
        self.assertEqual(len(failures), 1)
        client.transport.write(b"goes on")
        self.wait(lambda: server.received == b"goes on")
        self.addCleanup(self._forget_logged)

    def _forget_logged(self) -> None:
        from twisted.trial._synctest import _logObserver

        _logObserver.flushErrors(ValueError)

    def test_a_protocol_that_waits_for_a_greeting_gets_it(self) -> None:
        """TCP Fast Open would send its SYN with the first write, which never comes."""
        greeter = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(greeter.close)
        greeter.setblocking(False)
        options.FAST_OPEN.set(greeter, 16)
        self.reactor.socket_profile = dataclasses.replace(MINE, fast_open=16)
        for _ in range(2):  # the second has a cookie, where the kernel gives them
            clients = Keepers()
            TCP4ClientEndpoint(self.reactor, *greeter.getsockname()).connect(clients)

            def accepted() -> Any:
                try:
                    return greeter.accept()
                except BlockingIOError:
                    return None

            met, _ = self.wait(accepted)
            with met:
                met.sendall(b"220 hello")
                self.wait(lambda clients=clients: clients.built and clients.built[0].received)
