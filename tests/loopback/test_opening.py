"""Sessions that find their transport over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.client import ReconnectingClient, connect
from jetstreamproto.datagram import JetStreamDatagramProtocol, adopt
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.opening.destination import Destination
from jetstreamproto.opening.model import Memory
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.server.listeners import open_listeners
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.offload import BatchingPort
from tests.doubles import IDENTITY
from tests.ports import free_port

HOST = "127.0.0.1"
TRUST = PinnedKeys([IDENTITY.fingerprint])
ALL = ("tcp", "udp", "quic")


class Server:
    """In this process, on one port for all of its transports."""

    def __init__(self, transports: Sequence[str], port: int) -> None:
        self.factory = JetStreamServerFactory(IDENTITY, {"echo": Echo})
        self._ports: list[Any] = []
        bound = open_listeners([HOST], port, transports)
        self.port = bound.port
        twisted: Any = reactor
        for stream in bound.streams:
            stream.setblocking(False)
            descriptor = stream.fileno()
            self._ports.append(twisted.adoptStreamPort(descriptor, socket.AF_INET, self.factory))
        for datagrams in bound.datagrams:
            protocol = JetStreamDatagramProtocol(
                self.factory, udp="udp" in transports, quic="quic" in transports
            )
            self._ports.append(adopt(reactor, datagrams, protocol))
        bound.close()

    async def stop(self) -> None:
        for session in tuple(self.factory.sessions):
            session.abort()
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        self._ports = []


class OpeningTests(TestCase):
    def serve(self, *transports: str, port: int = 0) -> Server:
        """Over some, on a port that nobody has over the others."""
        server = Server(transports or ALL, port or free_port())
        self.addCleanup(lambda: ensureDeferred(server.stop()))
        return server

    def setUp(self) -> None:
        self.addCleanup(lambda: ensureDeferred(self.quiet()))

    async def quiet(self) -> None:
        """A client's UDP socket stays a while, to repeat its last words if they got lost."""
        twisted: Any = reactor
        while any(isinstance(reader, BatchingPort) for reader in twisted.getReaders()):
            await deferLater(twisted, 0.1)

    async def check(self, session: Session) -> tuple[str, str | None]:
        """How a session came to be that works; it is ended."""
        inbox = await session.open("echo", Inbox())
        inbox.channel.send(b"hello")
        self.assertEqual(await inbox.get(), b"hello")
        found = session.transport, session.fallback
        await session.close()
        return found

    def open(self, server: Server, **options: Any) -> Any:
        return connect(reactor, HOST, server.port, TRUST, **options)

    async def test_a_server_with_everything(self) -> None:
        server = self.serve()
        self.assertEqual(await self.check(await self.open(server)), ("tcp", None))
        self.assertEqual(await self.check(await self.open(server, bulk=True)), ("udp", None))
        for transport in ALL:
            session = await self.open(server, transport=transport)
            self.assertEqual(await self.check(session), (transport, None))

    async def test_a_server_without_udp(self) -> None:
        server = self.serve("tcp")
        self.assertEqual(await self.check(await self.open(server)), ("tcp", None))
        found = await self.check(await self.open(server, bulk=True))
        self.assertEqual(found, ("tcp", "udp: nothing listens there"))
        transport, fallback = await self.check(await self.open(server, bulk=True))
        self.assertEqual(transport, "tcp")
        self.assertRegex(fallback or "", r"^udp: nothing listens there, \d s ago$")

    async def test_a_server_without_tcp(self) -> None:
        nothing = "tcp: nothing listens there"
        self.assertEqual(
            await self.check(await self.open(self.serve("udp", "quic"))), ("quic", nothing)
        )
        self.assertEqual(
            await self.check(await self.open(self.serve("udp", "quic"), bulk=True)), ("udp", None)
        )
        transport, fallback = await self.check(await self.open(self.serve("udp")))
        self.assertEqual(transport, "udp")
        self.assertIn(nothing, fallback or "")

    async def test_udp_of_which_nothing_comes_back(self) -> None:
        server = self.serve("tcp")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind((HOST, server.port))
            transport, fallback = await self.check(await self.open(server, bulk=True))
        self.assertEqual(transport, "tcp")
        self.assertRegex(fallback or "", r"^udp did not answer within 1(\.\d)? s$")

    async def test_a_server_that_is_restarted_without_udp(self) -> None:
        server = self.serve()
        memory = Memory()
        destination = Destination(reactor, HOST, server.port, bulk=True, memory=memory)
        client = ReconnectingClient(
            destination, JetStreamClientFactory(TRUST), retry_policy=lambda _: 0.2
        )
        client.startService()
        self.addCleanup(lambda: client.running and client.stopService())
        first = await client.when_connected()
        self.assertEqual(first.transport, "udp")
        await server.stop()
        await first.when_closed()
        self.serve("tcp", port=server.port)
        second = await client.when_connected()
        self.assertEqual(second.transport, "tcp")
        self.assertRegex(second.fallback or "", "^udp")
        await second.ping()
        await client.stopService()

    async def test_a_name_with_two_addresses(self) -> None:
        server = self.serve()  # not on ::1, which localhost may be as well
        for options in ({}, {"bulk": True}, {"transport": "quic"}):
            session = await connect(reactor, "localhost", server.port, TRUST, **options)
            await self.check(session)
