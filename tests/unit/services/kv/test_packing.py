"""Several requests, and several replies, in one message."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from jetstreamproto.errors import ChannelReset, KeyValueError, QueueFull
from jetstreamproto.services.kv.client import KeyValueClient
from jetstreamproto.services.kv.messages import (
    encode_reply,
    encode_request,
    pack_replies,
    pack_requests,
    packed_replies,
    read_reply,
    read_request,
)
from jetstreamproto.services.kv.model import KV, MAX_PACK, Action, Status
from jetstreamproto.services.kv.requests import KeyValueChannel
from jetstreamproto.services.kv.service import KeyValueOffer
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import SessionPair
from tests.doubles import IDENTITY
from tests.unit.services.kv.house import KeyValueCase


def ask(key: str, id: int) -> bytes:
    return encode_request(Action.GET, "b", key, id=id, names=("",))


class PackCase(KeyValueCase):
    def counted(self, pair: SessionPair) -> list[bytes]:
        """The messages that come to the server's channel from now on."""
        (channel,) = pair.server.channels
        protocol, messages = channel.protocol, []
        received = protocol.message_received

        def count(message: bytes) -> None:
            messages.append(message)
            received(message)

        protocol.message_received = count  # type: ignore[method-assign]
        return messages

    def raw(self, pair: SessionPair) -> Inbox:
        inbox: Inbox = pair.run(pair.client.open(KV))
        return inbox


class PackingTests(PackCase):
    def test_what_is_asked_in_a_turn_is_one_message_and_its_answers_another(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"v"))
        messages = self.counted(pair)
        waiting: list[Deferred[Any]] = [b.get("k"), b.set("l", b"w"), b.get("l"), b.get("none")]
        self.assertEqual([pair.run(one) for one in waiting], [b"v", 2, b"w", None])
        self.assertEqual([read_request(message).action for message in messages], [Action.PACK])
        self.assertEqual(pair.run(b.get("l")), b"w")
        self.assertEqual(read_request(messages[1]).action, Action.GET)

    def test_packs_are_bounded_in_number_and_size_and_keep_the_order(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"0"))
        messages = self.counted(pair)
        sizes = [1, 1, 4000, 4000, 4000, 4000, 9000, 1] + [1] * 600
        for number, size in enumerate(sizes):
            b.set("k", b"%d" % number + bytes(size))
        self.assertEqual(pair.run(b.get("k")), b"607\0")
        self.assertEqual(pair.run(b.entry("k")).revision, 609)
        self.assertLess(len(messages), 12)
        for message in messages:
            request = read_request(message)
            self.assertLessEqual(len(request.values), MAX_PACK)
            if request.action == Action.PACK:
                self.assertLessEqual(len(message), (1 << 14) + 256)

    def test_a_peer_that_takes_small_messages_only(self) -> None:
        small = SessionSettings(max_message=1000)
        pair, b = self.connect(settings=small)
        waiting = [b.set(f"k{number}", bytes(number)) for number in range(100)]
        self.assertEqual([pair.run(one) for one in waiting], list(range(1, 101)))
        found = [b.get(f"k{number}") for number in range(100)]
        self.assertEqual([len(pair.run(one)) for one in found], list(range(100)))

    def test_a_client_that_packs_nothing_gets_nothing_packed(self) -> None:
        pair = self.pair()
        inbox = self.raw(pair)
        for id in (1, 2):
            inbox.channel.send(ask("k", id))
        replies = [read_reply(pair.run(inbox.get())) for _ in range(2)]
        self.assertEqual([(r.id, r.packed) for r in replies], [(1, False), (2, False)])
        inbox.channel.send(pack_requests([ask("k", 3), ask("k", 4)]))
        packed = read_reply(pair.run(inbox.get()))
        self.assertEqual([reply.id for reply in packed_replies(packed)], [3, 4])

    def test_answers_that_are_not_read_stop_a_pack_in_its_midst(self) -> None:
        pair, b = self.connect(settings=SessionSettings(high_water=1 << 16, compression=None))
        pair.run(b.set("k", bytes(1 << 16)))
        pair.server_transport.pause()
        waiting = [b.get("k") for _ in range(200)]
        pair.advance(1)
        self.assertLess(sum(channel.queued for channel in pair.server.channels), 1 << 19)
        pair.server_transport.resume()
        for one in waiting:
            self.assertEqual(len(pair.run(one)), 1 << 16)

    def test_the_first_answers_leave_before_the_last_are_made(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"v"))
        inbox = self.raw(pair)
        inbox.channel.send(pack_requests([ask("k", number) for number in range(100)]))
        inbox.channel.send(ask("k", 100))
        packs = [[0]]
        while packs[-1][-1] < 100:
            reply = read_reply(pair.run(inbox.get()))
            found = packed_replies(reply) if reply.packed else [reply]
            packs.append([one.id for one in found])
        self.assertEqual([len(pack) for pack in packs[1:]], [32, 32, 32, 5])
        self.assertEqual([id for pack in packs[1:] for id in pack], list(range(101)))

    def test_a_channel_that_is_reset_before_the_next_turn(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"v"))
        inbox = self.raw(pair)
        inbox.channel.send(pack_requests([ask("k", number) for number in range(100)]))
        self.assertEqual(len(packed_replies(read_reply(pair.run(inbox.get())))), 32)
        inbox.channel.reset()
        self.assertEqual(pair.run(b.get("k")), b"v")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_what_was_asked_is_sent_before_the_end(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("k", b"v"))
        waiting = [b.get("k"), b.get("k")]
        b.client.close()
        self.assertEqual([pair.run(one) for one in waiting], [b"v", b"v"])

    def test_a_full_queue_is_said_at_once(self) -> None:
        pair, b = self.connect(client_settings=SessionSettings(send_limit=1 << 16, high_water=1))
        pair.run(b.set("k", b"v"))
        pair.client_transport.pause()
        waiting = [b.set("k", bytes(3000)) for _ in range(100)]
        full = [one for one in waiting if one.called]
        self.assertGreater(len(full), 50)
        for one in full:
            self.failureResultOf(one, QueueFull)
        pair.client_transport.resume()
        for one in waiting[: 100 - len(full)]:
            pair.run(one)


