from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.kv import transaction
from jetstreamproto.services.kv.model import (
    VALUE,
    Action,
    ChangeKind,
    Refusal,
    Status,
    Step,
)
from jetstreamproto.services.kv.sqlite import SqliteStore
from jetstreamproto.services.kv.store import Outcome, Position
from tests.unit.services.kv.house import KeyValueCase


def put(key: str, value: bytes = b"v", **rest: int) -> Step:
    return Step(Action.SET, key, (VALUE,), (value,), **rest)


class StoreCase(KeyValueCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()

    def open(self, limit: int = 1 << 30) -> SqliteStore:
        store = SqliteStore(self.folder / "kv", self.clock, self.now, self.disk, limit)
        self.addCleanup(self.close, store)
        return store

    def close(self, store: SqliteStore) -> None:
        if store._closing is None:
            self.successResultOf(store.close())

    def submit(self, *steps: Step, store: SqliteStore | None = None) -> Outcome:
        done = (store or self.store).submit("b", steps)
        self.clock.advance(0)
        return self.successResultOf(done)

    def refused(self, done: Deferred[Any]) -> Status:
        error: Any = self.failureResultOf(done, Refusal).value
        return error.status

    def value(self, key: str, store: SqliteStore | None = None) -> bytes | None:
        store = store or self.store
        found = store.fields("b", key, [VALUE])
        return None if found is None else found[1][0]

    def cache(self) -> int:
        """What the writing connection may keep in memory."""
        connection = self.store._writer.connection
        return int(connection.execute("PRAGMA cache_size").fetchone()[0])

    def changes(self, since: int = 0, prefix: str = "") -> list[tuple[str, ChangeKind, int]]:
        """All changes after a revision."""
        found, position = [], Position(since + 1)
        while position.revision <= self.store.revision:
            changes = self.store.changes("b", prefix, position)
            found += [(one.key, one.kind, one.revision) for one in changes.items]
            self.assertGreater(changes.position, position)
            position = changes.position
        return found


class WritingTests(StoreCase):
    def test_what_is_acknowledged_is_there_when_it_is_opened_again(self) -> None:
        self.assertEqual(self.submit(put("k", b"1")), Outcome((1,), 1))
        self.submit(Step(Action.MERGE, "h", ("a", "b"), (b"x", b"y")))
        self.close(self.store)
        self.store = self.open()
        self.assertEqual((self.value("k"), self.store.revision), (b"1", 2))
        head = self.store.head("b", "h")
        assert head is not None
        self.assertEqual(self.store.all_fields(head), {"a": b"x", "b": b"y"})
        self.assertEqual(self.submit(put("k")).revision, 3)

    def test_nothing_is_acknowledged_before_it_is_on_disk(self) -> None:
        self.disk.slow = True
        done = self.store.submit("b", [put("k")])
        self.clock.advance(1)
        self.assertNoResult(done)
        self.assertIsNone(self.value("k"))
        self.disk.finish()
        self.assertEqual(self.successResultOf(done).revision, 1)
        self.assertEqual(self.value("k"), b"v")

    def test_the_log_is_as_long_from_the_start_as_it_becomes(self) -> None:
        log = self.folder / "kv-wal"
        size = log.stat().st_size
        self.assertGreater(size, 4_000_000)
        self.assertLess((self.folder / "kv").stat().st_size, 1 << 20)
        for number in range(30):
            self.submit(put(f"k{number}", b""))
        self.assertEqual(log.stat().st_size, size)
        self.assertEqual(self.cache(), -16384)

    def test_reads_of_a_snapshot_are_of_one_moment(self) -> None:
        self.submit(put("k", b"1"))
        with self.store.snapshot():
            self.assertEqual(self.value("k"), b"1")
            self.submit(put("k", b"2"))
            self.assertEqual(self.value("k"), b"1")
        self.assertEqual(self.value("k"), b"2")

    def test_those_who_wait_share_a_commit(self) -> None:
        self.disk.slow = True
        first = self.store.submit("b", [put("first")])
        self.clock.advance(0)
        rest = [self.store.submit("b", [put(f"k{number}")]) for number in range(100)]
        self.disk.finish()
        self.successResultOf(first)
        self.assertNoResult(rest[0])
        self.disk.finish()
        revisions = [self.successResultOf(done).revision for done in rest]
        self.assertEqual(revisions, list(range(2, 102)))
        self.assertEqual(self.disk.commits, 2)

    def test_a_refusal_leaves_the_others_of_its_group(self) -> None:
        before = self.store.submit("b", [put("k", b"1")])
        refused = self.store.submit("b", [put("x"), put("k", revision=7)])
        after = self.store.submit("b", [put("k", b"2", revision=1)])
        self.clock.advance(0)
        self.assertEqual(self.refused(refused), Status.CONFLICT)
        self.assertEqual(self.successResultOf(before).revision, 1)
        self.assertEqual(self.successResultOf(after).revision, 2)
        self.assertEqual((self.value("k"), self.value("x")), (b"2", None))

    def test_nothing_to_do_needs_no_disk(self) -> None:
        self.assertEqual(self.submit(Step(Action.DELETE, "k")), Outcome((0,), 0))
        self.assertEqual((self.disk.commits, self.store.revision), (0, 0))

    def test_fields_are_gone_when_a_key_is_set_anew(self) -> None:
        for fields in (("", "a"), ("a",)):
            self.submit(Step(Action.MERGE, "k", fields, (b"x",) * len(fields)))
            self.submit(put("k", b"1"))
            head = self.store.head("b", "k")
            assert head is not None
            self.assertEqual(self.store.all_fields(head), {"": b"1"})
            self.submit(Step(Action.DELETE, "k"))

    def test_fields_of_a_key_that_came_back_are_not_those_of_the_old_one(self) -> None:
        self.submit(Step(Action.SET, "k", ("a",), (b"old",)))
        self.submit(put("k"))
        self.submit(Step(Action.DELETE, "k"))
        self.submit(Step(Action.MERGE, "k", ("b",), (b"new",)))
        head = self.store.head("b", "k")
        assert head is not None
        self.assertEqual(self.store.all_fields(head), {"b": b"new"})
        self.assertEqual(head.field_count, 1)


class FailureTests(StoreCase):
    def test_a_group_that_fails_is_tried_one_by_one(self) -> None:
        self.disk.fail = sqlite3.OperationalError("disk I/O error")
        done = [self.store.submit("b", [put(key)]) for key in "abc"]
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(one).revision for one in done], [1, 2, 3])
        self.assertEqual(self.disk.commits, 4)

    def test_a_failure_is_said_and_leaves_nothing(self) -> None:
        self.disk.fail = sqlite3.OperationalError("disk I/O error")
        done = self.store.submit("b", [put("k")])
        self.clock.advance(0)
        self.assertEqual(self.refused(done), Status.FAILED)
        self.assertEqual(len(self.flushLoggedErrors(sqlite3.OperationalError)), 1)
        self.assertIsNone(self.value("k"))
        self.assertEqual(self.submit(put("k")).revision, 1)

    def test_a_store_without_room_for_its_log(self) -> None:
        self.close(self.store)
        self.store = self.open(limit=1 << 19)
        self.assertEqual(self.cache(), -16384)
        self.submit(put("k", b"1"))
        self.assertEqual(self.value("k"), b"1")

    def test_a_full_store_says_so_and_takes_deletions(self) -> None:
        self.close(self.store)
        self.store = self.open(limit=1 << 20)
        keys = [f"k{number}" for number in range(40)]
        done = [self.store.submit("b", [put(key, bytes(50_000))]) for key in keys]
        self.clock.advance(0)
        good = [
            key for key, one in zip(keys, done, strict=True) if not isinstance(one.result, Outcome)
        ]
        self.assertTrue(0 < len(good) < 40)
        statuses = {self.refused(one) for key, one in zip(keys, done, strict=True) if key in good}
        self.assertEqual(statuses, {Status.FULL})
        first = next(key for key in keys if key not in good)
        self.assertEqual(self.submit(Step(Action.DELETE, first)).results, (1,))
        self.assertEqual(self.submit(put("new", bytes(20_000))).results, (1,))

    def test_too_much_waiting_is_refused(self) -> None:
        self.disk.slow = True
        large = [put("k", bytes(1 << 20))] * 8
        done = [self.store.submit("b", large) for _ in range(8)]
        self.assertEqual(self.refused(done[-1]), Status.BUSY)
        self.clock.advance(0)
        self.disk.finish()
        self.successResultOf(done[0])

    def test_closing_waits_for_what_was_submitted(self) -> None:
        self.disk.slow = True
        done = self.store.submit("b", [put("k")])
        closed = self.store.close()
        self.assertEqual(self.refused(self.store.submit("b", [put("l")])), Status.FAILED)
        self.clock.advance(0)
        self.assertNoResult(closed)
        self.disk.finish()
        self.successResultOf(done)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_file_that_is_none(self) -> None:
        self.close(self.store)
        for suffix in ("-wal", "-shm"):
            (self.folder / f"kv{suffix}").unlink(missing_ok=True)
        (self.folder / "kv").write_bytes(b"This is a text, and not a database at all." * 99)
        with self.assertRaisesRegex(ConfigurationError, "kv: file is not a database"):
            self.open()

    def test_a_file_of_another_version(self) -> None:
        self.store._writer.connection.execute("PRAGMA user_version = 9")
        with self.assertRaisesRegex(ConfigurationError, "layout 9, not 1"):
            self.open()

    def test_a_folder_that_cannot_be_made(self) -> None:
        (self.folder / "file").touch()
        with self.assertRaisesRegex(ConfigurationError, "file"):
            SqliteStore(self.folder / "file" / "kv", self.clock, self.now, self.disk)

    def test_reading_what_has_failed(self) -> None:
        self.store._reader.connection.close()
        with self.assertRaises(Refusal) as raised:
            self.store.head("b", "k")
        self.assertEqual(raised.exception.status, Status.FAILED)
        self.flushLoggedErrors(sqlite3.Error)
        self.store._poll_timer.cancel()
        self.store._sweep_timer.cancel()
        self.store._writer.connection.close()
        self.store._closing = Deferred()


