"""Requests and answers over a session: the client and the server's channel together."""

from __future__ import annotations

import sqlite3
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import (
    ChannelReset,
    JetStreamError,
    KeyValueError,
    NotAllowed,
    RevisionConflict,
    ServiceNotFound,
    SessionCut,
    WireError,
)
from jetstreamproto.services.kv.client import KeyValueClient
from jetstreamproto.services.kv.messages import (
    encode_reply,
    encode_request,
    encode_step,
    read_reply,
    read_request,
)
from jetstreamproto.services.kv.model import KV, MAX_STEPS, Action, Status, Step
from jetstreamproto.services.kv.service import FILE
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import SessionPair
from tests.doubles import IDENTITY
from tests.unit.services.kv.house import START, KeyValueCase, Rules, run


class ServiceCase(KeyValueCase):
    def raw(self, pair: SessionPair) -> Inbox:
        """A channel to send messages on as they are."""
        inbox: Inbox = pair.run(pair.client.open(KV))
        return inbox

    def answer(self, pair: SessionPair, inbox: Inbox, message: bytes) -> Any:
        inbox.channel.send(message)
        return read_reply(pair.run(inbox.get()))

    def refused(self, kind: type[JetStreamError], pair: SessionPair, waiting: Any) -> Any:
        """The error of `kind` that a request fails with; the channel goes on."""
        with self.assertRaises(kind) as raised:
            pair.run(waiting)
        self.assertTrue(pair.client.accepts_channels)
        return raised.exception


