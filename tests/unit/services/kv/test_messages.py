from __future__ import annotations

import contextlib
import random
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.services.kv.envelope import pack, unpack
from jetstreamproto.services.kv.messages import (
    ENTRY,
    REPLY,
    REQUEST,
    EntryTable,
    Reply,
    ReplyTable,
    Request,
    RequestTable,
    encode_entry,
    encode_reply,
    encode_request,
    encode_step,
    read_entry,
    read_reply,
    read_request,
    read_step,
)
from jetstreamproto.services.kv.model import (
    WRITES,
    Action,
    ChangeKind,
    KeyEntry,
    Refusal,
    Status,
    Step,
)
from jetstreamproto.wire.schema_parser import load_schema
from tests.unit.wire.test_layout_oracle import build, plain, read

dice_rolls = st.randoms(use_true_random=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.lists(TEXTS, max_size=3).map(tuple)
STRINGS = st.binary(max_size=5)
U8, U16, U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
DATA = st.binary(max_size=20).map(memoryview)
TABLES = {
    "Request": (
        REQUEST,
        st.builds(RequestTable, I64, I64, U32, U32, U16, U16, U16, U8, U8, U8, DATA),
    ),
    "Reply": (
        REPLY,
        st.builds(ReplyTable, I64, I64, U32, U16, U16, U8, st.booleans(), st.booleans(), DATA),
    ),
    "Entry": (ENTRY, st.builds(EntryTable, I64, I64, U16, U16, U16, U8, st.booleans(), DATA)),
}


class LayoutTests(unittest.TestCase):
    @settings(deadline=None, max_examples=50)
    @given(st.data(), dice_rolls)
    def test_the_flatbuffers_library_reads_and_writes_the_same(
        self, data: st.DataObject, dice: random.Random
    ) -> None:
        for name, (envelope, values) in TABLES.items():
            table = load_schema("kv.fbs").table(name)
            value = data.draw(values)
            message = envelope.encode(bytes(value.data), *value[:-1])
            expected = [list(v) if isinstance(v, bytes) else v for v in plain(value)]
            self.assertEqual(plain(read(table, message)), expected)
            self.assertEqual(envelope.codec.decode(message), value)
            for one in (message, build(table, value, dice)):
                (_, *numbers, _), buffer, start = envelope.decode(one)
                self.assertEqual((*numbers, buffer[start:]), (*value[:-1], bytes(value.data)))

    @given(st.binary(max_size=120), st.integers(0, 120), st.binary(max_size=4))
    def test_any_bytes_are_a_message_or_a_wire_error(
        self, data: bytes, at: int, other: bytes
    ) -> None:
        good = encode_request(Action.SET, "bucket", "key", names=["n"], values=[b"v"])
        for message in (data, good[:at] + other + good[at + len(other) :], good[:at]):
            for parse in (read_request, read_reply, read_entry):
                with contextlib.suppress(WireError):
                    parse(message)


class ByteStringTests(unittest.TestCase):
    @given(st.binary(max_size=3), st.lists(st.none() | STRINGS, max_size=20))
    def test_they_come_back(self, before: bytes, values: list[bytes | None]) -> None:
        self.assertEqual(unpack(before + pack(values), len(before), len(values)), values)

    def test_sizes_that_do_not_fit(self) -> None:
        for data, count in (
            (b"x", 0),
            (b"", 1),
            (b"\1\0\0\0", 1),
            (b"\1\0\0\0xy", 1),
            (b"\2\0\0\0\2\0\0\0abc", 2),
            (b"\xfe\xff\xff\xffab", 1),
            (b"\xff\xff\xff\xffab", 1),
            (b"\0\0\0\0", 65535),
        ):
            with self.assertRaises(WireError):
                unpack(data, 0, count)
        with self.assertRaises(WireError):
            unpack(b"abc", 9, 0)


class MessageTests(unittest.TestCase):
    @given(
        st.builds(
            Request,
            U8,
            U8,
            U32,
            U32,
            I64,
            I64,
            TEXTS,
            TEXTS,
            NAMES,
            st.lists(STRINGS, max_size=3).map(tuple),
        )
    )
    def test_requests_come_back(self, request: Request) -> None:
        fields = request._asdict()
        message = encode_request(**fields)
        self.assertEqual(read_request(message), request)

    @given(
        U32,
        st.lists(st.none() | STRINGS, max_size=3),
        NAMES,
        I64,
        I64,
        st.booleans(),
        st.sampled_from(Status),
    )
    def test_replies_come_back(
        self,
        id: int,
        values: list[bytes | None],
        names: tuple[str, ...],
        revision: int,
        expires: int,
        more: bool,
        status: Status,
    ) -> None:
        message = encode_reply(
            id, values, names=names, revision=revision, expires=expires, more=more, status=status
        )
        expected = Reply(id, status, more, revision, expires, names, values)
        self.assertEqual(read_reply(message), expected)

    def test_what_a_message_cannot_hold(self) -> None:
        for options in (
            {"bucket": "b" * 256},
            {"bucket": "b", "key": "k" * 65536},
            {"bucket": "b", "revision": 1 << 63},
            {"bucket": "b", "limit": -1},
            {"bucket": "b", "names": [""] * 65536},
            {"bucket": "\ud800"},
        ):
            with self.assertRaises(ValueError):
                encode_request(Action.GET, **options)  # type: ignore[arg-type]

    def test_text_that_is_none(self) -> None:
        message = encode_request(Action.GET, "bucket", "key", names=["name"])
        for text in (b"bucket", b"key", b"name"):
            with self.assertRaisesRegex(WireError, "UTF-8"):
                read_request(message.replace(text, b"\xff" * len(text)))

    def test_a_value_that_is_absent_is_no_request(self) -> None:
        message = encode_request(Action.SET, "b", "k", values=[b"v"])
        absent = message[: -len(b"\1\0\0\0v")] + b"\xff\xff\xff\xff"
        with self.assertRaises(WireError):
            read_request(absent)


class StepTests(unittest.TestCase):
    @given(
        st.builds(
            Step,
            st.sampled_from(sorted(WRITES)),
            TEXTS,
            NAMES,
            st.lists(STRINGS, max_size=3).map(tuple),
            I64,
            I64,
        )
    )
    def test_they_come_back(self, step: Step) -> None:
        self.assertEqual(read_step(read_request(encode_step(step, "bucket"))), step)

    def test_what_is_no_write(self) -> None:
        for action in (Action.GET, Action.BATCH, Action.WATCH):
            with self.assertRaises(Refusal):
                read_step(read_request(encode_step(Step(action, "k"))))


class EntryTests(unittest.TestCase):
    def test_they_come_back(self) -> None:
        for entry in (
            KeyEntry(ChangeKind.PUT, "k", 7, 99, {"": b"value", "a": b""}),
            KeyEntry(ChangeKind.PUT, "k", 7, 99, {}),
            KeyEntry(ChangeKind.PUT, "k", 7),
            KeyEntry(ChangeKind.EXPIRED, "k", 1 << 60),
        ):
            self.assertEqual(read_entry(encode_entry(entry)), entry)

    def test_bad_ones(self) -> None:
        data = b"k" + pack([b"a", b"x"])
        self.assertEqual(read_entry(ENTRY.encode(data, 1, 0, 1, 1, 1, 0, True)).key, "k")
        for bad in ((1, 0, 1, 1, 1, 9, True), (1, 0, 1, 2, 0, 0, True), (1, 0, 2, 1, 1, 0, True)):
            with self.assertRaises(WireError):
                read_entry(ENTRY.encode(data, *bad))
