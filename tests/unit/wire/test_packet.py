"""Packets, and the messages of a session that travel in their payloads."""

from __future__ import annotations

import random
import struct
import unittest
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.wire.packet import (
    HEAD_SIZE,
    Flag,
    Kind,
    PacketParts,
    cut_batch,
    encode_head,
    split_packets,
)
from jetstreamproto.wire.schema_parser import load_schema
from jetstreamproto.wire.session_messages import HELLO, OPEN, Hello, Mode, Open
from tests.unit.wire.test_layout_oracle import build, plain, read

PACKET = load_schema("packet.fbs").table("Packet")


class Header(NamedTuple):
    """The table's struct, for the other implementation."""

    seq: int
    channel: int
    kind: int
    flags: int
    code: int


class Packet(NamedTuple):
    """The table, for the other implementation."""

    header: Header
    payload: bytes | None


headers = st.builds(
    Header,
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
)
packets = st.builds(Packet, headers, st.none() | st.binary(max_size=40))
dice_rolls = st.randoms(use_true_random=False)


def encode(packet: Packet) -> bytes:
    payload = packet.payload or b""
    return encode_head(*packet.header, len(payload)) + payload


def unpacked(parts: PacketParts) -> Packet:
    return Packet(Header(*parts[:5]), bytes(parts[5]))


def split(plaintext: bytes) -> list[Packet]:
    return [unpacked(parts) for parts in split_packets(plaintext)]


def without_none(sent: list[Packet]) -> list[Packet]:
    """What the receiver sees: an absent payload is an empty one."""
    return [packet._replace(payload=packet.payload or b"") for packet in sent]


class HeadTests(unittest.TestCase):
    def test_its_bytes(self) -> None:
        head = encode_head(1 << 40, 3, Kind.DATA, Flag.MORE | Flag.LZ4, 0x1234, 7)
        self.assertEqual(HEAD_SIZE, 44)
        self.assertEqual(
            head,
            struct.pack("<II", 47, 12)  # size, offset of the root
            + struct.pack("<4H", 8, 24, 8, 4)  # vtable: its size, the table's, the two fields
            + struct.pack("<iI", 8, 20)  # the table: back to the vtable, on to the payload
            + struct.pack("<QIBBH", 1 << 40, 3, 4, 3, 0x1234)
            + struct.pack("<I", 7),
        )

    def test_numbers_that_do_not_fit(self) -> None:
        for numbers in [
            (1 << 64, 0, 0, 0, 0, 0),
            (-1, 0, 0, 0, 0, 0),
            (0, 1 << 32, 0, 0, 0, 0),
            (0, 0, 256, 0, 0, 0),
            (0, 0, 0, 256, 0, 0),
            (0, 0, 0, 0, 65536, 0),
            (0, 0, 0, 0, 0, (1 << 32) - 1),
        ]:
            with self.subTest(numbers), self.assertRaisesRegex(ValueError, "Packet: "):
                encode_head(*numbers)

    @settings(deadline=None)
    @given(packets)
    def test_the_other_implementation_reads_it(self, packet: Packet) -> None:
        found = read(PACKET, encode(packet)[4:])
        self.assertEqual(found, [list(packet.header), list(packet.payload or b"")])

    def test_kinds_and_modes_are_those_of_the_schemas(self) -> None:
        kinds = load_schema("packet.fbs").enums["Kind"].members
        self.assertEqual({kind.name: kind.value for kind in Kind}, kinds)
        modes = load_schema("session.fbs").enums["Mode"].members
        self.assertEqual({mode.name: mode.value for mode in Mode}, modes)


