"""Tests for jetstreamproto.wire.compression."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress
from dataclasses import FrozenInstanceError
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.wire.compression import (
    CompressionPolicy,
    Compressor,
    compress,
    decompress,
)

untimed = settings(deadline=None)

KIB, MIB = 1024, 1024 * 1024


def noise(size: int) -> bytes:
    """Return bytes that do not compress, the same ones every time."""
    return random.Random(size).randbytes(size)


# Long runs and repetitions as well as arbitrary bytes.
contents = st.lists(
    st.tuples(st.binary(min_size=1, max_size=30), st.integers(1, 200)), max_size=8
).map(lambda parts: b"".join(part * times for part, times in parts))


class BlockTests(TestCase):
    @untimed
    @given(contents)
    def test_round_trip_with_exactly_enough_room(self, data: bytes) -> None:
        block = compress(data)
        self.assertEqual(decompress(block, len(data)), data)
        self.assertEqual(decompress(block, 1 << 40), data)

    @untimed
    @given(contents.filter(bool))
    def test_one_byte_beyond_the_limit(self, data: bytes) -> None:
        with self.assertRaisesRegex(WireError, f"exceeds {len(data) - 1} bytes"):
            decompress(compress(data), len(data) - 1)

    def test_best_case_stays_within_the_assumed_expansion(self) -> None:
        for size in (0, 1, 5, 12, 13, 19, 300, 64 * KIB, 16 * MIB):
            with self.subTest(size=size):
                self.assertEqual(decompress(compress(bytes(size)), size), bytes(size))

    def test_any_buffer(self) -> None:
        block = compress(bytes(100))
        for kind in (bytearray, memoryview):
            self.assertEqual(compress(kind(bytes(100))), block)
            self.assertEqual(decompress(kind(block), 100), bytes(100))

    def test_no_size_in_the_block(self) -> None:
        self.assertEqual(compress(b"abc"), b"\x30abc")

    def test_bomb_is_refused_within_the_receivers_memory(self) -> None:
        bomb = compress(bytes(16 * MIB))
        self.assertLess(len(bomb), 65 * KIB)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        with self.assertRaises(WireError):
            decompress(bomb, MIB)
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak, 2 * MIB)

    def test_small_blocks_do_not_cost_the_whole_limit(self) -> None:
        block = compress(bytes(100))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        decompress(block, 16 * MIB)
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak, MIB)

    @untimed
    @given(st.binary(max_size=200), st.integers(0, 5000))
    def test_arbitrary_blocks_decompress_or_raise_wire_error(
        self, block: bytes, limit: int
    ) -> None:
        with suppress(WireError):
            self.assertLessEqual(len(decompress(block, limit)), limit)

    @untimed
    @given(contents, st.data())
    def test_damaged_blocks_decompress_or_raise_wire_error(
        self, data: bytes, choice: st.DataObject
    ) -> None:
        block = bytearray(compress(data))
        block[choice.draw(st.integers(0, len(block) - 1))] ^= choice.draw(st.integers(1, 255))
        with suppress(WireError):
            self.assertLessEqual(len(decompress(block, len(data))), len(data))

    @untimed
    @given(contents)
    def test_truncated_blocks_never_pass_for_the_whole(self, data: bytes) -> None:
        with suppress(WireError):
            self.assertNotEqual(decompress(compress(data)[:-1], len(data)), data)

    def test_empty_block(self) -> None:
        for limit in (0, 10):
            with self.assertRaises(WireError):
                decompress(b"", limit)

    def test_negative_limit(self) -> None:
        with self.assertRaisesRegex(ValueError, "limit") as caught:
            decompress(compress(b"abc"), -1)
        self.assertNotIsInstance(caught.exception, WireError)


class CompressionPolicyTests(TestCase):
    def test_bad_settings_are_named(self) -> None:
        for name, value in (
            ("min_size", -1),
            ("min_saving", -0.1),
            ("min_saving", 1.0),
            ("min_saving", float("nan")),
            ("max_skip", -1),
        ):
            with self.subTest(name, value=value), self.assertRaisesRegex(ValueError, name):
                CompressionPolicy(**{name: value})  # type: ignore[arg-type]

    def test_frozen(self) -> None:
        with self.assertRaises(FrozenInstanceError):
            CompressionPolicy().min_size = 1  # type: ignore[misc]

    def test_pays(self) -> None:
        policy = CompressionPolicy(min_saving=0.25)
        self.assertTrue(policy.pays(1000, 750))
        self.assertFalse(policy.pays(1000, 751))
        self.assertFalse(CompressionPolicy(min_saving=0).pays(1000, 1000))
        self.assertTrue(CompressionPolicy(min_saving=0).pays(1000, 999))


class CompressorTests(TestCase):
    def tries(self, policy: CompressionPolicy, after: list[bytes]) -> bool:
        """Whether a compressor that was given `after` would try the payload after those."""
        compressor = Compressor(policy)
        for payload in after:
            compressor.compress(payload)
        return compressor.compress(bytes(1000)) is not None

    def test_returns_the_block_when_it_pays(self) -> None:
        compressor = Compressor(CompressionPolicy())
        echoes = b"".join(noise(size) * 2 for size in range(100, 300))
        for payload in (bytes(1000), memoryview(bytes(1000)), echoes):
            block = compressor.compress(payload)
            assert block is not None
            self.assertLess(len(block), len(payload) * 0.6)
            self.assertEqual(decompress(block, len(payload)), payload)

    def test_leaves_alone_what_does_not_compress(self) -> None:
        for size in (1000, 100 * KIB):
            self.assertIsNone(Compressor(CompressionPolicy()).compress(noise(size)))

    def test_leaves_alone_what_is_small(self) -> None:
        compressor = Compressor(CompressionPolicy(min_size=600))
        self.assertIsNone(compressor.compress(bytes(599)))
        self.assertIsNotNone(compressor.compress(bytes(600)))

    def test_min_saving_decides(self) -> None:
        payload = noise(600) + bytes(400)
        self.assertIsNotNone(Compressor(CompressionPolicy(min_saving=0.3)).compress(payload))
        self.assertIsNone(Compressor(CompressionPolicy(min_saving=0.5)).compress(payload))

    def test_backs_off_in_doubling_steps(self) -> None:
        tried = [n for n in range(50) if self.tries(CompressionPolicy(), [noise(1000)] * n)]
        self.assertEqual(tried, [0, 2, 5, 10, 19, 36])

    def test_backs_off_no_further_than_max_skip(self) -> None:
        for max_skip, expected in (
            (0, list(range(20))),
            (1, list(range(0, 20, 2))),
            (3, [0, 2, 5, 9, 13, 17]),
        ):
            policy = CompressionPolicy(max_skip=max_skip)
            tried = [n for n in range(20) if self.tries(policy, [noise(1000)] * n)]
            self.assertEqual(tried, expected)

    def test_success_starts_anew(self) -> None:
        before = [noise(1000)] * 10 + [bytes(1000)]  # the zeros are tried, and pay
        tried = [
            n for n in range(12) if self.tries(CompressionPolicy(), before + [noise(1000)] * n)
        ]
        self.assertEqual(tried, [0, 2, 5, 10])

    def test_small_payloads_do_not_count(self) -> None:
        policy = CompressionPolicy()
        self.assertFalse(self.tries(policy, [noise(1000), *[bytes(100)] * 50]))
        self.assertTrue(self.tries(policy, [noise(1000), noise(1000), *[bytes(100)] * 50]))

    def test_large_payloads_are_judged_by_their_beginning(self) -> None:
        start = noise(4 * KIB)
        whole, sampled = start + bytes(12 * KIB), start + bytes(12 * KIB + 1)
        self.assertIsNotNone(Compressor(CompressionPolicy()).compress(whole))
        self.assertIsNone(Compressor(CompressionPolicy()).compress(sampled))

    def test_a_promising_beginning_is_not_enough(self) -> None:
        policy = CompressionPolicy()
        payload = bytes(4 * KIB) + noise(60 * KIB)
        self.assertIsNone(Compressor(policy).compress(payload))
        self.assertFalse(self.tries(policy, [payload]))
