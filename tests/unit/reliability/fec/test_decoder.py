from __future__ import annotations

import unittest
from random import Random
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.reliability.fec import decoder as decoder_module
from jetstreamproto.reliability.fec.codes import encode, factor
from jetstreamproto.reliability.fec.decoder import FecDecoder, Restored
from tests.unit.reliability.fec.test_codes import determined

M32 = 0xFFFFFFFF
firsts = st.sampled_from([0, 5, M32, M32 - 3, M32 - 11, (1 << 31) - 4])


class Path:
    """Symbols with random content, and what a decoder makes of those that are given to it."""

    def __init__(self, count: int, seed: int = 0, first: int = 0, **limits: int) -> None:
        chance = Random(seed)
        self.symbols = [chance.randbytes(chance.choice((0, 1, 30, 40))) for _ in range(count)]
        self.first = first
        self.decoder = FecDecoder(first=first, **limits)
        self.received: set[int] = set()
        self.restored: dict[int, bytes] = {}

    def source(self, *indices: int) -> None:
        for i in indices:
            self.received.add(i)
            self._note(self.decoder.source((self.first + i) & M32, self.symbols[i]))

    def repair(self, start: int, count: int, k: int, *rows: int) -> None:
        base = (self.first + start) & M32
        window = self.symbols[start : start + count]
        for row, data in zip(rows, encode(window, base, k, rows), strict=True):
            self._note(self.decoder.repair(base, count, k, row, data))

    def _note(self, restored: Restored) -> None:
        for number, content in restored:
            i = (number - self.first) & M32
            assert i not in self.restored and i not in self.received, f"{i} was there already"
            size = len(self.symbols[i])
            assert content[:size] == self.symbols[i], f"{i} was restored wrongly"
            assert not any(content[size:])
            self.restored[i] = content


class GroupTests(unittest.TestCase):
    @given(st.data(), st.integers(1, 20), st.integers(1, 6), firsts, st.integers(0, 1 << 32))
    def test_as_many_losses_as_repairs(
        self, data: st.DataObject, k: int, r: int, first: int, seed: int
    ) -> None:
        path = Path(3 * k, seed, first)
        for start in range(0, 3 * k, k):
            packets = [*range(start, start + k), *range(-r, 0)]
            lost = data.draw(st.sets(st.sampled_from(packets), max_size=r))
            for packet in data.draw(st.permutations([p for p in packets if p not in lost])):
                if packet >= 0 and packet not in path.restored:
                    path.source(packet)
                elif packet < 0:
                    path.repair(start, k, k, k + r + packet)
        self.assertEqual(path.received | set(path.restored), set(range(3 * k)))
        self.assertEqual(path.decoder.recovered, len(path.restored))

    def test_nothing_is_lost(self) -> None:
        path = Path(20)
        path.source(*range(10))
        path.repair(0, 10, 10, 10, 11)
        self.assertEqual(path.restored, {})
        self.assertEqual((path.decoder.repairs, path.decoder.useless), (2, 2))

    def test_what_is_useful(self) -> None:
        path = Path(20)
        path.source(*range(9))
        path.repair(0, 10, 10, 10, 11, 12)
        self.assertEqual(set(path.restored), {9})
        self.assertEqual((path.decoder.recovered, path.decoder.useless), (1, 2))

    def test_too_many_losses_then_a_late_symbol(self) -> None:
        path = Path(10)
        path.source(*range(3, 10))
        path.repair(0, 10, 10, 10, 11)
        self.assertEqual(path.restored, {})
        path.source(1)
        self.assertEqual(set(path.restored), {0, 2})
        self.assertEqual(path.decoder.kept_repairs, 0)
        self.assertEqual(path.decoder.useless, 0)

    def test_repairs_before_their_symbols(self) -> None:
        path = Path(10)
        path.repair(0, 10, 10, 10, 11)
        path.source(9, 0, 1, 2, 3, 4, 5)
        self.assertEqual(path.restored, {})
        path.source(8)
        self.assertEqual(set(path.restored), {6, 7})

    def test_a_symbol_that_comes_after_it_was_restored(self) -> None:
        path = Path(3)
        path.source(0)
        path.repair(0, 3, 3, 3, 4)
        self.assertEqual(path.decoder.source(2, path.symbols[2]), [])
        self.assertEqual(path.decoder.source(2, path.symbols[2]), [])

    def test_a_repair_twice(self) -> None:
        path = Path(4)
        path.source(0, 1)
        path.repair(0, 4, 4, 4)
        path.repair(0, 4, 4, 4)
        self.assertEqual(path.restored, {})
        self.assertEqual(path.decoder.useless, 1)

    def test_a_lone_event(self) -> None:
        path = Path(1)
        path.repair(0, 1, 1, 1)
        self.assertEqual(set(path.restored), {0})

    def test_the_filling_is_no_part_of_a_symbol(self) -> None:
        """A restored one may be covered again by a repair that is shorter than the first."""
        decoder = FecDecoder()
        symbols = [b"a" * 100, b"b", b"c"]
        decoder.source(0, symbols[0])
        self.assertEqual(
            decoder.repair(0, 2, 2, 2, encode(symbols[:2], 0, 2, (2,))[0]),
            [(1, b"b".ljust(100, b"\0"))],
        )
        self.assertEqual(
            decoder.repair(1, 2, 2, 2, encode(symbols[1:], 1, 2, (2,))[0]), [(2, b"c")]
        )

    def test_views_do(self) -> None:
        decoder = FecDecoder()
        symbols = [b"one", b"two", b"three"]
        decoder.source(0, memoryview(b"xone")[1:])
        decoder.source(2, memoryview(b"xthree")[1:])
        repair = encode(symbols, 0, 3, (3,))[0]
        self.assertEqual(decoder.repair(0, 3, 3, 3, memoryview(repair)), [(1, b"two\0\0")])