class SplitTests(unittest.TestCase):
    def test_an_empty_plaintext_has_no_packets(self) -> None:
        self.assertEqual(split_packets(b""), [])

    @settings(deadline=None)
    @given(st.lists(packets, max_size=6))
    def test_our_packets(self, sent: list[Packet]) -> None:
        self.assertEqual(split(b"".join(map(encode, sent))), without_none(sent))

    @settings(deadline=None)
    @given(st.lists(st.tuples(packets, st.booleans()), max_size=6), dice_rolls)
    def test_our_packets_between_others(
        self, sent: list[tuple[Packet, bool]], dice: random.Random
    ) -> None:
        plaintext = b"".join(
            encode(packet) if ours else build(PACKET, packet, dice, sized=True)
            for packet, ours in sent
        )
        self.assertEqual(split(plaintext), without_none([packet for packet, _ in sent]))

    def test_payloads_are_views_of_the_plaintext(self) -> None:
        ours = encode(Packet(Header(1, 2, 4, 0, 0), b"payload"))
        theirs = ours[:4] + ours[4:] + b"\0"
        theirs = struct.pack("<I", len(theirs) - 4) + theirs[4:]
        plaintext = ours + theirs
        for *_, payload in split_packets(plaintext):
            self.assertIs(payload.obj, plaintext)
            self.assertEqual(bytes(payload), b"payload")

    def test_bytes_behind_a_payload_belong_to_its_packet(self) -> None:
        packet = Packet(Header(1, 2, 4, 0, 0), b"payload")
        data = encode(packet)
        longer = struct.pack("<I", len(data) - 4 + 3) + data[4:] + b"xyz"
        self.assertEqual(split(longer + data), [packet, packet])

    def test_unknown_kinds_are_passed_on(self) -> None:
        self.assertEqual(split_packets(encode_head(0, 0, 200, 0, 0, 0))[0][2], 200)

    def test_what_is_malformed(self) -> None:
        data = encode(Packet(Header(1, 2, 4, 0, 0), b"payload"))
        size = len(data) - 4
        for bad, rule in [
            (b"\0", "ends within a packet's size"),
            (data + b"\1\0\0", "ends within a packet's size"),
            (data[:-1], f"announces {size} bytes, but {size - 1} are left"),
            (data[:10], "are left"),
            (data + data[:44], "are left"),
            (bytes(4), "ends within its root offset"),
            (data + bytes(4), "ends within its root offset"),
            (struct.pack("<I", size - 1) + data[4:-1], "extends beyond the buffer"),
            (data[:40] + b"\xff\xff\xff\xff" + data[44:], "extends beyond the buffer"),
            (data[:12] + b"\0\0" + data[14:], "lacks its required field header"),
        ]:
            with self.subTest(bad), self.assertRaisesRegex(WireError, rule):
                split_packets(bad)

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=120))
    @example(bytes(44))
    def test_random_bytes(self, data: bytes) -> None:
        self.check(data)
        self.check(struct.pack("<I", len(data)) + data)

    @settings(deadline=None, max_examples=300)
    @given(packets, st.integers(0), st.integers(1, 255), st.integers(0, 50))
    def test_one_wrong_byte(self, packet: Packet, at: int, change: int, cut: int) -> None:
        data = bytearray(encode(packet) * 2)
        data[at % len(data)] ^= change
        self.check(bytes(data))
        self.check(bytes(data[: len(data) - cut]))

    def check(self, plaintext: bytes) -> None:
        """Only a WireError may come of it; what comes out adds up to no more than came in."""
        try:
            found = split_packets(plaintext)
        except WireError:
            return
        self.assertLessEqual(sum(len(parts[5]) for parts in found), len(plaintext))


texts = st.text(max_size=20)
hellos = st.builds(
    Hello,
    version=st.integers(0, 65535),
    max_message=st.integers(0, (1 << 32) - 1),
    max_channels=st.integers(0, (1 << 32) - 1),
    channel_window=st.integers(0, (1 << 32) - 1),
    session_window=st.integers(0, (1 << 64) - 1),
    lz4=st.booleans(),
    agent=texts,
    username=st.none() | texts,
    password=st.none() | texts,
)
opens = st.builds(
    Open,
    service=texts,
    mode=st.sampled_from(Mode),
    urgency=st.integers(0, 255),
    deadline_ms=st.integers(0, (1 << 32) - 1),
    secret=st.booleans(),
)


class BatchTests(unittest.TestCase):
    @given(st.lists(st.integers(0, 90), max_size=40))
    def test_no_batch_is_too_long_and_none_could_take_more(self, sizes: list[int]) -> None:
        batch = [piece for size in sizes for piece in (b"head", bytes(size))]
        batches = cut_batch(batch, 100)
        self.assertEqual([piece for one in batches for piece in one], batch)
        lengths = [sum(map(len, one)) for one in batches]
        self.assertLessEqual(max(lengths), 100)
        for length, following in zip(lengths, batches[1:], strict=False):
            self.assertGreater(length + sum(map(len, following[:2])), 100)


class MessageTests(unittest.TestCase):
    @settings(deadline=None)
    @given(hellos, dice_rolls)
    def test_hellos(self, hello: Hello, dice: random.Random) -> None:
        self.assertEqual(HELLO.decode(HELLO.encode(hello)), hello)
        table = load_schema("session.fbs").table("Hello")
        self.assertEqual(HELLO.decode(build(table, hello, dice)), hello)
        self.assertEqual(plain(read(table, HELLO.encode(hello))), plain(hello))

    @settings(deadline=None)
    @given(opens, dice_rolls)
    def test_opens(self, message: Open, dice: random.Random) -> None:
        self.assertEqual(OPEN.decode(OPEN.encode(message)), message)
        table = load_schema("session.fbs").table("Open")
        self.assertEqual(OPEN.decode(build(table, message, dice)), message)
        self.assertEqual(plain(read(table, OPEN.encode(message))), plain(message))

    def test_the_defaults_are_those_of_the_schema(self) -> None:
        table = load_schema("session.fbs").table("Open")
        data = build(table, Open("service"), random.Random(1), keep=0)
        self.assertEqual(OPEN.decode(data), Open("service"))
        table = load_schema("session.fbs").table("Hello")
        data = build(table, Hello(0, 0, 0, 0, 0), random.Random(1), keep=0)
        self.assertEqual(HELLO.decode(data), Hello(0, 0, 0, 0, 0))

    def test_a_service_is_required_and_a_mode_known(self) -> None:
        data = bytearray(OPEN.encode(Open("service", Mode.EXPIRING)))
        data[data.index(b"\2\3")] = 3
        with self.assertRaisesRegex(WireError, "3 is no value of Mode"):
            OPEN.decode(bytes(data))
        with self.assertRaisesRegex(WireError, "Open lacks its required field service"):
            OPEN.decode(struct.pack("<IHHi", 8, 4, 4, 4))
