"""`twist web` behind a `jetstream:` string, fetched by Twisted's `Agent` and by treq."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, readBody

from jetstreamproto.endpoints import session_pool
from tests.doubles import noise
from tests.live.software import Endpoints, World
from tests.loopback.lingering import linger_shortly

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]
STARTED = re.compile(r"starting on 127\.0\.0\.1:(\d+) \((\S+)\), its fingerprint is (sha256:\S+)")
_Case = TestCase if TYPE_CHECKING else object


class Twist(ProcessProtocol):
    """`twist web`; `started` fires with what its log says of the port."""

    def __init__(self) -> None:
        self.output = ""
        self.started: Deferred[re.Match[str]] = Deferred()
        self.ended: Deferred[Any] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()
        found = STARTED.search(self.output)
        if found and not self.started.called:
            self.started.callback(found)

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        if not self.started.called:
            self.started.errback(AssertionError(self.output))
        self.ended.callback(None)


class _Served(_Case):
    transport: str
    timeout = 60

    async def serve(self) -> Any:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        linger_shortly(self, reactor)
        self.data = noise(1_500_000)
        (Path(folder.name) / "big").write_bytes(self.data)
        listen = f"jetstream:0:transport={self.transport}:stateDir={folder.name}/state:service=web"
        twist = Twist()
        command = [
            sys.executable,
            "-m",
            "twisted",
            "--log-format=text",
            "web",
            "--path",
            folder.name,
        ]
        process: Any = reactor.spawnProcess(  # type: ignore[attr-defined]
            twist,
            command[0],
            [*command, f"--listen={listen}"],
            {**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": f"{folder.name}/other"},
        )
        self.addCleanup(lambda: twist.ended)
        self.addCleanup(process.signalProcess, "TERM")
        self.addCleanup(lambda: session_pool(reactor).close())
        port, _, fingerprint = (await twist.started).groups()
        pin = fingerprint.replace(":", "\\:")

        def endpoint() -> Any:
            return clientFromString(
                reactor,
                f"jetstream:127.0.0.1:{port}:transport={self.transport}:pin={pin}:service=web"
                f":stateDir={folder.name}/client",
            )

        world = World(reactor, None, endpoint)  # type: ignore[arg-type]
        return Agent.usingEndpointFactory(reactor, Endpoints(world))

    async def test_agent(self) -> None:
        agent = await self.serve()
        responses = await gatherResults(
            [agent.request(b"GET", b"http://server/big") for _ in range(5)]
        )
        for response in responses:
            self.assertEqual(response.code, 200)
            self.assertTrue(await readBody(response) == self.data)
        self.assertEqual((await agent.request(b"GET", b"http://server/none")).code, 404)

    async def test_treq(self) -> None:
        from treq.client import HTTPClient

        client = HTTPClient(await self.serve())
        response = await client.get("http://server/big", headers={"Range": "bytes=1000-1999"})
        self.assertEqual(response.code, 206)
        self.assertEqual(await response.content(), self.data[1000:2000])

    if find_spec("treq") is None:
        test_treq.skip = "pip install treq"  # type: ignore[attr-defined]


class OverTcpTests(_Served, TestCase):
    transport = "tcp"


class OverUdpTests(_Served, TestCase):
    transport = "udp"


class OverQuicTests(_Served, TestCase):
    transport = "quic"