class RequestTests(ServiceCase):
    def test_whole_keys(self) -> None:
        pair, b = self.connect()
        self.assertIsNone(pair.run(b.get("k")))
        self.assertIsNone(pair.run(b.entry("k")))
        self.assertEqual(pair.run(b.set("k", b"\0\xff")), 1)
        self.assertEqual(pair.run(b.get("k")), b"\0\xff")
        self.assertEqual(pair.run(b.set("k", b"", ttl=60)), 2)
        entry = pair.run(b.entry("k"))
        self.assertEqual((entry.value, entry.revision), (b"", 2))
        self.assertEqual(entry.expires, START + 60_000)
        self.assertTrue(pair.run(b.exists("k")))
        self.assertTrue(pair.run(b.expire("k", None)))
        self.assertEqual(pair.run(b.entry("k")).expires, 0)
        self.assertTrue(pair.run(b.delete("k")))
        self.assertFalse(pair.run(b.delete("k")))
        self.assertFalse(pair.run(b.exists("k")))
        self.assertFalse(pair.run(b.expire("k", 5)))

    def test_hashes(self) -> None:
        pair, b = self.connect()
        self.assertEqual(pair.run(b.hmset("k", {"a": b"1", "b": b"2"})), 1)
        self.assertEqual(pair.run(b.hset("k", "c", b"3", ttl=9)), 2)
        self.assertEqual(pair.run(b.hget("k", "a")), b"1")
        self.assertEqual(pair.run(b.hmget("k", ["c", "x", "a"])), [b"3", None, b"1"])
        self.assertEqual(pair.run(b.hgetall("k")), {"a": b"1", "b": b"2", "c": b"3"})
        self.assertEqual(pair.run(b.hgetall("x")), {})
        self.assertTrue(pair.run(b.hexists("k", "a")))
        self.assertFalse(pair.run(b.hexists("k", "x")))
        self.assertIsNone(pair.run(b.get("k")))
        self.assertTrue(pair.run(b.exists("k")))
        self.assertEqual(pair.run(b.hdel("k", "a", "x", "b")), 2)
        self.assertEqual(pair.run(b.increment("k", 4, field="c")), 7)
        self.assertEqual(pair.run(b.entry("k")).fields, {"c": b"7"})
        self.assertRaises(ValueError, b.hdel, "k")

    def test_compare_and_set(self) -> None:
        pair, b = self.connect()
        revision = pair.run(b.set("k", b"1", revision=0))
        conflict = self.refused(RevisionConflict, pair, b.set("k", b"2", revision=0))
        self.assertEqual((conflict.code, conflict.revision), (Status.CONFLICT, revision))
        self.assertEqual(pair.run(b.set("k", b"2", revision=revision)), revision + 1)
        conflict = self.refused(RevisionConflict, pair, b.delete("k", revision=revision))
        self.assertEqual(conflict.revision, revision + 1)
        self.assertTrue(pair.run(b.delete("k", revision=revision + 1)))

    def test_batches_are_atomic(self) -> None:
        pair, b = self.connect()
        pair.run(b.hmset("h", {"x": b"1"}))
        result = pair.run(
            b.batch()
            .set("k", b"v", revision=0)
            .hmset("h", {"y": b"2"})
            .increment("n", 5)
            .hdel("h", "x")
            .expire("k", 9)
            .delete("none")
            .check("h", 1)
            .send()
        )
        self.assertEqual(result, (2, [1, 1, 5, 1, 1, 0, 1]))
        self.assertEqual(pair.run(b.hgetall("h")), {"y": b"2"})
        self.refused(RevisionConflict, pair, b.batch().delete("k").check("h", 1).send())
        self.assertEqual(pair.run(b.get("k")), b"v")

    def test_pages_and_scans(self) -> None:
        pair, b = self.connect()
        batch = b.batch()
        for number in range(250):
            batch.set(f"k{number:03}", b"%d" % number)
        pair.run(batch.set("other", b"").send())
        page = pair.run(b.keys("k"))
        self.assertEqual((len(page.entries), page.after), (100, "k099"))
        self.assertIsNone(page.entries[0].fields)
        page = pair.run(b.keys("k", after="k239", limit=1000))
        self.assertEqual([entry.key for entry in page.entries], [f"k24{n}" for n in range(10)])
        self.assertIsNone(page.after)

        async def scan() -> list[tuple[str, bytes | None]]:
            return [(entry.key, entry.value) async for entry in b.scan("k", limit=30)]

        expected = [(f"k{number:03}", b"%d" % number) for number in range(250)]
        self.assertEqual(run(pair, scan()), expected)
        self.assertEqual(pair.run(b.keys("nothing")), ([], None))

    def test_pages_with_fields_have_a_bound(self) -> None:
        pair, b = self.connect()
        for number in range(6):
            pair.run(b.set(f"k{number}", bytes(100_000)))
        page = pair.run(b.page())
        self.assertEqual((len(page.entries), page.after), (2, "k1"))

    def test_buckets(self) -> None:
        pair, b = self.connect()
        client = b.client
        self.assertEqual(pair.run(client.buckets()), ())
        for name in ("z", "a", "m"):
            pair.run(client.bucket(name).set("k", b""))
        self.assertEqual(pair.run(client.buckets()), ("a", "m", "z"))
        self.assertEqual(pair.run(client.buckets("a", 1)), ("m",))

    def test_keys_of_buckets_are_apart(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"1"))
        self.assertIsNone(pair.run(b.client.bucket("other").get("k")))

    def test_an_empty_store_makes_no_file_before_it_is_used(self) -> None:
        pair = self.pair()
        self.assertFalse((self.folder / FILE).exists())
        pair.run(KeyValueClient(pair.client, clock=self.clock).bucket("b").get("k"))
        self.assertEqual((self.folder / FILE).stat().st_mode & 0o777, 0o600)


