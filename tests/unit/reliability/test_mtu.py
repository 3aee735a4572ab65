"""Tests for jetstreamproto.reliability.mtu."""

from __future__ import annotations

from random import Random
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability.mtu import MtuSearch

untimed = settings(deadline=None, derandomize=True, database=None)

CLOSE = 16  # what is found may be smaller than what is possible by less than so much


def search(mtu: MtuSearch, path: int, now: float = 0.0, loss: float = 0.0, seed: int = 0) -> int:
    """Probe a path until nothing more is wanted; how many probes were sent."""
    random = Random(seed)
    for probes in range(1000):
        size = mtu.next_probe(now)
        if size is None:
            return probes
        assert size > mtu.size
        assert mtu.next_probe(now) is None, "one probe at a time"
        if size <= path and random.random() >= loss:
            mtu.probe_acked(size)
        else:
            mtu.probe_lost(size)
    raise AssertionError("the search does not end")


class SearchTests(TestCase):
    def test_sizes_that_links_have_are_found_exactly(self) -> None:
        for path in (1200, 1452, 1472, 2800, 8952, 16384, 65507):
            with self.subTest(path):
                mtu = MtuSearch(65507)
                self.assertLess(search(mtu, path), 60)
                self.assertEqual(mtu.size, path)

    @untimed
    @given(st.integers(1200, 65507), st.integers(1200, 65507))
    def test_any_size_is_nearly_found(self, path: int, most: int) -> None:
        mtu = MtuSearch(most)
        self.assertLess(search(mtu, path), 60)
        best = min(path, most)
        self.assertTrue(best - CLOSE < mtu.size <= best, mtu.size)

    def test_random_losses_do_not_matter_much(self) -> None:
        exact = 0
        for seed in range(200):
            mtu = MtuSearch(65507)
            search(mtu, 1472, loss=0.1, seed=seed)
            self.assertLessEqual(mtu.size, 1472)
            exact += mtu.size == 1472
        self.assertGreater(exact, 190)

    def test_three_probes_a_size(self) -> None:
        mtu = MtuSearch(1472)
        for _ in range(3):
            self.assertEqual(mtu.next_probe(0.0), 1452)
            mtu.probe_lost(1452)
        self.assertEqual(mtu.next_probe(0.0), 1326)

    def test_now_and_then_larger_sizes_are_tried_again(self) -> None:
        mtu = MtuSearch(65507)
        search(mtu, 1452)
        self.assertIsNone(mtu.next_probe(599.0))
        self.assertEqual(mtu.next_probe(600.0), 1472)
        mtu.probe_acked(1472)
        search(mtu, 9000, 600.0)
        self.assertTrue(9000 - CLOSE < mtu.size <= 9000, mtu.size)

    def test_a_fixed_size_is_not_probed(self) -> None:
        mtu = MtuSearch(65507, 1400)
        for now in (0.0, 1000.0):
            self.assertIsNone(mtu.next_probe(now))
        mtu.reset()
        self.assertEqual((mtu.size, mtu.next_probe(2000.0)), (1400, None))

    def test_nothing_to_find(self) -> None:
        self.assertIsNone(MtuSearch(1200).next_probe(0.0))


class TooBigTests(TestCase):
    def test_what_the_system_says_bounds_the_search(self) -> None:
        mtu = MtuSearch(65507)
        mtu.next_probe(0.0)
        mtu.too_big(1421)
        search(mtu, 65507)
        self.assertTrue(1421 - CLOSE <= mtu.size < 1421, mtu.size)

    def test_the_size_in_use(self) -> None:
        mtu = MtuSearch(65507)
        search(mtu, 1472)
        mtu.too_big(1421)
        self.assertEqual(mtu.size, 1200)

    def test_the_search_begins_again_at_once(self) -> None:
        mtu = MtuSearch(65507)
        search(mtu, 1472)
        mtu.too_big(1421)
        search(mtu, 1420, 1.0)
        self.assertTrue(1420 - CLOSE < mtu.size <= 1420, mtu.size)

    def test_what_every_path_must_carry_is_never_too_big(self) -> None:
        mtu = MtuSearch(65507)
        search(mtu, 1472)
        for size in (0, 1, 577, 1200):
            mtu.too_big(size)
            self.assertEqual(mtu.size, 1472)


class BlackHoleTests(TestCase):
    def found(self, path: int = 8952) -> MtuSearch:
        mtu = MtuSearch(65507)
        search(mtu, path)
        return mtu

    def test_eight_full_packets_in_a_row(self) -> None:
        mtu = self.found()
        self.assertFalse(mtu.full_packets_lost(4))
        self.assertFalse(mtu.full_packets_lost(3))
        self.assertTrue(mtu.full_packets_lost(1))
        self.assertEqual(mtu.size, 1200)
        self.assertFalse(mtu.full_packets_lost(100), "there is nothing smaller")

    def test_one_that_arrives_ends_the_row(self) -> None:
        mtu = self.found()
        for _ in range(100):
            self.assertFalse(mtu.full_packets_lost(7))
            mtu.full_packet_acked()
        self.assertEqual(mtu.size, 8952)

    def test_the_search_begins_again_at_once(self) -> None:
        mtu = self.found()
        self.assertTrue(mtu.full_packets_lost(8))
        search(mtu, 1472, 1.0)
        self.assertEqual(mtu.size, 1472)

    def test_another_path(self) -> None:
        mtu = self.found()
        mtu.reset()
        self.assertEqual(mtu.size, 1200)
        search(mtu, 1452, 1.0)
        self.assertEqual(mtu.size, 1452)

    def test_a_probe_of_the_path_before_says_nothing(self) -> None:
        mtu = self.found(1472)
        probe = mtu.next_probe(600.0)
        assert probe is not None
        mtu.reset()
        mtu.probe_acked(probe)
        self.assertEqual(mtu.size, 1200)
