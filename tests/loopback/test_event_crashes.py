"""A server of events is killed while it is published to, with SIGKILL, again and again.

After each kill the end of the write-ahead log is torn as well: what is behind its last commit is
garbled or cut off. Whatever was acknowledged is there afterwards, once, and in order.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.client import connect
from jetstreamproto.errors import JetStreamError
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.model.event import Event, Start
from jetstreamproto.services.events.offer import DATABASE
from jetstreamproto.services.events.reader import EventReader

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 25
DEADLINE = 60.0
_WAL_HEADER, _FRAME_HEADER = 32, 24


def committed_size(wal: bytes) -> int:
    """Where the last commit of a write-ahead log ends (https://sqlite.org/fileformat2.html#walformat)."""
    if len(wal) < _WAL_HEADER:
        return 0
    page, salt = struct.unpack(">I", wal[8:12])[0], wal[16:24]
    end = at = _WAL_HEADER
    while at + _FRAME_HEADER + page <= len(wal) and wal[at + 8 : at + 16] == salt:
        at += _FRAME_HEADER + page
        if struct.unpack(">I", wal[at - page - 20 : at - page - 16])[0]:
            end = at
    return end


def tear(path: Path, rng: random.Random) -> str:
    """Spoil what is behind the last commit; what was done."""
    wal = path.read_bytes()
    end = committed_size(wal)
    how = rng.choice(["nothing", "garbled", "cut", "half a frame more"])
    rest = len(wal) - end
    if how == "garbled":
        wal = wal[:end] + rng.randbytes(rest)
    elif how == "cut":
        wal = wal[: end + (rng.randrange(rest) if rest else 0)]
    elif how == "half a frame more":
        page = struct.unpack(">I", wal[8:12])[0] if len(wal) >= _WAL_HEADER else 4096
        wal = wal[:end] + wal[end - page - _FRAME_HEADER : end - page // 2]
    path.write_bytes(wal)
    return how


class CrashTests(TestCase):
    timeout = 90

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        identity = Identity.load_or_create(self.folder, datetime.now(UTC))
        self.fingerprint = identity.fingerprint
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "tests.loopback.event_server", str(self._pem(identity))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.addCleanup(self._stop)
        self.data = self.folder / "data"
        self.pid = 0
        self.clients: list[EventClient] = []

    def client(self, session: Any, **options: Any) -> EventClient:
        self.clients.append(EventClient(session, **options))
        return self.clients[-1]

    async def finish(self, session: Any) -> None:
        for client in self.clients:
            await client.close()
        await session.close()

    def _pem(self, identity: Identity) -> Path:
        from tests.benchmarks.certificate import write_certificate

        path = write_certificate(self.folder)
        self.fingerprint = Identity.from_files(path).fingerprint
        return path

    def _stop(self) -> None:
        self._kill()
        self.parent.communicate()

    def _kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            while self._is_there(self.pid):
                time.sleep(0.001)
            self.pid = 0

    @staticmethod
    def _is_there(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    async def _start(self) -> Any:
        """A session with a new server on the same folder."""
        assert self.parent.stdin is not None and self.parent.stdout is not None
        self.parent.stdin.write(f"{self.data}\n".encode())
        ready, _, _ = select.select([self.parent.stdout], [], [], DEADLINE)
        self.assertTrue(ready, "the server does not start")
        port, pid = self.parent.stdout.readline().split()
        self.pid = int(pid)
        trust = PinnedKeys([self.fingerprint])
        return await connect(reactor, "127.0.0.1", int(port), trust, transport="tcp")

    def stored(self) -> list[Event]:
        with contextlib.closing(EventReader(self.data / DATABASE)) as reader:
            (stream,) = reader.streams()
            found: list[Event] = []
            while page := reader.read(stream.id, len(found) + 1, 10_000, 1 << 30):
                found += page
            self.assertEqual(stream.info.last, len(found))
            self.assertEqual(stream.info.events, len(found))
            return found

    async def test_what_was_acknowledged_is_read_back_after_every_kill(self) -> None:
        seed = random.SystemRandom().randrange(1 << 32)
        rng = random.Random(seed)
        session = await self._start()
        await self.client(session).add_stream("s", ["s.>"])
        published, confirmed = 0, 0  # numbers of events: payload n is the publisher's number n
        for number in range(ROUNDS):
            client = self.client(session, publisher=b"me", number=confirmed + 1)
            published = confirmed
            waiting: list[Deferred[Any]] = []
            stop = time.monotonic() + rng.uniform(0.005, 0.12)
            while time.monotonic() < stop:
                count = rng.choice([1, 1, 7, 100])
                events = [
                    (f"s.{n % 3}", f"{n}".encode() + bytes(rng.choice([0, 50, 3000])))
                    for n in range(published + 1, published + count + 1)
                ]
                published += count
                waiting.append(client.publish_many(events))
                await deferLater(reactor, rng.choice([0, 0, 0.002]))
            self._kill()
            session.abort()
            for batch in waiting:
                with contextlib.suppress(JetStreamError):
                    confirmed += len(await batch)
            torn = tear(self.data / f"{DATABASE}-wal", rng)
            found = [int(e.payload.rstrip(b"\0")) for e in self.stored()]
            about = f"seed {seed}, round {number}, log: {torn}"
            self.assertGreaterEqual(len(found), confirmed, about)
            self.assertEqual(found, list(range(1, len(found) + 1)), about)
            session = await self._start()
        self.assertGreater(confirmed, ROUNDS)
        reading = await self.client(session).subscribe("s.>", start=Start.ALL)
        back: list[Event] = []
        while len(back) < len(found):
            back += await reading.get_many()
        self.assertEqual([int(e.payload.rstrip(b"\0")) for e in back], found, f"seed {seed}")
        await self.finish(session)

    async def test_what_a_consumer_acknowledged_does_not_come_again(self) -> None:
        seed = random.SystemRandom().randrange(1 << 32)
        rng = random.Random(seed)
        session = await self._start()
        client = self.client(session)
        await client.add_stream("s", ["s"])
        count = 20_000  # more than the rounds can get through
        await client.publish_many([("s", f"{n}".encode()) for n in range(1, count + 1)])
        done: set[int] = set()  # and confirmed
        worked: set[int] = set()
        for number in range(8):
            client = self.client(session)
            subscription = await client.subscribe("s", durable="d", start=Start.ALL, max_pending=64)
            stop = time.monotonic() + rng.uniform(0.005, 0.06)
            self.assertLess(len(done), count)
            acks: list[tuple[list[int], Deferred[None]]] = []
            while time.monotonic() < stop:
                events = await subscription.get_many().addTimeout(DEADLINE, reactor)
                again = done.intersection(e.sequence for e in events)
                self.assertFalse(again, f"seed {seed}, round {number}")
                some = rng.sample(events, rng.randint(1, len(events)))
                rest = [e for e in events if e not in some]
                worked.update(event.sequence for event in some)
                if rest:
                    subscription.nak(*rest).addErrback(lambda _: None)
                acks.append(([e.sequence for e in some], subscription.ack(*some)))
                await deferLater(reactor, 0)
            self._kill()
            session.abort()
            for sequences, ack in acks:
                with contextlib.suppress(JetStreamError):
                    await ack
                    done.update(sequences)
            session = await self._start()
        client = self.client(session)
        subscription = await client.subscribe("s", durable="d")
        while (await client.stream("s")).consumers[0].floor < count:
            events = await subscription.get_many().addTimeout(DEADLINE, reactor)
            self.assertFalse(done.intersection(e.sequence for e in events), f"seed {seed}")
            done.update(event.sequence for event in events)
            await subscription.ack(*events)
        self.assertEqual(done | worked, set(range(1, count + 1)), f"seed {seed}")
        await self.finish(session)