class OrderTests(ServiceCase):
    def test_a_read_sees_what_was_written_before_it(self) -> None:
        pair, b = self.connect()
        waiting = [b.set("k", b"1"), b.get("k"), b.set("k", b"2"), b.get("k"), b.keys()]
        found = [pair.run(one) for one in waiting]
        self.assertEqual(found[:4], [1, b"1", 2, b"2"])
        self.assertEqual([entry.revision for entry in found[4].entries], [2])

    def test_other_reads_overtake_writes(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("other", b"v"))
        self.disk.slow = True
        writing = b.set("k", b"1")
        self.assertEqual(pair.run(b.get("other")), b"v")
        behind = b.get("k")
        pair.advance(1)
        self.assertNoResult(behind)
        self.assertNoResult(writing)
        self.disk.finish()
        self.assertEqual((pair.run(behind), pair.run(writing)), (b"1", 2))

    def test_too_many_requests_wait_at_the_client(self) -> None:
        pair, b = self.connect()
        self.disk.slow = True
        waiting = [b.set(f"k{number}", b"") for number in range(3000)]
        pair.advance(1)
        (channel,) = pair.server.channels
        protocol: Any = channel.protocol
        self.assertEqual(protocol._pending, 1024)
        self.disk.slow = False
        self.disk.finish()
        revisions = [pair.run(one) for one in waiting]
        self.assertEqual(revisions, list(range(1, 3001)))

    def test_answers_that_are_not_read_stop_the_requests(self) -> None:
        settings_ = SessionSettings(high_water=1 << 16, compression=None)
        pair, b = self.connect(settings=settings_)
        pair.run(b.set("k", bytes(1 << 16)))
        pair.server_transport.pause()
        waiting = [b.get("k") for _ in range(2000)]
        pair.advance(1)
        held = sum(channel.queued for channel in pair.server.channels)
        self.assertLess(held, 1 << 20)
        pair.server_transport.resume()
        for one in waiting:
            self.assertEqual(len(pair.run(one)), 1 << 16)

    def test_the_end_comes_after_the_answers(self) -> None:
        pair, b = self.connect()
        self.disk.slow = True
        waiting = [b.set("k", b"1"), b.get("k")]
        b.client.close()
        pair.advance(1)
        self.disk.finish()
        self.assertEqual([pair.run(one) for one in waiting], [1, b"1"])
        pair.advance(1)
        self.assertEqual(pair.server.channels, ())
        self.disk.slow = False
        self.assertEqual(pair.run(b.set("k", b"2")), 2)

    def test_a_client_that_leaves_before_its_answer(self) -> None:
        pair, b = self.connect()
        self.disk.slow = True
        waiting = b.set("k", b"1")
        pair.advance(1)
        pair.cut()
        self.failureResultOf(waiting, SessionCut)
        self.disk.finish()
        pair.advance(1)


