"""The store: what a torn log leaves, duplicates, failures, and formats it does not know."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import tempfile
import unittest
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ConfigurationError, EventError
from jetstreamproto.services.events.journal import answer, write_group
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.consumer import ConsumerConfig, Progress
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.services.events.offer import EventOffer
from jetstreamproto.services.events.reader import EventReader
from jetstreamproto.services.events.store import EventStore, open_database


class StoreCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "events.sqlite"
        open_database(self.path)
        self.store = EventStore(self.path, 100)
        self.addCleanup(lambda: self.store.close())

    def do(self, work: Any) -> Any:
        waiting: Deferred[Any] = Deferred()
        answer(write_group(self.store, [(work, waiting)]))
        results: list[Any] = []
        waiting.addBoth(results.append)
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

    def stream(self, **limits: Any) -> int:
        config = StreamConfig("s", ("s.>",), **limits)
        return int(self.do(lambda store: store.add_stream(config)).id)

    def append(self, key: int, *payloads: bytes, time: int = 1, **more: Any) -> list[int]:
        events = [("s.a", payload) for payload in payloads]
        return list(self.do(lambda store: store.append(key, events, time, **more)).sequences)


class StoreTests(StoreCase):
    def test_a_log_torn_anywhere_leaves_whole_transactions_from_the_start(self) -> None:
        """What was committed before the place is there, nothing of what is torn is."""
        seed = random.SystemRandom().randrange(1 << 32)
        rng = random.Random(seed)
        key = self.stream()
        wal = self.path.with_name("events.sqlite-wal")
        ends, sizes = [wal.stat().st_size], [0]
        for _ in range(30):
            count = rng.choice([1, 3, 40])
            self.append(key, *[bytes(rng.choice([10, 5000])) for _ in range(count)])
            ends.append(wal.stat().st_size)
            sizes.append(sizes[-1] + count)
        self.assertEqual(ends, sorted(ends))
        whole = wal.read_bytes()
        for number in range(40):
            at = rng.randrange(ends[0], len(whole) + 1)
            torn = whole[:at] + (rng.randbytes(len(whole) - at) if number % 2 else b"")
            copy = self.folder / f"copy{number}"
            copy.mkdir()
            shutil.copy(self.path, copy / "events.sqlite")
            (copy / "events.sqlite-wal").write_bytes(torn)
            open_database(copy / "events.sqlite")
            with contextlib.closing(EventReader(copy / "events.sqlite")) as reader:
                found = reader.read(key, 1, 10_000, 1 << 30)
                expected = max(s for s, end in zip(sizes, ends, strict=True) if end <= at)
                self.assertEqual(len(found), expected, f"seed {seed}, torn at {at}")
                self.assertEqual(reader.streams()[0].info.events, expected)
                self.assertEqual([e.sequence for e in found], list(range(1, expected + 1)))

    def test_duplicates_are_found_also_after_a_restart(self) -> None:
        key = self.stream()
        self.assertEqual(self.append(key, b"1", b"2", publisher=b"p", numbers=(1, 2)), [1, 2])
        self.assertEqual(self.append(key, b"2", b"3", publisher=b"p", numbers=(2, 3)), [0, 3])
        self.assertEqual(self.append(key, b"x", publisher=b"q", numbers=(1,)), [4])
        self.store.close()
        self.store = EventStore(self.path, 100)
        self.assertEqual(self.append(key, b"3", publisher=b"p", numbers=(3,)), [0])

    def test_publishers_are_remembered_up_to_a_number(self) -> None:
        key = self.stream()
        for number in range(300):
            publisher = b"%d" % number
            self.append(key, b"", time=number, publisher=publisher, numbers=(1,))
        count = self.store._db.execute("SELECT count(*) FROM publishers").fetchone()[0]
        self.assertLessEqual(count, 100)
        self.assertEqual(self.append(key, b"", publisher=b"299", numbers=(1,)), [0])

    def test_a_failed_commit_fails_all_of_it_and_leaves_nothing(self) -> None:
        key = self.stream()
        self.append(key, b"1", publisher=b"p", numbers=(1,))
        results: list[Any] = []
        works = [
            lambda s: s.append(key, [("s.a", b"2")], 1, b"p", (2,)),
            lambda s: s._db.execute("INSERT INTO nothing VALUES(1)"),
        ]
        group: list[Any] = [(work, Deferred()) for work in works]
        for _, waiting in group:
            waiting.addBoth(results.append)
        answer(write_group(self.store, group))
        for failure in results:
            self.assertEqual(failure.value.code, EventCode.STORE_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(sqlite3.Error)), 1)
        self.assertEqual(self.append(key, b"2", publisher=b"p", numbers=(2,)), [2])

    def test_a_refusal_fails_only_its_own_work(self) -> None:
        key = self.stream()
        with self.assertRaises(EventError):
            self.do(lambda store: store.append(99, [("x", b"")], 1))
        self.assertEqual(self.append(key, b"1"), [1])

    def test_removing_a_stream_removes_all_of_it_and_nothing_else(self) -> None:
        key = self.stream()
        other = int(self.do(lambda s: s.add_stream(StreamConfig("t", ("t",)))).id)
        for stream in (key, other):
            self.append(stream, b"1", b"2", publisher=b"p", numbers=(1, 2))
            config = ConsumerConfig("c", ">")
            self.do(lambda s, k=stream, c=config: s.save_consumer(k, c, Progress(1)))
        self.do(lambda store: store.remove_stream(key))
        with contextlib.closing(EventReader(self.path)) as reader:
            self.assertEqual([one.id for one in reader.streams()], [other])
            self.assertEqual(reader.read(key, 1, 9, 99), [])
            self.assertEqual(len(reader.read(other, 1, 9, 99)), 2)
            self.assertEqual(reader.consumers(key), [])
            self.assertEqual(reader.consumers(other), [(ConsumerConfig("c", ">"), Progress(1))])
        again = self.stream()
        self.assertNotIn(again, (key, other))

    def test_time_never_goes_back(self) -> None:
        key = self.stream()
        for time in (5, 3, 9):
            self.append(key, b"", time=time)
        with contextlib.closing(EventReader(self.path)) as reader:
            info = reader.streams()[0].info
            self.assertEqual([e.time for e in reader.read(key, 1, 9, 9)], [5, 5, 9])
            found = [reader.at_time(info, key, time) for time in (0, 5, 6, 9, 10)]
            self.assertEqual(found, [1, 1, 3, 3, 4])


class OpeningTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "events.sqlite"

    def test_files_that_cannot_be_used(self) -> None:
        self.path.write_bytes(b"this is no database, however long it may be" * 100)
        self.assertRaises(ConfigurationError, open_database, self.path)
        self.path.unlink()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA user_version=99")
        with self.assertRaises(ConfigurationError) as raised:
            open_database(self.path)
        self.assertIn("99", str(raised.exception))
        self.assertRaises(ConfigurationError, open_database, self.path / "below" / "a file")

    def test_two_servers_do_not_share_a_folder(self) -> None:
        from twisted.internet.task import Clock

        class Reactor(Clock):
            def callFromThread(self, call: Any) -> None:
                self.callLater(0, call)

        first, second = (EventOffer(self.path.parent) for _ in range(2))
        first.start(Reactor())
        self.assertRaises(ConfigurationError, second.start, Reactor())
        self.assertIsNone(second.stop())
        first.stop()
