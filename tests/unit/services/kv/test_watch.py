"""Watches over a session, on both sides, and from one session to the next."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.errors import ChannelReset, KeyValueError, NotAllowed, SessionCut
from jetstreamproto.services.kv import transaction, watching
from jetstreamproto.services.kv.client import KeyBucket, KeyValueClient
from jetstreamproto.services.kv.messages import encode_request, read_reply
from jetstreamproto.services.kv.model import KV, Action, ChangeKind, KeyEntry, Status
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import SessionPair
from tests.doubles import IDENTITY
from tests.unit.services.kv.house import START, KeyValueCase, Rules, take

PUT, DELETED, EXPIRED = ChangeKind.PUT, ChangeKind.DELETED, ChangeKind.EXPIRED


def told(entries: list[KeyEntry]) -> list[tuple[ChangeKind, str, bytes | None]]:
    return [(entry.kind, entry.key, entry.value) for entry in entries]


class WatchTests(KeyValueCase):
    def test_changes_come_as_they_happen(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("a/old", b"0"))
        watch = pair.run(b.watch("a/"))
        pair.run(b.set("a/1", b"1"))
        pair.run(b.set("b/1", b"not asked for"))
        pair.run(b.client.bucket("c").set("a/1", b"neither"))
        pair.run(b.hmset("a/1", {"f": b"2"}))
        pair.run(b.delete("a/old"))
        entries = take(pair, watch, 3)
        self.assertEqual(
            told(entries), [(PUT, "a/1", b"1"), (PUT, "a/1", b"1"), (DELETED, "a/old", None)]
        )
        self.assertEqual(entries[1].fields, {"": b"1", "f": b"2"})
        self.assertEqual([entry.revision for entry in entries], [2, 5, 6])
        self.assertEqual(watch.revision, 6)

    def test_expiry_is_told(self) -> None:
        pair, b = self.connect()
        watch = pair.run(b.watch())
        pair.run(b.set("k", b"v", ttl=5))
        self.assertEqual(take(pair, watch, 1)[0].expires, START + 5000)
        (entry,) = take(pair, watch, 1)
        self.assertEqual((entry.kind, entry.key, entry.fields), (EXPIRED, "k", None))
        self.assertLess(self.clock.seconds(), 6)

    def test_everything_there_is_and_then_what_changes(self) -> None:
        pair, b = self.connect()
        for number in range(600):
            b.set(f"k{number}", b"")
        pair.run(b.delete("k0"))
        watch = pair.run(b.watch(since=0))
        entries = take(pair, watch, 599)
        self.assertEqual([entry.key for entry in entries], [f"k{n}" for n in range(1, 600)])
        pair.run(b.delete("k1"))
        self.assertEqual(told(take(pair, watch, 1)), [(DELETED, "k1", None)])

    def test_from_a_revision(self) -> None:
        pair, b = self.connect()
        for key in ("a", "b", "c"):
            pair.run(b.set(key, b""))
        pair.run(b.delete("a"))
        watch = pair.run(b.watch(since=2))
        self.assertEqual(told(take(pair, watch, 2)), [(PUT, "c", b""), (DELETED, "a", None)])

    def test_from_a_revision_that_is_too_old_or_never_was(self) -> None:
        self.patch(transaction, "MAX_REMOVALS", 0)
        pair, b = self.connect()
        pair.run(b.set("a", b"1"))
        pair.run(b.set("b", b"2"))
        pair.run(b.delete("a"))
        for channel in pair.server.channels:
            store: Any = channel.protocol._store  # type: ignore[attr-defined]
        store._sweeps = 0
        pair.advance(1)
        self.assertEqual(store.floor, 3)
        for since in (1, 99):
            watch = pair.run(b.watch(since=since))
            entries = take(pair, watch, 2)
            self.assertEqual(told(entries), [(ChangeKind.RESTART, "", None), (PUT, "b", b"2")])
        self.assertEqual(pair.run(b.watch(since=3)).revision, 3)

    def test_a_slow_client_is_told_the_last_of_each_key(self) -> None:
        pair, b = self.connect(settings=SessionSettings(high_water=1 << 16, compression=None))
        watch = pair.run(b.watch())
        watch._inbox.channel.pauseProducing()
        writer = KeyValueClient(
            SessionPair(self.services, identity=IDENTITY, clock=self.clock).client,
            clock=self.clock,
        ).bucket("b")
        value = bytes(50_000)
        for _ in range(100):
            pair.run(writer.set("k", value))
        pair.run(writer.set("end", b""))
        queued = sum(channel.queued for channel in pair.server.channels)
        self.assertLess(queued, 1 << 20)
        watch._inbox.channel.resumeProducing()
        count = 0
        while take(pair, watch, 1)[0].key != "end":
            count += 1
        self.assertLess(count, 100)
        self.assertEqual(watch.revision, 101)

    def test_many_watches_are_read_for_once(self) -> None:
        pair, b = self.connect()
        watches = [pair.run(b.watch("k")) for _ in range(50)]
        store: Any = next(iter(pair.server.channels)).protocol._store  # type: ignore[attr-defined]
        reads = []
        self.patch(store, "changes", lambda *a, read=store.changes: reads.append(a) or read(*a))
        pair.run(b.set("k", b"v"))
        for watch in watches:
            self.assertEqual(told(take(pair, watch, 1)), [(PUT, "k", b"v")])
        self.assertEqual(len(reads), 1)

    def test_there_is_a_bound_to_watches(self) -> None:
        self.patch(watching, "MAX_WATCHES_PER_SESSION", 2)
        pair, b = self.connect()
        watches = [pair.run(b.watch()) for _ in range(2)]
        with self.assertRaises(KeyValueError) as raised:
            pair.run(b.watch())
        self.assertEqual(raised.exception.code, Status.LIMIT)
        watches[0].stop()
        pair.advance(1)
        pair.run(b.watch())

    def test_a_watch_that_is_stopped_ends(self) -> None:
        pair, b = self.connect()
        watch = pair.run(b.watch())

        async def rest() -> list[KeyEntry]:
            return [entry async for entry in watch]

        found = Deferred.fromCoroutine(rest())
        pair.run(b.set("k", b""))
        pair.advance(1)
        watch.stop()
        self.assertEqual([entry.key for entry in pair.run(found)], ["k"])
        pair.advance(1)
        self.assertEqual(len(pair.server.channels), 1)
        watch.stop()

    def test_an_idle_watch_is_told_now_and_then_how_far_it_is(self) -> None:
        self.patch(watching, "_UNTOLD", 10)
        pair, b = self.connect()
        watch = pair.run(b.watch("none"))
        got = Deferred.fromCoroutine(watch.__anext__())
        for _ in range(30):
            pair.run(b.set("k", b""))
        pair.advance(1)
        self.assertGreater(watch.revision, 15)
        self.assertNoResult(got)
        got.addErrback(lambda _: None)
        got.cancel()

    def test_a_channel_of_a_watch_is_for_that_alone(self) -> None:
        pair, b = self.connect()
        inbox: Inbox = pair.run(pair.client.open(KV))
        inbox.channel.send(encode_request(Action.GET, "b", "k", id=1))
        inbox.channel.send(encode_request(Action.WATCH, "b", id=2))
        pair.run(inbox.get())
        self.assertEqual(read_reply(pair.run(inbox.get())).status, Status.INVALID)
        inbox = pair.run(pair.client.open(KV))
        inbox.channel.send(encode_request(Action.WATCH, "b", id=1))
        self.assertEqual(read_reply(pair.run(inbox.get())).status, Status.DONE)
        inbox.channel.send(encode_request(Action.GET, "b", "k", id=2))
        with self.assertRaises(ChannelReset) as raised:
            pair.run(inbox.get())
        self.assertEqual(raised.exception.code, ResetCode.BAD_MESSAGE)
        pair.run(b.set("k", b""))

    def test_what_may_not_be_read_may_not_be_watched(self) -> None:
        pair, b = self.connect(Rules(read=["b/open*"]))
        with self.assertRaises(NotAllowed):
            pair.run(b.watch("ope"))
        pair.run(b.watch("open"))

    def connect(self, rules: Any = None, **options: Any) -> tuple[SessionPair, KeyBucket]:
        self.services = self.offer(rules).services
        pair = SessionPair(self.services, identity=IDENTITY, clock=self.clock, **options)
        return pair, KeyValueClient(pair.client, clock=self.clock).bucket("b")


class Sessions:
    """What a `ReconnectingClient` is: a session, or the next one."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self._waiting: list[Deferred[Session]] = []

    def when_connected(self) -> Deferred[Session]:
        waiter: Deferred[Session] = Deferred(self._waiting.remove)
        if self.session is not None and self.session.accepts_channels:
            waiter.callback(self.session)
        else:
            self._waiting.append(waiter)
        return waiter

    def use(self, session: Session) -> None:
        self.session = session
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(session)