class RefusalTests(PackCase):
    def test_the_write_that_is_the_reason_is_said(self) -> None:
        pair, b = self.connect()
        pair.run(b.set("text", b"x"))
        for batch, position in (
            (b.batch().set("k", b"").check("k", 7), 1),
            (b.batch().set("k", b"").set("l", b"").increment("text"), 2),
            (b.batch().set("\n", b"").set("k", b""), 0),
        ):
            with self.assertRaises(KeyValueError) as raised:
                pair.run(batch.send())
            self.assertEqual(raised.exception.position, position)
        with self.assertRaises(KeyValueError) as raised:
            pair.run(b.get("\n"))
        self.assertIsNone(raised.exception.position)


class HostileTests(PackCase):
    def test_a_malformed_pack_does_nothing_and_costs_the_channel_only(self) -> None:
        pair, b = self.connect()
        write = encode_request(Action.SET, "b", "k", id=1, names=("",), values=(b"v",))
        for bad in (
            pack_requests([write, b"rubbish"]),
            pack_requests([write, write[:-1]]),
            pack_requests([write] * (MAX_PACK + 1)),
            pack_requests([write, write])[:-1],
            pack_requests([write, b""]),
            pack_requests([]),
        ):
            inbox = self.raw(pair)
            inbox.channel.send(bad)
            with self.assertRaises(ChannelReset) as raised:
                pair.run(inbox.get())
            self.assertEqual(raised.exception.code, ResetCode.BAD_MESSAGE)
        self.assertIsNone(pair.run(b.get("k")))

    def test_what_cannot_be_packed_is_refused_and_the_rest_is_done(self) -> None:
        pair = self.pair()
        inbox = self.raw(pair)
        inner = pack_requests([ask("k", 2)])
        watch = encode_request(Action.WATCH, "b", id=3)
        future = encode_request(Action.GET, "b", "k", id=4, version=2)
        inbox.channel.send(pack_requests([ask("k", 1), inner, watch, future, ask("k", 5)]))
        replies = packed_replies(read_reply(pair.run(inbox.get())))
        self.assertEqual(
            [(reply.id, reply.status) for reply in replies],
            [(1, 0), (0, Status.UNSUPPORTED), (3, Status.INVALID), (4, Status.UNSUPPORTED), (5, 0)],
        )
        inbox.channel.send(encode_request(Action.PACK, "", id=6, version=2, values=[b"?"]))
        reply = read_reply(pair.run(inbox.get()))
        self.assertEqual((reply.id, reply.status), (6, Status.UNSUPPORTED))

    def test_nothing_more_is_done_after_what_breaks_the_channel(self) -> None:
        pair, b = self.connect()
        write = encode_request(Action.SET, "b", "k", id=1, names=("",), values=(b"v",))
        broken = encode_request(Action.BATCH, "b", id=2, values=[b"rubbish"])
        inbox = self.raw(pair)
        inbox.channel.send(pack_requests([broken, write]))
        with self.assertRaises(ChannelReset):
            pair.run(inbox.get())
        pair.advance(1)
        self.assertIsNone(pair.run(b.get("k")))

    def test_packs_of_the_server_that_are_none(self) -> None:
        good = encode_reply(1, [b"v"], revision=1)
        for bad in (
            pack_replies([pack_replies([good])]),
            pack_replies([good, b"rubbish"]),
            pack_replies([good] * (MAX_PACK + 1)),
            encode_reply(0, [None], packed=True),
            pack_replies([]),
        ):

            class Wrong(ChannelProtocol):
                answer = bad

                def message_received(self, message: bytes) -> None:
                    self.channel.send(self.answer)

            pair = SessionPair({KV: Wrong}, identity=IDENTITY, clock=self.clock)
            waiting = KeyValueClient(pair.client, clock=self.clock).bucket("b").get("k")
            with self.assertRaises(ChannelReset) as raised:
                pair.run(waiting)
            self.assertEqual(raised.exception.code, ResetCode.BAD_MESSAGE)
            self.assertTrue(pair.client.accepts_channels)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.sampled_from(["get", "set", "list"]), max_size=20), st.data())
    def test_any_bytes_in_a_pack_reset_the_channel_or_are_answered(
        self, kinds: list[str], data: st.DataObject
    ) -> None:
        made = {
            "get": ask("k", 7),
            "set": encode_request(Action.SET, "b", "k", id=7, names=("",), values=(b"v",)),
            "list": encode_request(Action.KEYS, "b", id=7),
        }
        message = bytearray(pack_requests([made[kind] for kind in kinds]))
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
        pair = self.pair()
        inbox = self.raw(pair)
        inbox.channel.send(message)
        inbox.channel.send(ask("k", 9))
        try:
            found = read_reply(pair.run(inbox.get()))
            self.assertIn(found.status, set(Status))
        except ChannelReset as error:
            self.assertEqual(error.code, ResetCode.BAD_MESSAGE)
        self.assertTrue(pair.client.accepts_channels)
        self.assertEqual(self.flushLoggedErrors(), [])


