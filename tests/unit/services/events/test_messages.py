"""The messages against the flatbuffers package, and against bytes that nobody meant."""

from __future__ import annotations

import contextlib
import random
import unittest
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.services.events import messages
from jetstreamproto.services.events.messages import (
    ACK,
    BATCH,
    MANAGE,
    PUBLISHED,
    REFUSED,
    STREAMS,
    SUBSCRIBE,
    SUBSCRIBED,
    Action,
    Answer,
    Consumer,
    Kind,
    Manage,
    Published,
    Stream,
    Streams,
    Subscribe,
    UnknownVersion,
    decode_events,
    decode_part,
    decode_publish,
    encode_events,
    encode_part,
    encode_publish,
)
from jetstreamproto.services.events.model.event import Event, Policy, Start
from jetstreamproto.services.events.model.limits import MAX_BATCH
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.wire.schema_parser import load_schema
from tests.unit.wire.test_layout_oracle import build, plain, read

U8, U16, U32, U63 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 63))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=9)
NUMBERS = st.lists(U63, max_size=5).map(tuple)
CONFIGS = st.builds(
    StreamConfig, TEXTS, st.lists(TEXTS, max_size=3).map(tuple), st.floats(0, 1e9), U63, U63
)
VALUES: dict[str, tuple[Any, Any]] = {
    "Events": (
        BATCH,
        st.builds(
            messages.Events,
            st.lists(TEXTS, max_size=3).map(tuple),
            st.lists(U16, max_size=4).map(tuple),
            st.lists(U32, max_size=4).map(tuple),
            st.binary(max_size=9),
            U63,
            NUMBERS,
            NUMBERS,
            st.lists(U8, max_size=4).map(tuple),
        ),
    ),
    "Published": (PUBLISHED, st.builds(Published, NUMBERS, st.binary(max_size=4))),
    "Refused": (REFUSED, st.builds(messages.Refused, U16, TEXTS)),
    "Subscribe": (
        SUBSCRIBE,
        st.builds(
            Subscribe,
            *(TEXTS, st.sampled_from(Start), U63, st.sampled_from(Policy)),
            *(U32, U32, TEXTS, TEXTS, U32, U32, U32, NUMBERS),
        ),
    ),
    "Subscribed": (SUBSCRIBED, st.builds(messages.Subscribed, TEXTS, U63, U63)),
    "Ack": (ACK, st.builds(messages.Ack, NUMBERS, st.sampled_from(Answer), U32)),
    "Manage": (MANAGE, st.builds(Manage, st.sampled_from(Action), CONFIGS, TEXTS)),
    "Streams": (
        STREAMS,
        st.builds(
            Streams,
            st.lists(
                st.builds(
                    Stream,
                    *(CONFIGS, U63, U63, U63, U63),
                    st.lists(
                        st.builds(Consumer, TEXTS, TEXTS, TEXTS, U63, U32, U32), max_size=2
                    ).map(tuple),
                ),
                max_size=2,
            ).map(tuple),
        ),
    ),
}
EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(["a", "b.c", "ä"]),
        st.binary(max_size=9),
        U63,
        U63,
        st.integers(1, 255),
    ),
    min_size=1,
    max_size=20,
)


def listed(value: Any) -> Any:
    """As the library's reader tells it: bytes are lists too."""
    return [list(v) if isinstance(v, bytes) else v for v in plain(value)]


class LayoutTests(unittest.TestCase):
    @settings(deadline=None, max_examples=40)
    @given(st.data(), st.randoms(use_true_random=False))
    def test_the_flatbuffers_library_reads_and_writes_the_same(
        self, data: st.DataObject, dice: random.Random
    ) -> None:
        for name, (codec, values) in VALUES.items():
            table = load_schema("events.fbs").table(name)
            value = data.draw(values)
            self.assertEqual(plain(read(table, codec.encode(value))), listed(value))
            self.assertEqual(codec.decode(codec.encode(value)), value)
            self.assertEqual(codec.decode(build(table, value, dice)), value)

    @given(EVENTS)
    def test_events_come_back(self, events: list[Event]) -> None:
        self.assertEqual(decode_events(encode_events(events)), events)
        pairs = [event[:2] for event in events]
        names, found = decode_publish(encode_publish(pairs))
        self.assertEqual(found, pairs)
        self.assertEqual(set(names), {topic for topic, _ in pairs})

    @given(st.binary(max_size=50), U63)
    def test_parts_come_back_from_either_layout(self, body: bytes, number: int) -> None:
        message = encode_part(Kind.ACK, body, number)
        self.assertEqual(decode_part(message), (Kind.ACK, number, body))
        table = load_schema("events.fbs").table("Part")
        value = (number, int(Kind.ACK), messages.VERSION, memoryview(body))
        other = build(table, messages._Part(*value), random.Random(number))
        self.assertEqual(decode_part(other), (Kind.ACK, number, body))


class HostileTests(unittest.TestCase):
    @given(EVENTS, st.data())
    def test_any_bytes_are_events_or_a_wire_error(
        self, events: list[Event], data: st.DataObject
    ) -> None:
        good = encode_events(events)
        at = data.draw(st.integers(0, len(good)))
        other = data.draw(st.binary(max_size=8))
        for bad in (good[:at] + other + good[at + len(other) :], good[:at], other):
            for parse in (decode_events, decode_publish, decode_part):
                with contextlib.suppress(WireError):
                    parse(bad)

    def test_columns_that_do_not_fit(self) -> None:
        fine = messages.Events(("a",), (), (1, 2), b"xy")
        self.assertEqual(len(decode_events(BATCH.encode(fine))), 2)
        for bad in (
            fine._replace(names=()),
            fine._replace(names=("a", "b", "c")),
            fine._replace(topics=(0,)),
            fine._replace(topics=(0, 1)),
            fine._replace(ends=()),
            fine._replace(ends=(2, 1)),
            fine._replace(ends=(1, 3)),
            fine._replace(ends=(1, 1)),
            fine._replace(sequences=(1,)),
            fine._replace(times=(1, 2, 3)),
            fine._replace(attempts=(1,)),
            messages.Events(("a",), (), (0,) * (MAX_BATCH + 1), b""),
        ):
            with self.subTest(bad), self.assertRaises(WireError):
                decode_events(BATCH.encode(bad))

    def test_another_version(self) -> None:
        message = bytearray(encode_part(Kind.ACK, b"body"))
        at = next(
            i
            for i in range(len(message))
            if message[i] == messages.VERSION
            and decode_fails(bytes(message[:i]) + b"\7" + bytes(message[i + 1 :]))
        )
        message[at] = 7
        self.assertRaises(UnknownVersion, decode_part, bytes(message))


def decode_fails(message: bytes) -> bool:
    try:
        decode_part(message)
    except UnknownVersion:
        return True
    except WireError:
        pass
    return False
