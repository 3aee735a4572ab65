"""Clients that do not keep to the protocol: a typed reset, a session that lives, bounded work."""

from __future__ import annotations

from typing import Any

from jetstreamproto.errors import ChannelReset
from jetstreamproto.services.events import messages
from jetstreamproto.services.events.messages import (
    ACK,
    BATCH,
    EVENTS,
    MANAGE,
    REFUSED,
    SUBSCRIBE,
    Ack,
    Action,
    Kind,
    Manage,
    Subscribe,
    decode_part,
    encode_part,
    encode_publish,
)
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.limits import MAX_PAYLOAD
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.session.codes import ResetCode
from tests.doubles import Recorder
from tests.unit.services.events.server import EventCase

PUBLISHER = encode_part(Kind.PUBLISHER, b"me")
SUBSCRIBER = encode_part(Kind.SUBSCRIBE, SUBSCRIBE.encode(Subscribe("a")))


class HostileTests(EventCase):
    def say(self, *said: bytes) -> Recorder:
        """A channel on which these messages are sent, a second later."""
        recorder = self.run_now(self.pair.client.open(EVENTS, Recorder()))
        for message in said:
            recorder.channel.send(message)
        self.advance(1)
        return recorder

    def resets(self, code: int, *said: bytes) -> None:
        recorder = self.say(*said)
        reason: Any = recorder.reason
        self.assertIsInstance(reason, ChannelReset, said)
        self.assertEqual(reason.code, code, reason)
        self.assertTrue(reason.reason)
        self.assertEqual(self.pair.server.channels, ())
        self.run_now(self.client.publish("still", b"here"))
        self.run_now(self.client.close())
        self.advance(1)
        self.client = type(self.client)(self.pair.client)

    def test_no_message_at_all(self) -> None:
        self.resets(ResetCode.BAD_MESSAGE, b"")
        self.resets(ResetCode.BAD_MESSAGE, b"\xff" * 100)
        self.resets(ResetCode.BAD_MESSAGE, bytes(5 << 20))

    def test_messages_out_of_place(self) -> None:
        publish = encode_part(Kind.PUBLISH, encode_publish([("a", b"")]))
        for said in (
            (publish,),
            (encode_part(Kind.EVENTS),),
            (encode_part(Kind.NONE),),
            (PUBLISHER, PUBLISHER),
            (PUBLISHER, encode_part(Kind.ACK)),
            (SUBSCRIBER, publish),
            (SUBSCRIBER, encode_part(Kind.ACK, ACK.encode(Ack((1,))))),
            (encode_part(Kind.PUBLISHER),),
            (encode_part(Kind.PUBLISHER, bytes(65)),),
            (PUBLISHER, encode_part(Kind.PUBLISH, b"nothing")),
            (PUBLISHER, encode_part(Kind.PUBLISH, encode_publish([("a", b"")]), (1 << 64) - 1)),
        ):
            with self.subTest(said):
                self.resets(ResetCode.BAD_MESSAGE, *said)

    def test_another_version(self) -> None:
        version = messages.VERSION
        try:
            messages.VERSION = 9  # type: ignore[misc]
            message = encode_part(Kind.PUBLISHER, b"me")
        finally:
            messages.VERSION = version  # type: ignore[misc]
        self.resets(EventCode.VERSION, message)

    def test_nothing_is_asked_for(self) -> None:
        recorder = self.say()
        self.advance(20)
        reason: Any = recorder.reason
        self.assertEqual(reason.code, ResetCode.TIMED_OUT)

    def test_refused_publishes_are_answered_and_the_channel_goes_on(self) -> None:
        bad = [
            encode_part(Kind.PUBLISH, encode_publish([(topic, payload)]), number)
            for number, (topic, payload) in enumerate(
                [("a.*", b""), ("$dead.x", b""), ("a..b", b""), ("a", bytes(MAX_PAYLOAD + 1))]
            )
        ]
        good = encode_part(Kind.PUBLISH, encode_publish([("a", b"")]), 9)
        recorder = self.say(PUBLISHER, *bad, good)
        answers = [decode_part(message) for message in recorder.messages]
        self.assertEqual(
            [a[:2] for a in answers], [(Kind.REFUSED, n) for n in range(4)] + [(Kind.PUBLISHED, 9)]
        )
        for _, _, body in answers[:4]:
            self.assertIn(REFUSED.decode(body).code, (EventCode.BAD_TOPIC, EventCode.LIMIT))

    def test_requests_without_a_stream_and_with_absurd_ones(self) -> None:
        requests = [
            Manage(Action.ADD),
            Manage(Action.ADD, StreamConfig("s", ("a",), float("nan"))),
            Manage(Action.ADD, StreamConfig("s", ("a",), float("inf"))),
            Manage(Action.ADD, StreamConfig("s", ("a",), -1.0)),
            Manage(Action.ADD, StreamConfig("s", ("a",), 0.0, (1 << 64) - 1)),
            Manage(Action.ADD, StreamConfig("s", ("a",) * 65)),
            Manage(Action.INFO, StreamConfig("\x1b[2J", ())),
            Manage(Action.FORGET, StreamConfig("none", ()), "x"),
        ]
        recorder = self.say(*[encode_part(Kind.MANAGE, MANAGE.encode(r), 1) for r in requests])
        kinds = [decode_part(message)[0] for message in recorder.messages]
        self.assertEqual(kinds, [Kind.REFUSED] * len(requests))
        self.assertIsNone(recorder.reason)
        self.assertEqual(self.server.broker.streams(), [])

    def test_subscriptions_that_cannot_be(self) -> None:
        self.run_now(self.client.add_stream("s", ["s.>"]))
        for request, code in (
            (Subscribe("a*"), EventCode.BAD_TOPIC),
            (Subscribe("a", group="x.y"), EventCode.BAD_TOPIC),
            (Subscribe("s.a", durable="x.y"), EventCode.BAD_TOPIC),
            (Subscribe("a", durable="d"), EventCode.NO_STREAM),
            (Subscribe("s.a", durable="d", max_pending=1 << 31), EventCode.LIMIT),
            (Subscribe("s.a", durable="d", max_deliver=256), EventCode.LIMIT),
            (Subscribe("s.a", durable="d", ack_wait_ms=(1 << 32) - 1), EventCode.LIMIT),
        ):
            with self.subTest(request):
                self.resets(code, encode_part(Kind.SUBSCRIBE, SUBSCRIBE.encode(request)))

    def test_a_batch_of_nothing_but_topics(self) -> None:
        """As many topics as a message may have cost no more than the message itself."""
        names = tuple(f"t.{number}" for number in range(4096))
        batch = messages.Events(names, tuple(range(4096)), (0,) * 4096, b"")
        said = [encode_part(Kind.PUBLISH, BATCH.encode(batch), n * 4096) for n in range(3)]
        recorder = self.say(PUBLISHER, *said)
        self.assertEqual(len(recorder.messages), 3)
        self.assertLessEqual(len(self.server.broker._targets._answers), 8192)