class RefusalTests(ServiceCase):
    def test_names_and_limits(self) -> None:
        pair, b = self.connect()
        bad = b.client.bucket("no such name")
        for waiting, code in (
            (bad.get("k"), Status.INVALID),
            (bad.set("k", b""), Status.INVALID),
            (bad.keys(), Status.INVALID),
            (b.get(""), Status.INVALID),
            (b.set("a\n", b""), Status.INVALID),
            (b.set("k", bytes((1 << 20) + 1)), Status.LIMIT),
            (b.set("k" * 513, b""), Status.LIMIT),
            (b.hmget("k", list(map(str, range(5000)))), Status.LIMIT),
            (b.keys("\x1b"), Status.INVALID),
            (b.keys(after="x" * 600), Status.LIMIT),
            (b.write([Step(Action.DELETE, "k")] * (MAX_STEPS + 1)), Status.LIMIT),
            (b.write([Step(Action.GET, "k")]), Status.INVALID),
            (b.increment("k", 1 << 64), Status.INVALID),
        ):
            self.assertEqual(self.refused(KeyValueError, pair, waiting).code, code)
        self.assertEqual(pair.run(b.set("k", b"fine")), 1)
        self.assertEqual(len(pair.client.channels), 1)

    def test_what_a_client_cannot_even_send(self) -> None:
        _, b = self.connect()
        self.assertRaises(ValueError, b.set, "k", b"", ttl=0)
        self.assertRaises(ValueError, b.set, "k", b"", ttl=-1)
        self.assertRaises(ValueError, b.set, "k", b"", ttl=float("nan"))

    def test_access_is_by_patterns(self) -> None:
        rules = Rules(read=["b/open*", "c/*"], write=["b/open/mine"])
        pair, b = self.connect(rules)
        c = b.client.bucket("c")
        pair.run(b.set("open/mine", b"v"))
        self.assertEqual(pair.run(b.get("open/mine")), b"v")
        self.assertEqual(len(pair.run(b.keys("open")).entries), 1)
        self.assertIsNone(pair.run(c.get("k")))
        for waiting in (
            b.set("open/other", b""),
            b.get("secret"),
            b.hgetall("secret"),
            b.exists("secret"),
            b.keys(),
            b.page("ope"),
            b.watch("op"),
            b.delete("open/min"),
            b.batch().set("open/mine", b"x").set("secret", b"").send(),
            c.set("k", b""),
            c.increment("k"),
            c.expire("k", 5),
            b.client.bucket("d").get("open"),
        ):
            error = self.refused(NotAllowed, pair, waiting)
            self.assertEqual(error.code, ResetCode.NOT_ALLOWED)
        self.assertEqual(pair.run(b.get("open/mine")), b"v")
        self.assertEqual(pair.run(b.client.buckets()), ("b",))

    def test_nothing_at_all(self) -> None:
        pair, b = self.connect(Rules(read=[], write=[]))
        self.refused(NotAllowed, pair, b.get("k"))
        self.refused(NotAllowed, pair, b.set("k", b""))
        self.assertEqual(pair.run(b.client.buckets()), ())

    def test_a_server_without_the_service_or_the_permission(self) -> None:
        def deny(session: object, service: str) -> None:
            raise NotAllowed(ResetCode.NOT_ALLOWED, "no")

        for services, options, kind in (
            ({}, {}, ServiceNotFound),
            (self.offer().services, {"server_options": {"access": deny}}, NotAllowed),
        ):
            pair = SessionPair(services, identity=IDENTITY, clock=self.clock, **options)
            b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
            self.refused(kind, pair, b.get("k"))
            self.refused(kind, pair, b.get("k"))
            self.refused(kind, pair, b.watch())

    def test_a_store_that_cannot_be_opened(self) -> None:
        pair = self.pair()
        (self.folder / FILE).mkdir()
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        error = self.refused(ChannelReset, pair, b.get("k"))
        self.assertEqual(error.code, ResetCode.INTERNAL_ERROR)
        self.assertNotIn(str(self.folder), error.reason)
        (self.folder / FILE).rmdir()
        self.assertEqual(pair.run(b.set("k", b"")), 1)

    def test_a_store_that_fails(self) -> None:
        pair, b = self.connect()
        self.disk.fail = sqlite3.OperationalError("disk I/O error")
        error = self.refused(KeyValueError, pair, b.set("k", b""))
        self.assertEqual(error.code, Status.FAILED)
        self.assertNotIn("I/O", error.reason)
        self.flushLoggedErrors(sqlite3.OperationalError)
        self.assertEqual(pair.run(b.set("k", b"")), 1)

    def test_an_answer_that_the_client_does_not_take(self) -> None:
        pair, b = self.connect(client_settings=SessionSettings(max_message=1000))
        pair.run(b.set("k", bytes(2000)))
        self.assertEqual(self.refused(KeyValueError, pair, b.get("k")).code, Status.LIMIT)
        self.assertEqual(pair.run(b.set("k", b"small")), 2)
        self.assertEqual(pair.run(b.get("k")), b"small")