class SlidingTests(unittest.TestCase):
    def test_peeling(self) -> None:
        """The last window has one unknown, which is the second of the one before, and so on."""
        path = Path(9)
        path.source(0, 1, 3, 5, 7)
        path.repair(1, 4, 4, 4)
        path.repair(3, 4, 4, 5)
        self.assertEqual(path.restored, {})
        path.repair(5, 2, 4, 6)
        self.assertEqual(set(path.restored), {2, 4, 6})

    def test_jointly(self) -> None:
        path = Path(8)
        path.source(0, 1, 4, 5, 6, 7)
        path.repair(0, 4, 4, 4)
        path.repair(2, 4, 4, 5)
        self.assertEqual(set(path.restored), {2, 3})
        self.assertEqual(path.decoder.useless, 0)

    def test_jointly_with_different_codes(self) -> None:
        path = Path(8)
        path.source(0, 5)
        path.repair(0, 4, 10, 11)
        path.repair(1, 4, 4, 5)
        path.repair(1, 3, 7, 9)
        self.assertEqual(path.restored, {})
        path.repair(2, 3, 3, 4)
        self.assertEqual(set(path.restored), {1, 2, 3, 4})

    def test_what_only_the_difference_of_two_repairs_tells(self) -> None:
        """One row of one code over two windows: the factors of what both cover are the same."""
        path = Path(5)
        path.repair(0, 4, 6, 6)
        path.repair(0, 5, 6, 6)
        self.assertEqual(set(path.restored), {4})

    @given(st.data(), firsts, st.integers(0, 1 << 32))
    def test_finds_what_linear_algebra_says(
        self, data: st.DataObject, first: int, seed: int
    ) -> None:
        path = Path(14, seed, first)
        window = st.tuples(st.integers(0, 9), st.integers(1, 5), st.integers(0, 4))
        windows = data.draw(st.lists(window, min_size=1, max_size=4, unique=True))
        rows = st.tuples(st.sampled_from(windows), st.integers(0, 3))
        repairs = data.draw(st.lists(rows, max_size=10, unique=True))
        sources = data.draw(st.sets(st.integers(0, 13)))
        equations: list[dict[int, int]] = []
        for packet in data.draw(st.permutations([*repairs, *sources])):
            if isinstance(packet, int):
                if packet not in path.restored:
                    path.source(packet)
                continue
            (start, count, spare), row = packet
            k = count + spare
            path.repair(start, count, k, k + row)
            base = (first + start) & M32
            equations.append({start + i: factor(k, k + row, base + i) for i in range(count)})
        rest = [{n: by for n, by in e.items() if n not in path.received} for e in equations]
        expected = determined([e for e in rest if e]) if any(rest) else set()
        self.assertEqual(set(path.restored), expected)


