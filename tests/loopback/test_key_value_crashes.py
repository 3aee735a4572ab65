"""A key-value server that is killed at any moment keeps all that it has acknowledged."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.client import ReconnectingClient
from jetstreamproto.errors import ChannelError, SessionError
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.kv.client import KeyBucket, KeyValueClient
from jetstreamproto.services.kv.watch import KeyWatch
from tests.loopback.server_process import LAST_LINE, Server, fingerprint_in
from tests.ports import free_port

ROUNDS = 3
WRITERS = 8


class CrashTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name).resolve()
        self.port = free_port()
        self.seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
        self.rolls = random.Random(self.seed)
        self.acknowledged: dict[str, bytes] = {}
        self.watched: dict[str, bytes | None] = {}
        self.writing = True

    async def start(self) -> Server:
        server = Server(self.home, ["--transports", "tcp", "--port", str(self.port)])
        self.addCleanup(server.kill)
        await server.said(LAST_LINE)
        return server

    async def write(self, bucket: KeyBucket, number: int) -> None:
        """Write values under some keys for as long as the test goes on."""
        count = 0
        while self.writing:
            count += 1
            key, value = f"{number}-{count % 5}", b"%d" % count
            try:
                await bucket.set(key, value)
            except (ChannelError, SessionError):
                continue  # it is not known whether it was written
            self.acknowledged[key] = value

    def check(self, key: str, acknowledged: bytes, found: bytes | None) -> None:
        """What is there may be newer than what was acknowledged, but never older."""
        self.assertGreaterEqual(int(found or 0), int(acknowledged), f"{key}; SEED={self.seed}")

    async def watch(self, changes: KeyWatch) -> None:
        async for entry in changes:
            self.watched[entry.key] = entry.value

    async def crash_and_read(self) -> None:
        server = await self.start()
        trust = PinnedKeys([fingerprint_in(server.output)])
        clock: Any = reactor
        client = ReconnectingClient(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.port),
            JetStreamClientFactory(trust, host="127.0.0.1"),
            retry_policy=lambda _: 0.1,
        )
        client.startService()
        self.addCleanup(client.stopService)
        bucket = KeyValueClient(client, clock=clock).bucket("crash")
        changes = await bucket.watch(since=0)
        watching = Deferred.fromCoroutine(self.watch(changes))
        writers = [Deferred.fromCoroutine(self.write(bucket, n)) for n in range(WRITERS)]
        for number in range(ROUNDS):
            goal = len(self.acknowledged) + 1 if number == 0 else 0
            while len(self.acknowledged) < goal:
                await deferLater(clock, 0.01)
            await deferLater(clock, self.rolls.uniform(0.05, 0.4))
            await server.kill()
            server = await self.start()
            for key, value in dict(self.acknowledged).items():
                found = await bucket.get(key)
                self.check(key, value, found)
        self.writing = False
        await gatherResults(writers)
        for key, value in self.acknowledged.items():
            found = await bucket.get(key)
            self.check(key, value, found)
            for _ in range(100):
                if self.watched.get(key) == found:
                    break
                await deferLater(clock, 0.02)
            self.assertEqual(self.watched.get(key), found, f"the watch of {key}; SEED={self.seed}")
        changes.stop()
        await watching

    def test_what_is_acknowledged_survives_and_watches_go_on(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.crash_and_read())
