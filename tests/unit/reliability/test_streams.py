"""Tests for jetstreamproto.reliability.streams."""

from __future__ import annotations

import itertools
import tracemalloc
from random import Random
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.reliability.streams import SEGMENT_COST, ReceiveStream, SendStream

untimed = settings(deadline=None, derandomize=True, database=None)

MESSAGE = 7
piece_lists = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 60)), max_size=60)


def content(size: int) -> bytes:
    return Random(size).randbytes(size)


def pack(data: bytes, packet_size: int = 0) -> memoryview:
    """`data` as they come: a view of a packet."""
    return memoryview(b"head" + data + bytes(packet_size))[4 : 4 + len(data)]


def written(chunks: list[bytes]) -> SendStream:
    stream = SendStream(3)
    for chunk in chunks:
        stream.write(chunk)
    return stream


class SendModel:
    """What a `SendStream` should know, byte by byte."""

    def __init__(self) -> None:
        self.acked = set[int]()
        self.lost = set[int]()

    def check(self, test: TestCase, stream: SendStream, data: bytes) -> None:
        test.assertEqual({n for low, high in stream.lost for n in range(low, high)}, self.lost)
        ranges = list(stream.lost)
        test.assertEqual(ranges, sorted(ranges))
        test.assertTrue(all(a[1] < b[0] for a, b in itertools.pairwise(ranges)))
        acked_to = next(n for n in range(len(data) + 1) if n not in self.acked)
        test.assertEqual(stream.acked_to, acked_to)
        for low, high in ranges:
            test.assertEqual(b"".join(stream.read(low, high)), data[low:high])


