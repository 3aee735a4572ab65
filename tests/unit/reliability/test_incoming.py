"""Tests for jetstreamproto.reliability.incoming."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.reliability.frames import Piece, Skip
from jetstreamproto.reliability.incoming import MAX_PACKET, Incoming
from jetstreamproto.wire.packet import (
    HEAD_SIZE,
    Flag,
    Kind,
    PacketParts,
    encode_head,
    split_packets,
)

untimed = settings(deadline=None, derandomize=True, database=None)

WINDOW = 1 << 18


def packet(channel: int, seq: int, payload: bytes, kind: int = Kind.DATA) -> bytes:
    return encode_head(seq, channel, kind, 0, 0, len(payload)) + payload


def opening(channel: int) -> bytes:
    return packet(channel, 0, b"", Kind.OPEN)


def in_packet(data: bytes, size: int = 0) -> memoryview:
    """`data` as they come: a view of a packet of `size` bytes at least."""
    return memoryview(b"head" + data + bytes(max(0, size - len(data))))[4 : 4 + len(data)]


def message(channel: int, seq: int, payload: bytes) -> Piece:
    return Piece(channel, seq, 0, in_packet(packet(channel, seq, payload)), True)


def of_channel(parts: list[PacketParts], channel: int) -> list[PacketParts]:
    return [part for part in parts if part[1] == channel]


def plain(parts: list[PacketParts]) -> list[tuple[int, int, int, bytes]]:
    """Sequence number, kind, flags and payload of each."""
    return [(part[0], part[2], part[3], bytes(part[5])) for part in parts]


contents = st.lists(
    st.tuples(
        st.integers(1, 3), st.one_of(st.binary(max_size=60), st.integers(0, 9000).map(bytes))
    ),
    max_size=15,
)


class StreamTests(TestCase):
    @untimed
    @given(contents, st.data())
    def test_any_pieces_in_any_order(
        self, packets: list[tuple[int, bytes]], data: st.DataObject
    ) -> None:
        streams = {1: b"", 2: b"", 3: b""}
        for seq, (channel, payload) in enumerate(packets):
            streams[channel] += packet(channel, seq, payload)
        pieces = []
        for channel, stream in streams.items():
            cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
            edges = sorted({0, len(stream), *cuts})
            for start, stop in itertools.pairwise(edges):
                early = max(0, start - data.draw(st.sampled_from((0, 0, 0, 5, 900))))
                pieces.append((channel, early, stream[early:stop], stop == len(stream)))
        pieces += pieces[:3]
        incoming, taken = Incoming(WINDOW), []
        for channel, offset, piece, fin in data.draw(st.permutations(pieces)):
            incoming.piece_received(channel, offset, in_packet(piece), fin)
            taken += incoming.take()
        for channel, stream in streams.items():
            expected = plain(split_packets(stream))
            self.assertEqual(plain(of_channel(taken, channel)), expected)
        self.assertEqual(incoming._cost, 0)
        self.assertEqual(incoming.take(), [])

    def test_byte_by_byte(self) -> None:
        stream = packet(1, 0, b"hello") + packet(1, 1, bytes(5000)) + packet(1, 2, b"")
        incoming = Incoming(WINDOW)
        for offset, byte in enumerate(stream):
            incoming.piece_received(1, offset, in_packet(bytes((byte,))), False)
        self.assertEqual(plain(incoming.take()), plain(split_packets(stream)))

    def test_a_packet_of_another_channel(self) -> None:
        with self.assertRaisesRegex(ProtocolViolation, "channel 2 in stream 1"):
            Incoming(WINDOW).piece_received(1, 0, in_packet(packet(2, 0, b"")), False)

    def test_a_packet_that_is_too_large(self) -> None:
        for size in (MAX_PACKET - 3, 0xFFFFFFFF):
            with self.assertRaisesRegex(WireError, "at most"):
                Incoming(WINDOW).piece_received(1, 0, in_packet(size.to_bytes(4, "little")), False)

    def test_rubbish(self) -> None:
        with self.assertRaises(WireError):
            Incoming(WINDOW).piece_received(1, 0, in_packet(b"\x08\0\0\0rubbish!"), False)

    def test_the_end_of_a_stream_that_has_moved(self) -> None:
        incoming = Incoming(WINDOW)
        incoming.piece_received(1, 0, in_packet(opening(1)), True)
        with self.assertRaises(ProtocolViolation):
            incoming.piece_received(1, 900, in_packet(b"x"), False)

    def test_a_stream_that_ends_within_a_packet(self) -> None:
        with self.assertRaises(ProtocolViolation):
            Incoming(WINDOW).piece_received(1, 0, in_packet(opening(1)[:-1]), True)


class WindowTests(TestCase):
    def fill(self, incoming: Incoming, channel: int, size: int) -> None:
        """`size` bytes of whole packets, but for the first byte of each 40000."""
        for offset in range(0, size, 40000):
            stop = min(offset + 40000, size)
            incoming.piece_received(channel, offset + 1, in_packet(bytes(stop - offset - 1)), False)

    def test_the_first_grant(self) -> None:
        incoming = Incoming(WINDOW)
        self.assertEqual((incoming.granted, incoming.window_due), (WINDOW, True))

    def test_more_than_was_granted(self) -> None:
        incoming = Incoming(WINDOW)
        self.fill(incoming, 1, WINDOW // 2)
        self.fill(incoming, 3, WINDOW // 2)
        with self.assertRaisesRegex(ProtocolViolation, "window"):
            incoming.piece_received(5, 0, in_packet(b"x"), False)

    def test_far_ahead_in_one_stream(self) -> None:
        for offset in (WINDOW, (1 << 64) - 1):
            with self.assertRaisesRegex(ProtocolViolation, "window"):
                Incoming(WINDOW).piece_received(1, offset, in_packet(b"x"), False)

    def test_what_was_delivered_makes_room(self) -> None:
        incoming, sent, grants = Incoming(WINDOW), 0, 0
        incoming.window_due = False
        for seq in range(1000):
            data = packet(1, seq, bytes(3000))
            self.assertLessEqual(sent + len(data), incoming.granted)
            incoming.piece_received(1, sent, in_packet(data), False)
            sent += len(data)
            if incoming.window_due:
                incoming.window_due = False
                grants += 1
        self.assertTrue(3 * WINDOW // 4 <= incoming.granted - sent <= WINDOW)
        self.assertLessEqual(grants, 4 * sent // WINDOW + 1)

    def test_copies_and_messages_do_not_count(self) -> None:
        incoming = Incoming(WINDOW)
        data = packet(1, 0, bytes(60000))
        for _ in range(20):
            incoming.piece_received(1, 0, in_packet(data), False)
        for seq in range(20):
            incoming.message_piece_received(message(1, seq, bytes(60000)))
        self.assertEqual(len(incoming.take()), 21)


class MessageTests(TestCase):
    def begun(self) -> Incoming:
        incoming = Incoming(WINDOW)
        incoming.piece_received(1, 0, in_packet(opening(1)), False)
        incoming.take()
        return incoming

    def test_in_any_order_and_once(self) -> None:
        incoming = self.begun()
        for seq in (5, 3, 3, 4, 5, 0):
            incoming.message_piece_received(message(1, seq, b"%d" % seq))
        self.assertEqual([part[0] for part in incoming.take()], [5, 3, 4, 0])

    @untimed
    @given(st.binary(max_size=300), st.data())
    def test_in_pieces(self, payload: bytes, data: st.DataObject) -> None:
        whole = packet(1, 7, payload)
        cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=10))
        edges = sorted({0, len(whole), *cuts})
        pieces = [
            Piece(1, 7, start, in_packet(whole[start:stop]), stop == len(whole))
            for start, stop in itertools.pairwise(edges)
        ]
        incoming = self.begun()
        for piece in data.draw(st.permutations(pieces + pieces[:2])):
            incoming.message_piece_received(piece)
        self.assertEqual(plain(incoming.take()), [(7, Kind.DATA, 0, payload)])
        self.assertEqual(incoming._cost, 0)

    def test_the_first_packet_of_the_channel_comes_first(self) -> None:
        incoming = Incoming(WINDOW)
        for seq in range(3):
            incoming.message_piece_received(message(1, seq, b"x"))
        self.assertEqual(incoming.take(), [])
        incoming.piece_received(1, 0, in_packet(opening(1)), False)
        kinds = [(part[2], part[0]) for part in incoming.take()]
        self.assertEqual(kinds, [(Kind.OPEN, 0), *((Kind.DATA, seq) for seq in range(3))])
        self.assertEqual(incoming._cost, 0)

    def test_not_the_packet_it_should_be(self) -> None:
        for data in (
            packet(1, 8, b"x"),
            packet(2, 7, b"x"),
            packet(1, 7, b"x") * 2,
            b"",
        ):
            with self.assertRaises(ProtocolViolation):
                self.begun().message_piece_received(Piece(1, 7, 0, in_packet(data), True))

    def test_too_long(self) -> None:
        incoming = self.begun()
        with self.assertRaisesRegex(ProtocolViolation, "message of over"):
            incoming.message_piece_received(Piece(1, 7, MAX_PACKET, in_packet(b"x"), False))

    def test_expired(self) -> None:
        incoming = self.begun()
        incoming.message_piece_received(Piece(1, 7, 5, in_packet(b"part"), False))
        incoming.message_piece_received(Piece(1, 7, 0, in_packet(b"x"), False))
        for _ in range(2):
            incoming.skip_received(Skip(1, 7, HEAD_SIZE + 1000))
        incoming.message_piece_received(message(1, 7, b"too late"))
        size = (1000).to_bytes(4, "little")
        self.assertEqual(plain(incoming.take()), [(7, Kind.DATA, Flag.DROPPED, size)])
        self.assertEqual(incoming._cost, 0)

    def test_expired_after_it_came(self) -> None:
        incoming = self.begun()
        incoming.message_piece_received(message(1, 7, b"x"))
        incoming.skip_received(Skip(1, 7, HEAD_SIZE + 1))
        self.assertEqual(len(incoming.take()), 1)

    def test_expired_sizes(self) -> None:
        for size in (HEAD_SIZE - 1, MAX_PACKET + 1, 0, 0xFFFFFFFF):
            with self.assertRaisesRegex(ProtocolViolation, "expired"):
                self.begun().skip_received(Skip(1, 7, size))


class ChannelTests(TestCase):
    def test_a_channel_that_is_over_is_forgotten(self) -> None:
        incoming = Incoming(WINDOW)
        for channel in range(1, 1001):
            incoming.piece_received(channel, 0, in_packet(opening(channel)), True)
            incoming.message_piece_received(Piece(channel, 3, 0, in_packet(b"part"), False))
            incoming.leave(channel)
        self.assertEqual((len(incoming._channels), incoming._cost), (0, 0))
        incoming.take()
        incoming.piece_received(5, 0, in_packet(opening(5)), True)
        incoming.message_piece_received(message(5, 0, b"late"))
        incoming.skip_received(Skip(5, 1, HEAD_SIZE))
        self.assertEqual((len(incoming._channels), incoming.take()), (0, []))

    def test_it_is_over_once_both_sides_have_ended(self) -> None:
        incoming = Incoming(WINDOW)
        incoming.piece_received(1, 0, in_packet(opening(1)), False)
        incoming.leave(1)
        self.assertEqual(len(incoming._channels), 1)
        incoming.piece_received(1, len(opening(1)), in_packet(b""), True)
        self.assertEqual(len(incoming._channels), 0)

    def test_too_many(self) -> None:
        incoming = Incoming(WINDOW)
        with self.assertRaisesRegex(ProtocolViolation, "too many channels"):
            for channel in range(1 << 15):
                incoming.piece_received(channel, 0, in_packet(b""), False)

    def test_too_many_left_out(self) -> None:
        incoming = Incoming(1 << 22)
        with self.assertRaisesRegex(ProtocolViolation, "too many channel numbers"):
            for channel in range(0, 1 << 16, 4):
                incoming.piece_received(channel, 0, in_packet(opening(channel)), True)
                incoming.leave(channel)

    def test_too_many_messages_left_out(self) -> None:
        incoming = Incoming(WINDOW)
        incoming.piece_received(1, 0, in_packet(opening(1)), False)
        with self.assertRaisesRegex(ProtocolViolation, "too many messages"):
            for seq in range(0, 1 << 16, 2):
                incoming.message_piece_received(message(1, seq, b""))
                incoming.take()


class AttackTests(TestCase):
    """Whatever comes, memory is bounded by the window, give or take the fixed costs."""

    def attack(self, step: Callable[[Incoming, int], None], most: int = 1 << 15) -> None:
        incoming = Incoming(WINDOW)
        tracemalloc.start()
        try:
            for index in range(most):
                step(incoming, index)
                self.assertLess(tracemalloc.get_traced_memory()[0], 16 * WINDOW, f"{index=}")
                incoming.take()
        except ProtocolViolation:
            pass
        finally:
            tracemalloc.stop()

    def test_tiny_pieces_out_of_order(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            incoming.piece_received(1, 2 * index + 1, in_packet(b"x", 60000), False)

        self.attack(step)

    def test_overlapping_pieces(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            incoming.piece_received(1, 100000 - index, in_packet(bytes(50000)), False)

        self.attack(step, 5000)

    def test_tiny_pieces_of_packets_that_never_end(self) -> None:
        head = (60000).to_bytes(4, "little")

        def step(incoming: Incoming, index: int) -> None:
            channel, offset = index & 63, index >> 6
            data = head[offset : offset + 1] or b"x"
            incoming.piece_received(channel, offset, in_packet(data, 60000), False)

        self.attack(step)

    def test_packets_that_never_end(self) -> None:
        head = (60000).to_bytes(4, "little")

        def step(incoming: Incoming, index: int) -> None:
            incoming.piece_received(index, 0, in_packet(head + bytes(40000)), False)

        self.attack(step, 2000)

    def test_messages_that_never_end(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            piece = Piece(1 + (index & 7), index >> 3, 0, in_packet(b"x", 60000), False)
            incoming.message_piece_received(piece)

        self.attack(step)

    def test_tiny_pieces_of_messages(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            piece = Piece(1, index % 50, index // 50, in_packet(b"x", 60000), False)
            incoming.message_piece_received(piece)

        self.attack(step)

    def test_messages_of_a_channel_that_never_begins(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            incoming.message_piece_received(message(1, index, bytes(1000)))

        self.attack(step)

    def test_expired_messages_of_a_channel_that_never_begins(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            incoming.skip_received(Skip(1, index, HEAD_SIZE))

        self.attack(step)

    def test_messages_left_out_on_many_channels(self) -> None:
        def step(incoming: Incoming, index: int) -> None:
            incoming.skip_received(Skip(index & 31, 2 * (index >> 5), HEAD_SIZE))

        self.attack(step)
