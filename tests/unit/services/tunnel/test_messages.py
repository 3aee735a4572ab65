from __future__ import annotations

import contextlib
import random
import struct
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.services.tunnel.messages import REPLY, REQUEST, Purpose, Reply, Request
from jetstreamproto.wire.schema_parser import load_schema
from tests.unit.wire.test_layout_oracle import build, plain, read

dice_rolls = st.randoms(use_true_random=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
PORTS = st.integers(0, 65535)
REQUESTS = st.builds(Request, st.sampled_from(Purpose), TEXTS, PORTS, st.integers(0, (1 << 32) - 1))
REPLIES = st.builds(Reply, TEXTS, PORTS)


class MessageTests(unittest.TestCase):
    @settings(deadline=None)
    @given(REQUESTS, dice_rolls)
    def test_requests(self, request: Request, dice: random.Random) -> None:
        table = load_schema("tunnel.fbs").table("Request")
        self.assertEqual(REQUEST.decode(REQUEST.encode(request)), request)
        self.assertEqual(REQUEST.decode(build(table, request, dice)), request)
        self.assertEqual(plain(read(table, REQUEST.encode(request))), plain(request))

    @settings(deadline=None)
    @given(REPLIES, dice_rolls)
    def test_replies(self, reply: Reply, dice: random.Random) -> None:
        table = load_schema("tunnel.fbs").table("Reply")
        self.assertEqual(REPLY.decode(REPLY.encode(reply)), reply)
        self.assertEqual(REPLY.decode(build(table, reply, dice)), reply)
        self.assertEqual(plain(read(table, REPLY.encode(reply))), plain(reply))

    def test_purposes_are_those_of_the_schema(self) -> None:
        members = load_schema("tunnel.fbs").enums["Purpose"].members
        self.assertEqual(dict(members), {one.name: one.value for one in Purpose})

    def test_a_host_is_required_and_a_purpose_known(self) -> None:
        with self.assertRaisesRegex(WireError, "Request lacks its required field host"):
            REQUEST.decode(struct.pack("<IHHi", 8, 4, 4, 4))
        data = bytearray(REQUEST.encode(Request(Purpose.ACCEPTED, "h", 0x4142, 0)))
        data[data.index(b"\x42\x41") + 2] = 9
        with self.assertRaisesRegex(WireError, "9 is no value of Purpose"):
            REQUEST.decode(bytes(data))

    @given(st.binary(max_size=80))
    def test_any_bytes_are_a_message_or_a_wire_error(self, data: bytes) -> None:
        for codec in (REQUEST, REPLY):
            with contextlib.suppress(WireError):
                codec.decode(data)