class SendStreamTests(TestCase):
    @untimed
    @given(
        st.lists(st.binary(max_size=30), max_size=12),
        st.lists(
            st.tuples(st.sampled_from("sal"), st.integers(0, 200), st.integers(0, 40)),
            max_size=60,
        ),
    )
    def test_against_bytes(self, chunks: list[bytes], steps: list[tuple[str, int, int]]) -> None:
        data, model = b"".join(chunks), SendModel()
        stream = written(chunks)
        for step, start, size in steps:
            if step == "s":
                sent = stream.next
                stream.next = min(sent + size, stream.end)
                if stream.next > sent:
                    new = b"".join(stream.read(sent, stream.next))
                    self.assertEqual(new, data[sent : stream.next])
                continue
            start = min(start, stream.next)
            stop = min(start + size, stream.next)
            piece = set(range(start, stop))
            if step == "a":
                stream.acked(start, stop)
                model.acked |= piece
                model.lost -= piece
            else:
                self.assertEqual(stream.lose(start, stop), bool(piece - model.acked))
                model.lost |= piece - model.acked
            model.check(self, stream, data)
            self.assertEqual(stream.unsent, len(data) - stream.next)
            self.assertEqual(stream.wants_to_send, bool(model.lost) or stream.next < len(data))

    def test_an_empty_stream_that_ends(self) -> None:
        stream = SendStream(1)
        self.assertFalse(stream.wants_to_send)
        stream.fin = True
        self.assertTrue(stream.wants_to_send)
        stream.fin_sent = True
        self.assertFalse(stream.wants_to_send or stream.done)
        stream.acked(0, 0)
        stream.fin_acked = True
        self.assertTrue(stream.done)

    def test_done_needs_every_byte_and_the_end(self) -> None:
        stream = written([b"ab", b"cd"])
        stream.next = 4
        stream.acked(2, 4)
        stream.fin_acked = True
        self.assertFalse(stream.done)
        stream.acked(0, 2)
        self.assertTrue(stream.done)

    def test_what_is_dropped_is_not_sent(self) -> None:
        stream = written([bytes(100)])
        stream.next = 50
        stream.lose(0, 20)
        stream.fin = True
        stream.drop()
        self.assertEqual((stream.wants_to_send, stream.unsent), (False, 0))

    def test_what_is_lost_twice_is_sent_once(self) -> None:
        stream = written([bytes(100)])
        stream.next = 100
        for _ in range(3):
            self.assertTrue(stream.lose(10, 20))
        self.assertEqual(list(stream.lost), [(10, 20)])

    def test_what_was_lost_first_but_comes_later_in_the_stream_goes_later(self) -> None:
        stream = written([bytes(100)])
        stream.next = 100
        for start in (50, 90, 10):
            stream.lose(start, start + 5)
        self.assertEqual(list(stream.lost), [(10, 15), (50, 55), (90, 95)])

    def test_chunks_are_given_back_when_they_are_acknowledged(self) -> None:
        stream = written([b"abc", b"", b"defg", b"h"])
        stream.next = 8
        stream.acked(0, 2)
        self.assertEqual(b"".join(stream.read(2, 8)), b"cdefgh")
        stream.acked(2, 6)
        self.assertEqual(stream._chunks, [b"defg", b"h"])
        view, start, stop = stream.chunk_at(6)
        self.assertEqual((bytes(view), start, stop), (b"defg", 3, 7))
        stream.acked(6, 8)
        self.assertEqual(stream._chunks, [])
        stream.write(b"ij")
        self.assertEqual(b"".join(stream.read(8, 10)), b"ij")

    def test_large_chunks_are_not_copied(self) -> None:
        chunk = bytes(1 << 24)
        stream = written([chunk])
        stream.next = stream.end
        for start in range(0, 1 << 24, 1 << 14):
            (piece,) = stream.read(start, start + 1160)
            assert isinstance(piece, memoryview)
            self.assertIs(piece.obj, chunk)
            stream.acked(start, start + (1 << 14))
        self.assertEqual((stream.acked_to, stream._chunks), (1 << 24, []))

    def test_every_other_packet_is_lost(self) -> None:
        """With so many ranges, the work for each must not grow with their number."""
        count, size = 20000, 10
        stream = written([bytes(count * size)])
        stream.next = stream.end
        for index in range(0, count, 2):
            stream.lose(index * size, (index + 1) * size)
        for index in range(1, count, 2):
            stream.acked(index * size, (index + 1) * size)
        self.assertEqual((len(stream.lost), len(stream._acked)), (count // 2, count // 2))
        self.assertTrue(stream.lose(0, stream.end))
        self.assertEqual(len(stream.lost), count // 2)
        while stream.lost:
            stream.acked(*stream.lost.popleft())
        self.assertEqual(stream.acked_to, stream.end)


class ReceiveStreamTests(TestCase):
    @untimed
    @given(piece_lists, st.sampled_from([-1, MESSAGE]), st.data())
    def test_pieces_in_any_order(
        self, pieces: list[tuple[int, int]], number: int, draw: st.DataObject
    ) -> None:
        data = content(180)
        size = draw.draw(st.integers(0, 180))
        stream = ReceiveStream(3, number)
        come, kept, result = set[int](), 0, b""
        rest = [(0, size)] if draw.draw(st.booleans()) else []
        for start, length in [*pieces, *rest]:
            start, stop = min(start, size), min(start + length, size)
            fin = stop == size and draw.draw(st.booleans())
            kept += stream.receive(start, pack(data[start:stop]), fin)
            come.update(range(start, stop))
            self.assertEqual(stream.kept, kept)
            self.assertEqual(stream.next, next(n for n in range(181) if n not in come))
            if number < 0 and draw.draw(st.booleans()):
                result += b"".join(stream.ready)
                stream.ready.clear()
        result += b"".join(stream.ready)
        self.assertEqual(result, data[: stream.next])
        if stream.next == size:
            self.assertEqual((kept, stream._offsets), (0, []))
            self.assertEqual(stream.complete, stream.end is not None)

    @untimed
    @given(st.integers(0, 1 << 32), st.integers(1, 50))
    def test_every_byte_comes_in_the_end(self, seed: int, most: int) -> None:
        random, data = Random(seed), content(3000)
        pieces = []
        start = 0
        while start < len(data):
            stop = min(start + random.randint(1, most * 10), len(data))
            early = max(0, start - random.randrange(most))
            pieces += [(early, stop)] * random.choice((1, 1, 2))
            start = stop
        random.shuffle(pieces)
        stream = ReceiveStream(3)
        kept = 0
        for start, stop in pieces:
            kept += stream.receive(start, pack(data[start:stop]), stop == len(data))
        self.assertEqual(b"".join(stream.ready), data)
        self.assertEqual((kept, stream.kept, stream.complete), (0, 0, True))

    def test_the_end_may_not_move(self) -> None:
        for pieces in (
            [(0, 10, True), (0, 9, True)],
            [(0, 10, True), (0, 11, True)],
            [(0, 10, True), (0, 11, False)],
            [(0, 10, True), (50, 1, False)],
            [(20, 10, False), (0, 10, True)],
            [(20, 0, False), (0, 10, True)],
        ):
            stream = ReceiveStream(3)
            *good, (start, size, fin) = pieces
            for piece in good:
                stream.receive(piece[0], pack(bytes(piece[1])), piece[2])
            with self.subTest(pieces), self.assertRaisesRegex(ProtocolViolation, "stream 3"):
                stream.receive(start, pack(bytes(size)), fin)

    def test_an_end_that_comes_twice_or_early(self) -> None:
        stream = ReceiveStream(3)
        stream.receive(5, pack(b"fgh"), True)
        self.assertFalse(stream.complete)
        stream.receive(8, pack(b""), True)
        stream.receive(0, pack(b"abcde"), False)
        self.assertTrue(stream.complete)
        self.assertEqual(b"".join(stream.ready), b"abcdefgh")

    def test_what_is_in_order_is_not_copied(self) -> None:
        stream, piece = ReceiveStream(3), pack(b"data")
        stream.receive(0, piece, False)
        self.assertIs(stream.ready[0], piece)

    def test_what_costs_nothing(self) -> None:
        stream = ReceiveStream(3)
        self.assertEqual(stream.receive(10, pack(b""), False), 0)
        self.assertEqual(stream.receive(5, pack(b"abc"), False), SEGMENT_COST + 3)
        for start, data in ((5, b"ab"), (6, b"b"), (5, b"abc"), (6, b"bc"), (7, b"")):
            self.assertEqual(stream.receive(start, pack(data), False), 0)
        self.assertEqual(stream.kept, SEGMENT_COST + 3)

    def test_small_pieces_that_follow_one_another_are_joined(self) -> None:
        stream = ReceiveStream(3)
        kept = sum(stream.receive(n, pack(b"x"), False) for n in range(1, 10001))
        self.assertEqual(kept, 10000 + 3 * SEGMENT_COST)
        self.assertEqual(stream.receive(0, pack(b"x"), False), -kept)
        self.assertEqual(b"".join(stream.ready), b"x" * 10001)


class MemoryTests(TestCase):
    """What is kept costs what it says, whatever packets it came in."""

    def measure(self, streams: int, offsets: list[int], size: int, number: int) -> float:
        """How many times what it says the streams take."""
        tracemalloc.start()
        try:
            kept: list[ReceiveStream] = []
            cost = 0
            for index in range(streams):
                stream = ReceiveStream(3, number + index if number >= 0 else number)
                kept.append(stream)
                cost += SEGMENT_COST
                for offset in offsets:
                    before = stream.next
                    cost += stream.receive(offset, pack(bytes(size), 60000), False)
                    cost += stream.next - before
            return tracemalloc.get_traced_memory()[0] / cost
        finally:
            tracemalloc.stop()

    def test_tiny_pieces_of_large_packets(self) -> None:
        self.assertLess(self.measure(1, list(range(1, 4000, 2)), 1, -1), 1)

    def test_overlapping_pieces(self) -> None:
        self.assertLess(self.measure(1, list(range(2000, 0, -1)), 500, -1), 1.2)
        self.assertLess(self.measure(1, list(range(1, 2001)), 500, -1), 1.2)

    def test_messages_that_have_begun(self) -> None:
        for pieces in (1, 2, 4, 5, 20):
            with self.subTest(pieces):
                self.assertLess(self.measure(300, list(range(pieces)), 1, MESSAGE), 4)
        self.assertLess(self.measure(100, list(range(0, 10000, 1000)), 1000, MESSAGE), 1.5)

    def test_messages_with_a_gap(self) -> None:
        self.assertLess(self.measure(300, [5], 1, MESSAGE), 2)
        everything_but_the_first = [*range(3, 201, 2), 0]
        self.assertLess(self.measure(20, everything_but_the_first, 1, MESSAGE), 1)