class ReconnectTests(KeyValueCase):
    def setUp(self) -> None:
        super().setUp()
        self.services = self.offer().services
        self.sessions = Sessions()
        self.reconnect()
        self.b = KeyValueClient(self.sessions, clock=self.clock, timeout=20).bucket("b")

    def reconnect(self) -> None:
        self.pair = SessionPair(self.services, identity=IDENTITY, clock=self.clock)
        self.sessions.use(self.pair.client)

    def test_a_watch_goes_on_where_it_was(self) -> None:
        watch = self.pair.run(self.b.watch())
        other = KeyValueClient(
            SessionPair(self.services, identity=IDENTITY, clock=self.clock).client,
            clock=self.clock,
        ).bucket("b")
        run = self.pair.run
        run(other.batch().set("a", b"1").set("z", b"1").send())
        take(self.pair, watch, 2)
        self.pair.cut()
        run(other.set("missed", b"2"))
        run(other.delete("z"))
        waiting = Deferred.fromCoroutine(watch.__anext__())
        self.pair.advance(3)
        self.assertNoResult(waiting)
        self.reconnect()
        self.assertEqual(self.pair.run(waiting).key, "missed")
        self.assertEqual(told(take(self.pair, watch, 1)), [(DELETED, "z", None)])
        self.pair.run(self.b.set("later", b"3"))
        self.assertEqual(told(take(self.pair, watch, 1)), [(PUT, "later", b"3")])

    def test_inside_a_batch_that_was_told_in_part(self) -> None:
        batch = self.b.batch()
        for number in range(500):
            batch.set(f"k{number:03}", b"")
        self.pair.run(batch.send())
        watch = self.pair.run(self.b.watch(since=0))
        first = take(self.pair, watch, 1)
        keys = [first[0].key, *(entry.key for entry in watch._entries)]
        watch._entries.clear()
        self.assertLess(len(keys), 500)
        self.pair.cut()
        self.reconnect()
        keys += [entry.key for entry in take(self.pair, watch, 500 - len(keys))]
        self.assertEqual(keys, [f"k{number:03}" for number in range(500)])

    def test_requests_go_on_with_the_next_session(self) -> None:
        self.pair.run(self.b.set("k", b"1"))
        self.disk.slow = True
        lost = self.b.set("k", b"2")
        self.pair.advance(1)
        self.pair.cut()
        self.failureResultOf(lost, SessionCut)
        self.disk.finish()
        self.disk.slow = False
        waiting = self.b.get("k")
        self.pair.advance(1)
        self.assertNoResult(waiting)
        self.reconnect()
        self.assertEqual(self.pair.run(waiting), b"2")

    def test_no_session_in_time(self) -> None:
        self.pair.cut()
        waiting = self.b.get("k")
        self.pair.advance(19)
        self.assertNoResult(waiting)
        self.pair.advance(2)
        error: Any = self.failureResultOf(waiting, ChannelReset).value
        self.assertEqual(error.code, ResetCode.TIMED_OUT)

    def test_a_watch_on_a_single_session_ends_with_it(self) -> None:
        b = KeyValueClient(self.pair.client, clock=self.clock).bucket("b")
        watch = self.pair.run(b.watch())
        waiting = Deferred.fromCoroutine(watch.__anext__())
        self.pair.cut()
        self.pair.advance(1)
        self.failureResultOf(waiting, SessionCut)

    def test_a_server_that_drains(self) -> None:
        watch = self.pair.run(self.b.watch())
        waiting = Deferred.fromCoroutine(watch.__anext__())
        self.pair.run(self.b.get("k"))
        drained = self.pair.server_factory.drain()
        self.pair.run(drained)
        self.assertLess(self.clock.seconds(), 5)
        self.assertNoResult(waiting)
        self.reconnect()
        self.pair.run(self.b.set("k", b"v"))
        self.assertEqual(self.pair.run(waiting).key, "k")
