"""Tests for jetstreamproto.reliability.frames."""

from __future__ import annotations

import contextlib
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.reliability import frames
from jetstreamproto.reliability.frames import (
    Ack,
    Close,
    Frame,
    Piece,
    Repair,
    Skip,
    encode_ack,
    encode_close,
    encode_control,
    encode_recovered,
    parse_frames,
)

untimed = settings(deadline=None, derandomize=True, database=None)

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
data = st.binary(max_size=40)
path_data = st.binary(min_size=8, max_size=8)


def stream(channel: int, offset: int, content: bytes, fin: bool) -> bytes:
    kind = frames.STREAM_FIN if fin else frames.STREAM
    return frames.STREAM_HEAD.pack(kind, channel, offset, len(content)) + content


def message(channel: int, number: int, offset: int, content: bytes, fin: bool) -> bytes:
    kind = frames.MESSAGE_FIN if fin else frames.MESSAGE
    return frames.MESSAGE_HEAD.pack(kind, channel, number, offset, len(content)) + content


def source(symbol: int) -> bytes:
    return frames.SOURCE_HEAD.pack(frames.SOURCE, symbol)


def repair(base: int, covers: int, k: int, row: int, content: bytes) -> bytes:
    return frames.REPAIR_HEAD.pack(frames.REPAIR, base, covers, k, row) + content


def comparable(parsed: list[Frame]) -> list[Frame]:
    """With bytes instead of views, which compare by what they are views of too."""
    return [
        (kind, tuple(bytes(x) if isinstance(x, memoryview) else x for x in content))
        if isinstance(content, tuple)
        else (kind, content)
        for kind, content in parsed
    ]


@st.composite
def acks(draw: st.DrawFn) -> tuple[bytes, Frame]:
    bitmap = draw(st.integers(0, 1 << 70)) << 1 | 1
    largest = draw(st.integers(bitmap.bit_length() - 1, (1 << 64) - 1))
    received_at, delay = draw(U32), draw(U32)
    encoded = encode_ack(largest, received_at, delay, bitmap)
    return encoded, (frames.ACK, (largest, received_at, delay, bitmap))


pieces = st.one_of(
    st.tuples(U32, U64, data, st.booleans()).map(
        lambda t: (stream(*t), (6 if t[3] else 5, (t[0], -1, *t[1:])))
    ),
    st.tuples(U32, U32, U32, data, st.booleans()).map(
        lambda t: (message(*t), (8 if t[4] else 7, t))
    ),
)
others = st.one_of(
    acks(),
    st.sampled_from([frames.FLOOR, frames.WINDOW]).flatmap(
        lambda kind: U64.map(lambda n: (encode_control(kind, n), (kind, n)))
    ),
    st.sampled_from([frames.PING, frames.END]).map(lambda k: (encode_control(k, None), (k, None))),
    st.sampled_from([frames.PATH_CHALLENGE, frames.PATH_RESPONSE]).flatmap(
        lambda kind: path_data.map(lambda d: (encode_control(kind, d), (kind, d)))
    ),
    st.tuples(U32, U32, U32).map(
        lambda t: (encode_control(frames.SKIP, Skip(*t)), (frames.SKIP, t))
    ),
    st.tuples(U16, st.text(max_size=20)).map(lambda t: (encode_close(*t), (frames.CLOSE, t))),
    st.tuples(U32, st.integers(0, 1 << 300)).map(
        lambda t: (encode_recovered(*t), (frames.RECOVERED, t))
    ),
)
plain = st.one_of(pieces, others)


