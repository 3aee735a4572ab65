"""A registry, providers that register, and a client that finds them, over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.client import ReconnectingClient
from jetstreamproto.datagram import listen_udp
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.rpc.balancer import RpcBalancer
from jetstreamproto.services.rpc.discovery import RpcDiscovery, connect_provider
from jetstreamproto.services.rpc.leases import RpcProvider
from jetstreamproto.services.rpc.registration import RpcRegistration
from jetstreamproto.services.rpc.registry import RpcRegistry
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.sockets.offload import BatchingPort
from tests.doubles import IDENTITY
from tests.unit.services.rpc.calculator import Calculator

HOST, SERVICE = "127.0.0.1", "test.Calculator"


class ProviderTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.reactor: Any = reactor
        self.addCleanup(lambda: ensureDeferred(self.quiet()))
        self.registry = RpcRegistry()
        self.registry_port = self.listen(RpcServer([self.registry]))

    async def quiet(self) -> None:
        """A client's UDP socket stays a while, to repeat its last words if they got lost."""
        while any(isinstance(reader, BatchingPort) for reader in self.reactor.getReaders()):
            await deferLater(self.reactor, 0.1)

    def listen(self, rpc: RpcServer, transport: str = "tcp") -> int:
        """A server of `rpc` on a port of its own."""
        factory = JetStreamServerFactory(IDENTITY, rpc.services)
        if transport == "tcp":
            port = self.reactor.listenTCP(0, factory, interface=HOST)
        else:
            port = listen_udp(self.reactor, 0, factory, interface=HOST, quic=True)
        self.addCleanup(port.stopListening)
        self.addCleanup(factory.drain)
        return int(port.getHost().port)

    def join(self, prepare: Callable[..., Any]) -> ReconnectingClient:
        """A client of the registry that stays there."""
        client = ReconnectingClient(
            TCP4ClientEndpoint(self.reactor, HOST, self.registry_port),
            JetStreamClientFactory(PinnedKeys([IDENTITY.fingerprint])),
            prepare,
        )
        client.startService()
        self.addCleanup(client.stopService)
        return client

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(self.reactor, 0.02)

    async def provide(self, transport: str) -> tuple[Calculator, ReconnectingClient]:
        target = Calculator()
        port = self.listen(RpcServer([target]), transport)
        provider = RpcProvider(f"{HOST}:{port}", IDENTITY.fingerprint, transport)
        client = self.join(RpcRegistration([SERVICE], provider).prepare)
        await client.when_connected()
        return target, client

    async def test_over_every_transport(self) -> None:
        provided = [await self.provide(transport) for transport in ("tcp", "udp", "quic")]
        balancer = RpcBalancer(
            connect_provider(self.reactor), clock=self.reactor, policy="round-robin"
        )
        self.addCleanup(balancer.close)
        self.join(RpcDiscovery(SERVICE, balancer).prepare)
        await balancer.call("test.Calculator#add", 1)
        await self.until(lambda: sum(node.ready for node in balancer._nodes.values()) == 3)
        for number in range(30):
            self.assertEqual(await balancer.call("test.Calculator#add", number, 1), number + 1)
        self.assertEqual(sum(target.calls for target, _ in provided), 31)
        self.assertGreaterEqual(min(target.calls for target, _ in provided), 10)

        # One leaves, with its registration: its calls end, later ones go to the others.
        target, client = provided[0]
        await client.stopService()
        await self.until(lambda: len(balancer.providers) == 2)
        count = target.calls
        for number in range(10):
            await balancer.call("test.Calculator#add", number)
        self.assertEqual(target.calls, count)

    async def test_a_provider_without_a_fingerprint_is_not_believed(self) -> None:
        balancer = RpcBalancer(connect_provider(self.reactor), clock=self.reactor)
        self.addCleanup(balancer.close)
        balancer.update([RpcProvider(f"{HOST}:1")])
        failed: Deferred[Any] = balancer.call("test.Calculator#add", 1)
        with self.assertRaisesRegex(Exception, "UNAVAILABLE"):
            await failed