class HostileTests(ServiceCase):
    def test_what_is_no_request_costs_the_channel_only(self) -> None:
        pair, b = self.connect()
        step = encode_step(Step(Action.SET, "k", ("",), (b"v",)), "b")
        bad_sizes = step.replace(b"\1\0\0\0v", b"\2\0\0\0v")
        self.assertNotEqual(bad_sizes, step)
        bad_batch = encode_request(Action.BATCH, "b", values=[b"rubbish"])
        for message in (b"", b"rubbish" * 9, step[:-9], bad_sizes, bad_batch):
            inbox = self.raw(pair)
            inbox.channel.send(message)
            with self.assertRaises(ChannelReset) as raised:
                pair.run(inbox.get())
            self.assertEqual(raised.exception.code, ResetCode.BAD_MESSAGE)
        self.assertIsNone(pair.run(b.get("k")))

    def test_versions_and_actions_of_the_future(self) -> None:
        pair = self.pair()
        inbox = self.raw(pair)
        for strange in (
            encode_request(Action.GET, "b", "k", id=5, version=2),
            encode_request(99, "b", "k", id=5),
        ):
            reply = self.answer(pair, inbox, strange)
            self.assertEqual((reply.id, reply.status), (5, Status.UNSUPPORTED))
        good = encode_request(Action.GET, "b", "k", id=6)
        self.assertEqual(self.answer(pair, inbox, good).status, Status.DONE)

    def test_batches_in_batches(self) -> None:
        pair = self.pair()
        inner = encode_request(Action.BATCH, "b")
        reply = self.answer(pair, self.raw(pair), encode_request(Action.BATCH, "b", values=[inner]))
        self.assertEqual(reply.status, Status.INVALID)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 40),
        st.sampled_from(["b", "B"]) | st.text(max_size=3),
        st.text(max_size=3),
        st.lists(st.text(max_size=2), max_size=3),
        st.lists(st.binary(max_size=3), max_size=3),
        st.integers(-3, 3),
        st.integers(-3, 3),
    )
    def test_any_request_is_answered_or_resets_the_channel(
        self, action: Any, bucket: str, key: str, names: Any, values: Any, revision: int, ttl: int
    ) -> None:
        pair = self.pair()
        try:
            message = encode_request(
                action,
                bucket,
                key,
                id=7,
                names=tuple(names),
                values=values,
                revision=revision,
                ttl=ttl,
            )
        except ValueError:  # surrogates
            return
        inbox = self.raw(pair)
        try:
            self.assertIn(self.answer(pair, inbox, message).status, set(Status))
        except ChannelReset as error:
            self.assertEqual(error.code, ResetCode.BAD_MESSAGE)
        self.assertTrue(pair.client.accepts_channels)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_server_that_answers_rubbish(self) -> None:
        class Rubbish(ChannelProtocol):
            def message_received(self, message: bytes) -> None:
                self.channel.send(b"rubbish")

        pair = SessionPair({KV: Rubbish}, identity=IDENTITY, clock=self.clock)
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        self.refused(ChannelReset, pair, b.get("k"))
        self.refused(WireError, pair, b.watch())

    def test_a_server_that_answers_something_else(self) -> None:
        class Wrong(ChannelProtocol):
            def message_received(self, message: bytes) -> None:
                request = read_request(message)
                self.channel.send(encode_reply(request.id))

        pair = SessionPair({KV: Wrong}, identity=IDENTITY, clock=self.clock)
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        self.refused(WireError, pair, b.get("k"))
        self.refused(WireError, pair, b.set("k", b""))

    def test_a_server_that_does_not_answer(self) -> None:
        pair = SessionPair({KV: ChannelProtocol}, identity=IDENTITY, clock=self.clock)
        client = KeyValueClient(pair.client, timeout=5, clock=self.clock)
        early = client.bucket("b").get("k")
        pair.advance(3)
        late = client.bucket("b").get("k")
        pair.advance(1.9)
        self.assertNoResult(early)
        pair.advance(0.2)
        for one in (early, late):
            error: Any = self.failureResultOf(one, ChannelReset).value
            self.assertEqual(error.code, ResetCode.TIMED_OUT)

    def test_a_request_that_is_cancelled(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"v"))
        waiting = b.get("k")
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.assertEqual(pair.run(b.get("k")), b"v")