class ReadingTests(StoreCase):
    def test_pages(self) -> None:
        keys = [f"k{number:02}" for number in range(25)] + ["ä", "\U0010ffffz", "l"]
        self.submit(*map(put, keys))
        self.store.submit("other", [put("k99")])
        self.clock.advance(0)
        found, after = [], ""
        while True:
            page, more = self.store.scan("b", "", after, 10)
            found += [key for key, _ in page]
            if not more:
                break
            after = found[-1]
        self.assertEqual(found, sorted(keys, key=str.encode))
        page, more = self.store.scan("b", "k1", "", 100)
        self.assertEqual(([key for key, _ in page], more), (keys[10:20], False))
        self.assertEqual([key for key, _ in self.store.scan("b", "k1", "k18", 9)[0]], ["k19"])
        self.assertEqual([k for k, _ in self.store.scan("b", "\U0010ffff", "", 9)[0]], keys[26:27])

    def test_buckets(self) -> None:
        for bucket in ("c", "a", "b"):
            self.store.submit(bucket, [put("k1"), put("k2")])
        self.clock.advance(0)
        self.assertEqual(self.store.buckets("", 9), (["a", "b", "c"], False))
        self.assertEqual(self.store.buckets("a", 1), (["b"], True))


class ExpiryTests(StoreCase):
    def test_expired_keys_vanish_at_once_and_are_taken_away_soon(self) -> None:
        self.submit(put("short", ttl=200), put("long", ttl=60_000))
        self.clock.advance(0.2)
        self.assertIsNone(self.store.head("b", "short"))
        self.assertEqual([key for key, _ in self.store.scan("b", "", "", 9)[0]], ["long"])
        self.assertEqual(self.changes(), [("long", ChangeKind.PUT, 1)])
        self.clock.advance(0.5)
        self.assertEqual(self.changes(1), [("short", ChangeKind.EXPIRED, 2)])

    def test_many_are_taken_away_in_parts(self) -> None:
        for part in range(3):
            self.submit(*(put(f"{part}-{number}", ttl=100) for number in range(400)))
        commits = self.disk.commits
        self.clock.advance(0.5)
        while self.store._working:
            self.clock.advance(0)
        ends = [change for change in self.changes() if change[1] is ChangeKind.EXPIRED]
        self.assertEqual(len(ends), 1200)
        self.assertEqual(self.disk.commits - commits, 3)

    def test_a_key_that_expired_can_be_written_before_it_is_taken_away(self) -> None:
        self.submit(Step(Action.SET, "k", ("a",), (b"1",), ttl=100))
        self.clock.advance(0.1)
        self.submit(Step(Action.MERGE, "k", ("b",), (b"2",), revision=0))
        self.clock.advance(1)
        head = self.store.head("b", "k")
        assert head is not None
        self.assertEqual(self.store.all_fields(head), {"b": b"2"})
        self.assertEqual(self.changes(), [("k", ChangeKind.PUT, 2)])