class RoundTripTests(TestCase):
    @untimed
    @given(st.lists(plain, max_size=8), st.binary(max_size=5))
    def test_frames_then_padding(self, packet: list[tuple[bytes, Frame]], rubbish: bytes) -> None:
        encoded = b"".join(frame for frame, _ in packet)
        expected = [frame for _, frame in packet]
        self.assertEqual(comparable(parse_frames(encoded)), expected)
        self.assertEqual(comparable(parse_frames(encoded + b"\0" + rubbish)), expected)

    @untimed
    @given(st.lists(plain, max_size=3), U32, U8, U8, U8, data)
    def test_repair_takes_the_rest(
        self,
        before: list[tuple[bytes, Frame]],
        base: int,
        covers: int,
        k: int,
        row: int,
        rest: bytes,
    ) -> None:
        encoded = b"".join(frame for frame, _ in before) + repair(base, covers, k, row, rest)
        last = (frames.REPAIR, (base, covers, k, row, rest))
        self.assertEqual(comparable(parse_frames(encoded)), [*(frame for _, frame in before), last])

    @untimed
    @given(st.lists(plain, max_size=3), U32, st.lists(pieces, max_size=3), st.binary(max_size=3))
    def test_source_has_the_rest_for_its_symbol(
        self,
        before: list[tuple[bytes, Frame]],
        symbol: int,
        after: list[tuple[bytes, Frame]],
        padding: bytes,
    ) -> None:
        rest = b"".join(frame for frame, _ in after) + bytes(len(padding))
        encoded = b"".join(frame for frame, _ in before) + source(symbol) + rest
        middle = (frames.SOURCE, (symbol, rest))
        self.assertEqual(
            comparable(parse_frames(encoded)),
            [*(frame for _, frame in before), middle, *(frame for _, frame in after)],
        )

    def test_types_have_names(self) -> None:
        packet = b"".join(
            (
                encode_ack(5, 6, 7, 0b101),
                stream(1, 2, b"data", True),
                encode_close(9, "why"),
                repair(4, 3, 10, 11, b"sum"),
            )
        )
        ack, piece, close, last = (content for _, content in parse_frames(packet))
        self.assertEqual(ack, Ack(largest=5, received_at=6, delay=7, bitmap=5))
        self.assertEqual(piece, Piece(1, -1, 2, memoryview(b"data"), fin=True))
        self.assertEqual(close, Close(9, "why"))
        self.assertEqual(last, Repair(base=4, covers=3, k=10, row=11, data=memoryview(b"sum")))

    def test_the_bytes_of_each_frame(self) -> None:
        for encoded, expected in [
            (encode_control(frames.PING, None), "01"),
            (encode_ack(0x102, 3, 4, 0x181), "02 0000000000000102 00000003 00000004 0002 8101"),
            (encode_control(frames.FLOOR, 258), "03 0000000000000102"),
            (encode_control(frames.WINDOW, 258), "04 0000000000000102"),
            (stream(7, 258, b"ab", False), "05 00000007 0000000000000102 0002 6162"),
            (stream(7, 258, b"", True), "06 00000007 0000000000000102 0000"),
            (message(7, 8, 9, b"a", False), "07 00000007 0000000000000008 00000009 0001 61"),
            (message(7, 8, 9, b"a", True), "08 00000007 0000000000000008 00000009 0001 61"),
            (encode_control(frames.SKIP, Skip(1, 2, 3)), "09 00000001 0000000000000002 00000003"),
            (source(5), "0a 00000005 000000"),
            (repair(5, 3, 10, 11, b"z"), "0b 00000005 03 0a 0b 7a"),
            (encode_control(frames.PATH_CHALLENGE, b"12345678"), "0c 3132333435363738"),
            (encode_control(frames.PATH_RESPONSE, b"12345678"), "0d 3132333435363738"),
            (encode_control(frames.END, None), "0e"),
            (encode_close(258, "no"), "0f 0102 0002 6e6f"),
            (encode_recovered(5, 0x100), "10 00000005 0002 0001"),
        ]:
            with self.subTest(expected):
                self.assertEqual(encoded.hex(), expected.replace(" ", ""))


class EncodeTests(TestCase):
    def test_clocks_wrap_and_delays_saturate(self) -> None:
        ((_, ack),) = parse_frames(encode_ack(3, (1 << 32) + 5, 1 << 40, 1))
        self.assertEqual(ack, Ack(3, 5, 0xFFFFFFFF, 1))

    def test_a_long_bitmap_loses_the_oldest(self) -> None:
        for encoded in (
            encode_ack(1 << 20, 0, 0, (1 << 9000) | 3),
            encode_recovered(1, 3 | 1 << 9000),
        ):
            ((_, content),) = parse_frames(encoded)
            assert isinstance(content, tuple)
            self.assertEqual(content[-1], 3)

    def test_numbers_that_do_not_fit(self) -> None:
        for encode, *arguments in (
            (encode_ack, 1 << 64, 0, 0, 1),
            (encode_ack, -1, 0, 0, 1),
            (encode_ack, 5, 0, -1, 1),
            (encode_recovered, 1 << 32, 1),
            (encode_control, frames.FLOOR, 1 << 64),
            (encode_control, frames.WINDOW, -1),
            (encode_control, frames.SKIP, Skip(1 << 32, 0, 0)),
            (encode_control, frames.SKIP, Skip(0, 1 << 64, 0)),
            (encode_control, frames.SKIP, Skip(0, 0, 1 << 32)),
            (encode_close, 1 << 16, ""),
        ):
            with self.subTest(encode=encode, arguments=arguments), self.assertRaises(ValueError):
                encode(*arguments)

    def test_the_text_of_close(self) -> None:
        for text, expected in (
            ("x" * 1000, "x" * 256),
            ("x" * 255 + "é", "x" * 255 + "\ufffd"),
            ("\udc80?", "??"),
        ):
            self.assertEqual(parse_frames(encode_close(1, text)), [(frames.CLOSE, (1, expected))])


