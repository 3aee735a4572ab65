from __future__ import annotations

import unittest
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.reliability.fec.codes import SHARES, add, encode, factor, restore, solve

symbols = st.lists(st.binary(max_size=40), min_size=1, max_size=20)


def multiply(a: int, b: int) -> int:
    """In GF(2^8) with zfec's polynomial, by the book."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11D << (bit - 8)
    return product


def by_definition(window: list[bytes], base: int, k: int, row: int) -> bytes:
    """A repair symbol as docs/protocol.md describes it."""
    size = max(map(len, window))
    repair = bytearray(size)
    for number, symbol in enumerate(window, base):
        by = factor(k, row, number)
        for i, byte in enumerate(symbol):
            repair[i] ^= multiply(by, byte)
    return bytes(repair)


def rank(rows: list[list[int]]) -> int:
    rows = [list(row) for row in rows]
    done = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((r for r in rows[done:] if r[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows.insert(done, pivot)
        done += 1
        for row in rows[done:]:
            by, to = row[column], pivot[column]
            row[:] = [multiply(to, x) ^ multiply(by, y) for x, y in zip(row, pivot, strict=True)]
    return done


def determined(equations: list[dict[int, int]]) -> set[int]:
    """The unknowns that equations determine, by comparing ranks."""
    unknowns = sorted(set().union(*equations))
    rows = [[equation.get(unknown, 0) for unknown in unknowns] for equation in equations]
    whole = rank(rows)
    found = set()
    for i, unknown in enumerate(unknowns):
        unit = [int(i == j) for j in range(len(unknowns))]
        if rank([*rows, unit]) == whole:
            found.add(unknown)
    return found


class EncodeTests(unittest.TestCase):
    @given(symbols, st.integers(0, 0xFFFFFFFF), st.integers(0, 12), st.integers(0, 200))
    def test_repairs_are_the_sums_they_should_be(
        self, window: list[bytes], base: int, spare: int, row: int
    ) -> None:
        k = len(window) + spare
        row = k + row % (SHARES - k)
        self.assertEqual(encode(window, base, k, (row,)), [by_definition(window, base, k, row)])

    def test_views_and_bytes_give_the_same(self) -> None:
        window = [bytes([i]) * 100 for i in range(10)]
        views = [memoryview(b"head" + symbol)[4:] for symbol in window]
        self.assertEqual(encode(window, 7, 10, (10, 11)), encode(views, 7, 10, (10, 11)))

    def test_a_group_of_one_is_sent_twice(self) -> None:
        self.assertEqual(encode([b"event"], 77, 1, (1, 5, 255)), [b"event"] * 3)

    def test_a_row_does_not_depend_on_how_many_there_are(self) -> None:
        from zfec import Encoder

        window = [bytes([i, 255 - i]) for i in range(10)]
        self.assertEqual(
            encode(window, 0, 10, (10, 11)), Encoder(10, 12).encode(tuple(window), (10, 11))
        )

    def test_no_factor_is_zero(self) -> None:
        for k in (1, 2, 3, 10, 100, 255):
            with self.subTest(k):
                factors = {factor(k, row, n) for row in range(k, SHARES) for n in range(k)}
                self.assertNotIn(0, factors)

    def test_empty_symbols(self) -> None:
        self.assertEqual(encode([b"", b""], 3, 4, (9,)), [b""])
        self.assertEqual(restore([b"", None], 3, 4, {9: b""}), [b""])


class RestoreTests(unittest.TestCase):
    @given(st.data())
    def test_any_losses_that_repairs_are_enough_for(self, data: st.DataObject) -> None:
        window = data.draw(symbols)
        k = len(window) + data.draw(st.integers(0, 5))
        base = data.draw(st.integers(0, 0xFFFFFFFF))
        lost = data.draw(st.sets(st.integers(0, len(window) - 1), min_size=1))
        rows = data.draw(
            st.lists(
                st.integers(k, SHARES - 1), min_size=len(lost), max_size=len(lost), unique=True
            )
        )
        repairs = dict(zip(rows, encode(window, base, k, rows), strict=True))
        holes = [None if i in lost else symbol for i, symbol in enumerate(window)]
        size = max(map(len, window))
        expected = [window[i].ljust(size, b"\0") for i in sorted(lost)]
        self.assertEqual(restore(holes, base, k, repairs), expected)

    def test_a_symbol_longer_than_its_repair(self) -> None:
        with self.assertRaises(ValueError):
            restore([b"longer", None], 0, 2, {2: b"short"})


class SolveTests(unittest.TestCase):
    @given(
        st.lists(
            st.dictionaries(st.integers(0, 6), st.integers(1, 255), min_size=1),
            min_size=1,
            max_size=6,
        ),
        st.integers(),
    )
    def test_finds_what_can_be_found(self, equations: list[dict[int, int]], seed: int) -> None:
        chance = Random(seed)
        values = {n: chance.randbytes(5) for n in range(7)}
        sums = [add([(by, values[n]) for n, by in e.items()], 5) for e in equations]
        solution = solve(equations)
        self.assertEqual(set(solution), determined(equations))
        for number, terms in solution.items():
            self.assertEqual(add([(by, sums[i]) for i, by in terms], 5), values[number])

    @given(st.binary(max_size=50), st.integers(0, 255))
    def test_products(self, block: bytes, by: int) -> None:
        expected = bytes(multiply(by, byte) for byte in block)
        self.assertEqual(add([(by, block)], len(block)), expected)