class ChangesTests(StoreCase):
    def test_the_last_of_each_key_in_the_order_of_revisions(self) -> None:
        self.submit(put("a"))
        self.submit(put("b1"), put("b2"))
        self.submit(put("a"))
        self.submit(Step(Action.DELETE, "b1"))
        put_, gone = ChangeKind.PUT, ChangeKind.DELETED
        self.assertEqual(self.changes(), [("b2", put_, 2), ("a", put_, 3), ("b1", gone, 4)])
        self.assertEqual(self.changes(2, "b"), [("b1", gone, 4)])
        self.submit(put("b1"))
        self.assertEqual(self.changes(3), [("b1", put_, 5)])

    def test_one_answer_is_bounded_in_keys_bytes_and_revisions(self) -> None:
        self.submit(*(put(f"k{number:03}") for number in range(900)))
        first = self.store.changes("b", "", Position(0))
        self.assertEqual((len(first.items), first.position), (256, Position(1, "k255")))
        self.assertEqual(len(self.changes()), 900)
        self.submit(*(put(f"l{number}", bytes(60_000)) for number in range(20)))
        self.assertEqual(len(self.store.changes("b", "l", Position(0)).items), 4)
        self.assertEqual(len(self.changes(0, "l")), 20)
        self.store.revision = 1_000_000
        self.assertEqual(self.store.changes("b", "", Position(3)).position.revision, 4100)

    def test_large_entries_are_told_without_their_fields(self) -> None:
        self.submit(put("large", bytes(1 << 17)), put("small"))
        found = {one.key: one.fields for one in self.store.changes("b", "", Position(0)).items}
        self.assertEqual(found, {"large": None, "small": {"": b"v"}})

    def test_old_deletions_are_forgotten(self) -> None:
        self.patch(transaction, "MAX_REMOVALS", 100)
        keys = [f"k{number:03}" for number in range(300)]
        for start in range(0, 300, 100):
            self.submit(*map(put, keys[start : start + 100]))
        for key in keys:
            self.store.submit("b", [Step(Action.DELETE, key)])
        self.clock.advance(0)
        self.assertEqual(self.store.floor, 0)
        self.store._sweeps = 0
        self.clock.advance(0.5)
        self.clock.advance(0)
        self.assertEqual(self.store.floor, self.store.revision - 100)
        self.assertEqual([key for key, _, _ in self.changes()], keys[200:])