class MalformedTests(TestCase):
    def refuse(self, packet: bytes, why: str) -> None:
        with self.assertRaisesRegex(WireError, why):
            parse_frames(packet)

    @untimed
    @given(st.binary(max_size=200))
    def test_any_bytes(self, packet: bytes) -> None:
        with contextlib.suppress(WireError):
            parse_frames(packet)

    @untimed
    @given(st.lists(plain, min_size=1, max_size=4), st.data())
    def test_any_damage(self, packet: list[tuple[bytes, Frame]], draw: st.DataObject) -> None:
        damaged = bytearray(b"".join(frame for frame, _ in packet))
        for _ in range(draw.draw(st.integers(1, 4))):
            damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(U8)
        with contextlib.suppress(WireError):
            parse_frames(bytes(damaged))

    @untimed
    @given(plain)
    def test_the_packet_ends_within_a_frame(self, frame: tuple[bytes, Frame]) -> None:
        encoded, _ = frame
        self.assertEqual(parse_frames(b""), [])
        for size in range(1, len(encoded)):
            self.refuse(encoded[:size], "ends within")

    def test_the_packet_ends_within_the_head_of_a_symbol(self) -> None:
        for encoded in (source(1), repair(1, 2, 3, 4, b"")):
            parse_frames(encoded)
            for size in range(1, len(encoded)):
                self.refuse(encoded[:size], "ends within")

    def test_unknown_types(self) -> None:
        for kind in range(0x11, 0x100):
            self.refuse(bytes((kind,)).ljust(40, b"\0"), "unknown frame type")

    def test_acknowledgements_of_packets_before_the_first(self) -> None:
        head = encode_ack(3, 0, 0, 1)[:-3]
        for bitmap, good in ((0x0F, True), (0x09, True), (0x10, False), (0x11, False)):
            packet = head + b"\0\x01" + bytes((bitmap,))
            if good:
                self.assertEqual(parse_frames(packet), [(frames.ACK, (3, 0, 0, bitmap))])
            else:
                self.refuse(packet, "cannot be")

    def test_acknowledgements_without_the_packet_they_are_named_after(self) -> None:
        self.refuse(encode_ack(3, 0, 0, 0), "cannot be")
        self.refuse(encode_ack(3, 0, 0, 0b1110), "cannot be")

    def test_what_is_too_long(self) -> None:
        long = encode_ack(1 << 20, 0, 0, 1)[:-3] + (1025).to_bytes(2, "big") + b"\x01" * 1025
        self.refuse(long, "at most 1024")
        self.refuse(b"\x10\0\0\0\0" + (1025).to_bytes(2, "big") + b"\x01" * 1025, "at most 1024")
        self.refuse(b"\x0f\0\0" + (257).to_bytes(2, "big") + b"x" * 257, "at most 256")

    def test_nothing_but_pieces_is_protected(self) -> None:
        piece = stream(1, 2, b"data", False)
        for frame in (
            source(2),
            repair(1, 2, 3, 4, b"data"),
            encode_ack(1, 2, 3, 1),
            encode_control(frames.PING, None),
            encode_control(frames.SKIP, Skip(1, 2, 99)),
            encode_control(frames.END, None),
            encode_close(1, ""),
        ):
            with self.subTest(frame[0]):
                parse_frames(frame + piece)
                self.refuse(source(1) + frame, "more than streams")
                self.refuse(source(1) + piece + frame, "more than streams")


class CostTests(TestCase):
    """The largest packets of the smallest frames: they are parsed in one go, and share a buffer."""

    def test_pings(self) -> None:
        self.assertEqual(len(parse_frames(b"\x01" * 65507)), 65507)

    def test_symbols_do_not_nest(self) -> None:
        with self.assertRaises(WireError):
            parse_frames(source(1) * 8188)

    def test_data_are_not_copied(self) -> None:
        packet = stream(1, 0, b"x" * 1000, False) * 60
        for _, content in parse_frames(packet):
            assert isinstance(content, Piece)
            self.assertIs(content.data.obj, packet)
