"""The server as people start it, and sessions with it over real UDP sockets."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from twisted.internet import reactor

from jetstreamproto.errors import HandshakeError
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session
from tests.loopback.server_process import DEADLINE, fingerprint_in, port_in
from tests.loopback.test_twistd import Told, TwistdTestCase

try:
    import jetstreamproto.datagram  # noqa: F401
except ImportError:
    HAS_UDP = False
else:
    HAS_UDP = True


class UdpTestCase(TwistdTestCase):
    skip = None if HAS_UDP else "this version has no UDP yet"

    async def udp_session(self, log: str, host: str = "127.0.0.1", **options: Any) -> Session:
        """A session over UDP with the server of this log, ended with the test."""
        from jetstreamproto.datagram import JetStreamDatagramProtocol

        trust = PinnedKeys([fingerprint_in(log)])
        factory = JetStreamClientFactory(trust, reactor=reactor, **options)  # type: ignore[arg-type]
        protocol = JetStreamDatagramProtocol(reactor=reactor)
        port = reactor.listenUDP(0, protocol, interface=host)  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        session = protocol.connect(host, port_in(log), factory)
        self.addCleanup(session.when_closed)
        self.addCleanup(session.abort)
        return await session.when_connected()


class StartTests(UdpTestCase):
    async def test_both_transports_on_one_port(self) -> None:
        server = await self.serve()
        self.assertIn("(tcp, udp, quic)", server.output)
        for session in (await self.session(server.output), await self.udp_session(server.output)):
            self.assertLess(await session.ping(), DEADLINE)
            inbox: Inbox = await session.open("echo")
            message = os.urandom(1 << 20)
            inbox.channel.send(message)
            self.assertEqual(await inbox.get(), message)

    async def test_udp_alone(self) -> None:
        server = await self.serve("--transports", "udp", "--congestion", "cubic", "--fec", "5+1")
        await (await self.udp_session(server.output)).ping()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_in(server.output)), DEADLINE)

    async def test_the_limits_count_both_transports(self) -> None:
        server = await self.serve("--max-sessions", "1")
        await (await self.session(server.output)).ping()
        with self.assertRaisesRegex(HandshakeError, "too many connections"):
            await self.udp_session(server.output)

    async def test_the_status_is_logged(self) -> None:
        server = await self.serve("--status-interval", "0.05", "--heartbeat", "0.5")
        session = await self.udp_session(server.output)
        told = await session.open("echo", Told())
        told.channel.send(b"hello")
        await server.said("rtt")


class StopTests(UdpTestCase):
    async def test_sessions_are_told_and_may_finish(self) -> None:
        server = await self.serve()
        session = await self.udp_session(server.output)
        told = await session.open("discard", Told())
        server.signal(signal.SIGINT)
        await told.closing
        told.channel.send(b"the rest")
        told.channel.end()
        self.assertIsNone(await told.closed)
        await session.when_closed()
        self.assertIsNone(session.close_reason)
        self.assertEqual(await server.ended(), 0)
        self.assertNotIn("Traceback", server.output)

    async def test_who_does_not_finish_is_cut_off_at_the_deadline(self) -> None:
        server = await self.serve("--drain-timeout", "0.2")
        session = await self.udp_session(server.output)
        told = await session.open("echo", Told())
        server.signal(signal.SIGTERM)
        await told.closing
        self.assertIsNotNone(await told.closed)
        self.assertEqual(await server.ended(), 0)

    async def test_nobody_new_is_let_in_meanwhile(self) -> None:
        server = await self.serve("--drain-timeout", str(10 * DEADLINE))
        session = await self.udp_session(server.output)
        told = await session.open("echo", Told())
        server.signal(signal.SIGINT)
        await told.closing
        with self.assertRaisesRegex(HandshakeError, "shutting down"):
            await self.udp_session(server.output)