class ProcessesTests(StoreCase):
    """Two stores of one file are what two processes have."""

    def test_each_sees_what_the_other_writes(self) -> None:
        other = self.open()
        self.submit(put("k", b"1"))
        self.assertEqual(self.value("k", other), b"1")
        self.assertEqual(self.submit(put("k", b"2", revision=1), store=other).revision, 2)
        self.assertEqual(self.value("k"), b"2")

    def test_subscribers_hear_of_both(self) -> None:
        other = self.open()
        told: list[int] = []
        stop = other.subscribe(lambda: told.append(other.revision))
        self.submit(put("k"))
        self.clock.advance(0.1)
        self.submit(put("k"), store=other)
        self.assertEqual(told, [1, 2])
        stop()
        self.submit(put("k"), store=other)
        self.assertEqual(told, [1, 2])

    def test_one_waits_for_the_other_in_the_thread(self) -> None:
        other = self.open()
        self.disk.slow = True
        first = self.store.submit("b", [put("k", b"1")])
        self.clock.advance(0)
        second = other.submit("b", [put("k", b"2")])
        self.clock.advance(0)
        self.disk.finish()
        self.successResultOf(first)
        self.disk.finish()  # the other's BEGIN
        self.disk.finish()
        self.assertEqual(self.successResultOf(second).revision, 2)
        self.assertEqual(self.value("k"), b"2")