class BoundTests(PackCase):
    def test_writes_that_are_refused_at_once(self) -> None:
        offer = KeyValueOffer(self.folder, now=self.now, in_thread=self.disk)
        offer.start(self.clock)
        pair = SessionPair(offer.services, identity=IDENTITY, clock=self.clock)
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        self.disk.slow = True
        first = b.set("k", b"v")
        pair.advance(1)
        offer.stop()
        waiting = [b.set(f"k{number}", b"") for number in range(600)]
        for one in waiting:
            with self.assertRaises(KeyValueError) as raised:
                pair.run(one)
            self.assertEqual(raised.exception.code, Status.FAILED)
        self.disk.finish()
        self.assertEqual(pair.run(first), 1)

    def test_packs_do_not_add_to_what_may_be_under_way(self) -> None:
        pair, _ = self.connect()
        self.disk.slow = True
        inbox = self.raw(pair)
        for start in range(0, 2000, 200):
            writes = [
                encode_request(Action.SET, "b", f"k{n}", id=n, names=("",), values=(b"",))
                for n in range(start, start + 200)
            ]
            inbox.channel.send(pack_requests(writes))
        pair.advance(1)
        (channel,) = pair.server.channels
        protocol: Any = channel.protocol
        self.assertIsInstance(protocol, KeyValueChannel)
        self.assertEqual(protocol._pending, 1024)
        self.assertLess(len(protocol._waiting), MAX_PACK)
        self.disk.slow = False
        self.disk.finish()
        found = 0
        while found < 2000:
            found += len(packed_replies(read_reply(pair.run(inbox.get()))))
