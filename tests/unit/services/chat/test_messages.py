from __future__ import annotations

import contextlib
import random
import unittest
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.services.chat.messages import (
    ANSWER,
    NOTICE,
    REQUEST,
    Answer,
    Request,
)
from jetstreamproto.services.chat.model.notice import Member, Notice, NoticeKind
from jetstreamproto.wire.schema_parser import load_schema
from tests.unit.wire.test_layout_oracle import build, plain, read

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
MEMBERS = st.lists(st.builds(Member, TEXTS, st.booleans(), st.booleans()), max_size=3).map(tuple)
NOTICE_VALUES = st.builds(Notice, st.sampled_from(NoticeKind), TEXTS, TEXTS, TEXTS, TEXTS, U64, U64)
NOTICES = st.lists(NOTICE_VALUES, max_size=3).map(tuple)
TABLES: dict[str, Any] = {
    "Request": (
        REQUEST,
        st.builds(Request, U64, U32, U32, U8, U8, TEXTS, TEXTS, TEXTS, st.binary(max_size=20)),
    ),
    "Answer": (
        ANSWER,
        st.builds(
            Answer,
            U64, U32, U32, U16, st.booleans(), TEXTS, TEXTS, TEXTS, TEXTS, MEMBERS, NOTICES,
        ),
    ),
    "Notice": (NOTICE, NOTICE_VALUES),
}  # fmt: skip


class LayoutTests(unittest.TestCase):
    @settings(deadline=None, max_examples=50)
    @given(st.data(), st.randoms(use_true_random=False))
    def test_the_flatbuffers_library_reads_and_writes_the_same(
        self, data: st.DataObject, dice: random.Random
    ) -> None:
        for name, (codec, values) in TABLES.items():
            table = load_schema("chat.fbs").table(name)
            value = data.draw(values)
            message = codec.encode(value)
            expected = [list(v) if isinstance(v, bytes) else v for v in plain(value)]
            self.assertEqual(plain(read(table, message)), expected)
            for one in (message, build(table, value, dice)):
                self.assertEqual(codec.decode(one), value)

    @given(st.binary(max_size=120), st.integers(0, 300), st.binary(max_size=4))
    def test_any_bytes_are_a_message_or_a_wire_error(
        self, data: bytes, at: int, other: bytes
    ) -> None:
        notice = Notice(NoticeKind.SAID, "lobby", "al", "", "hello", 1, 2)
        good = ANSWER.encode(Answer(members=(Member("al"),), notices=(notice,)))
        for broken in (data, good[:at] + other + good[at + len(other) :], good[:at]):
            for codec, _ in TABLES.values():
                with contextlib.suppress(WireError):
                    codec.decode(broken)
