"""Twisted's web, AMP and Conch, and Autobahn's WebSocket, over endpoints.

Each over real sockets, and in virtual time over a network that loses packets.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import _producer_helpers, reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.task import Cooperator
from twisted.trial.unittest import SynchronousTestCase, TestCase

from jetstreamproto.bytestream import ChannelTransport
from jetstreamproto.endpoints import JetStreamClientEndpoint, SessionPool, session_pool
from jetstreamproto.endpoints.target import Target
from jetstreamproto.testing import DatagramPair, LinkOptions, SessionPair
from tests.doubles import IDENTITY, QuickClock
from tests.live import software
from tests.live.software import World
from tests.loopback.lingering import linger_shortly

NO_CONCH = None if find_spec("bcrypt") else "Conch needs bcrypt: pip install twisted[conch]"
NO_AUTOBAHN = None if find_spec("autobahn") else "pip install autobahn"

pytestmark = pytest.mark.live

_Case = TestCase if TYPE_CHECKING else object


class _OverSockets(_Case):
    """On this host, from strings."""

    transport: str
    timeout = 60

    async def world(self) -> World:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        linger_shortly(self, reactor)
        self.ports: list[Any] = []
        server = serverFromString(
            reactor,
            f"jetstream:0:transport={self.transport}:stateDir={folder.name}:drainTimeout=1",
        )

        async def listen(factory: Any) -> None:
            port: Any = await server.listen(factory)
            self.ports.append(port)
            self.addCleanup(port.stopListening)
            self.addCleanup(session_pool(reactor).close)

        def endpoint() -> Any:
            number = self.ports[0].getHost().port
            return clientFromString(
                reactor,
                f"jetstream:127.0.0.1:{number}:transport={self.transport}:stateDir={folder.name}",
            )

        return World(reactor, listen, endpoint)

    async def test_web(self) -> None:
        await software.web(await self.world(), self.folder)

    async def test_amp(self) -> None:
        await software.remote_calls(await self.world())

    async def test_ssh(self) -> None:
        await software.ssh(await self.world())

    test_ssh.skip = NO_CONCH  # type: ignore[attr-defined]

    async def test_web_socket(self) -> None:
        await software.web_socket(await self.world())

    test_web_socket.skip = NO_AUTOBAHN  # type: ignore[attr-defined]


class OverTcpTests(_OverSockets, TestCase):
    transport = "tcp"


class OverUdpTests(_OverSockets, TestCase):
    transport = "udp"


class OverQuicTests(_OverSockets, TestCase):
    transport = "quic"


class _InMemory(_Case):
    """In virtual time."""

    def pair(self, services: Any) -> Any:
        raise NotImplementedError

    def check(self, scenario: Any, *args: Any) -> None:
        factories: list[Any] = []
        pair = self.pair(
            {"stream": lambda: ChannelTransport(lambda at: factories[0].buildProtocol(at))}
        )

        # Twisted's web server turns pull producers into push producers on the global reactor
        cooperator = Cooperator(scheduler=lambda call: pair.clock.callLater(0, call))
        self.patch(_producer_helpers, "cooperate", cooperator.cooperate)

        async def listen(factory: Any) -> None:
            factory.doStart()
            factories.append(factory)

        def open_session(*_: Any) -> Any:
            return pair.client.when_connected()

        pool = SessionPool(pair.clock, 5.0, open_session)
        target = Target(host="server", port=9000, state_dir=Path("none"))

        def endpoint() -> JetStreamClientEndpoint:
            return JetStreamClientEndpoint(pair.clock, target, timeout=120, pool=pool)

        world = World(pair.clock, listen, endpoint)
        pair.run(Deferred.fromCoroutine(scenario(world, *args)))
        factories[0].doStop()

    def test_web(self) -> None:
        with TemporaryDirectory() as folder:
            self.check(software.web, folder)

    def test_amp(self) -> None:
        self.check(software.remote_calls)

    def test_ssh(self) -> None:
        self.check(software.ssh)

    test_ssh.skip = NO_CONCH  # type: ignore[attr-defined]

    def test_web_socket(self) -> None:
        self.check(software.web_socket)

    test_web_socket.skip = NO_AUTOBAHN  # type: ignore[attr-defined]


class OverTcpInMemoryTests(_InMemory, SynchronousTestCase):
    """At 20 ms each way."""

    def pair(self, services: Any) -> Any:
        return SessionPair(services, identity=IDENTITY, clock=QuickClock(), latency=0.02)


class OverLossyUdpTests(_InMemory, SynchronousTestCase):
    """A twentieth of the packets is lost, some are doubled or late."""

    link = LinkOptions(delay=0.02, jitter=0.005, loss=0.05, duplicate=0.01, reorder=0.02)

    def pair(self, services: Any) -> Any:
        return DatagramPair(services, link=self.link, identity=IDENTITY, clock=QuickClock(), seed=5)


class OverLossyQuicTests(_InMemory, SynchronousTestCase):
    """On the same network."""

    def pair(self, services: Any) -> Any:
        link = OverLossyUdpTests.link
        return DatagramPair(
            services, transport="quic", link=link, identity=IDENTITY, clock=QuickClock(), seed=5
        )