class BoundsTests(unittest.TestCase):
    def test_nonsense_is_a_violation(self) -> None:
        for base, count, k, row in [
            (0, 0, 4, 4),
            (0, 5, 4, 4),
            (0, 4, 4, 3),
            (0, 0, 0, 0),
            (0, 4, 4, 256),
            (1 << 21, 4, 4, 4),
            (1 << 31, 4, 4, 4),
            (M32 - (1 << 21), 4, 4, 4),
        ]:
            with self.subTest((base, count, k, row)), self.assertRaises(ProtocolViolation):
                FecDecoder().repair(base, count, k, row, b"data")

    def test_far_away_symbols_are_a_violation(self) -> None:
        for number in (1 << 21, 1 << 31, M32 - (1 << 21)):
            with self.subTest(number), self.assertRaises(ProtocolViolation):
                FecDecoder().source(number, b"data")

    def test_one_group_has_one_length(self) -> None:
        decoder = FecDecoder()
        decoder.repair(0, 4, 4, 4, b"four")
        with self.assertRaises(ProtocolViolation):
            decoder.repair(0, 4, 4, 5, b"seven..")

    def test_a_symbol_longer_than_its_repair(self) -> None:
        decoder = FecDecoder()
        decoder.source(0, b"longer")
        with self.assertRaises(ProtocolViolation):
            decoder.repair(0, 2, 2, 2, b"short")

    def test_a_symbol_longer_than_its_repair_among_several_windows(self) -> None:
        decoder = FecDecoder()
        decoder.source(0, b"longer")
        decoder.repair(0, 3, 3, 3, b"short")
        with self.assertRaises(ProtocolViolation):
            decoder.repair(1, 2, 3, 4, b"short")

    def test_an_outage(self) -> None:
        """Thousands of symbols were lost: everything before is forgotten."""
        path = Path(9000)
        path.source(0, 1)
        path.repair(0, 4, 4, 4)
        path.source(5000)
        self.assertEqual((path.decoder.kept_repairs, path.decoder.useless), (0, 1))
        path.source(4999, 2, 3)
        self.assertEqual(path.restored, {})
        path.source(5001)
        path.repair(5000, 3, 3, 3)
        self.assertEqual(set(path.restored), {5002})
        path.repair(8000, 1, 1, 1)
        self.assertEqual(set(path.restored), {5002, 8000})

    def test_late_packets_are_ignored(self) -> None:
        path = Path(2000)
        path.source(*range(1000))
        path.source(*range(500))
        path.repair(100, 4, 4, 4)
        path.repair(486, 4, 4, 4)  # in part
        self.assertEqual(path.restored, {})
        self.assertEqual(path.decoder.useless, 2)

    def test_the_oldest_symbols_go_first(self) -> None:
        decoder = FecDecoder(max_bytes=1000)
        for number in range(20):
            decoder.source(number, bytes(100))
            self.assertLessEqual(decoder.kept_bytes, 1000)
        self.assertEqual(decoder.repair(8, 4, 4, 4, bytes(100)), [])
        decoder.source(21, bytes(100))
        self.assertEqual([n for n, _ in decoder.repair(18, 4, 4, 4, bytes(100))], [20])
        decoder.source(22, bytes(5000))
        self.assertEqual(decoder.kept_bytes, 0)
        decoder.source(23, b"next")
        self.assertEqual(decoder.kept_bytes, 4)

    def test_span_is_checked(self) -> None:
        for span in (0, 128, 300):
            with self.subTest(span), self.assertRaises(ValueError):
                FecDecoder(span=span)

    @given(st.integers(0, 1 << 32))
    def test_a_hostile_peer(self, seed: int) -> None:
        """Any symbols and repairs: memory stays within bounds, and only one error rises."""
        chance = Random(seed)
        decoder = FecDecoder(span=256, max_repairs=16, max_bytes=3000)
        here = 0
        for _ in range(150):
            here += chance.choice((0, 1, 1, 1, 2, 7, 300))
            number = (here - chance.choice((0, 1, 3, 20, 300))) & M32
            try:
                if chance.random() < 0.4:
                    decoder.source(number, chance.randbytes(chance.choice((0, 50, 60))))
                else:
                    k = chance.choice((1, 4, 8, 8, 8, 255))
                    count, row = chance.randint(1, k), chance.randint(k, 255)
                    decoder.repair(number, count, k, row, chance.randbytes(60))
            except ProtocolViolation:
                pass
            self.assertLessEqual(decoder.kept_repairs, 16)
            self.assertLessEqual(decoder.kept_bytes, 2 * 3000)

    def test_the_work_one_packet_causes_is_bounded(self) -> None:
        """256 windows that all miss the same symbols, one of which comes."""
        decoder = FecDecoder()
        for base in range(200):
            decoder.repair(base, 50, 50, 50 + base % 200, b"nonsense")
        sizes: list[tuple[int, int]] = []

        def solve(equations: list[dict[int, int]]) -> dict[int, list[tuple[int, int]]]:
            sizes.append((len(equations), len(set().union(*equations))))
            return {}

        with mock.patch.object(decoder_module, "solve", solve):
            for number in range(100, 150):
                sizes.clear()
                decoder.source(number, b"late")
                self.assertLessEqual(len(sizes), decoder_module._MOST_TRIES)
                self.assertTrue(all(height <= 16 and width <= 64 for height, width in sizes))
