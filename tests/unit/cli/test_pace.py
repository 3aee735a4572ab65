from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.cli.pace import Pace

rates = st.floats(0.01, 1e6)
counts = st.integers(1, 10**6)


class PaceTests(unittest.TestCase):
    def test_a_steady_pace(self) -> None:
        pace = Pace(100, 10)
        self.assertEqual([pace.due(i / 100) for i in range(12)], [*range(1, 11), 10, 10])
        self.assertEqual(pace.due(0.0049), 1)
        self.assertAlmostEqual(pace.until(1, 0.004), 0.006)

    def test_who_is_late_catches_up(self) -> None:
        pace = Pace(100, 1000)
        self.assertEqual(pace.due(3.505), 351)
        self.assertEqual(pace.until(1, 3.5), 0)

    @given(rates, counts, st.floats(0, 1e5))
    def test_after_the_wait_the_next_is_due(self, rate: float, count: int, elapsed: float) -> None:
        pace = Pace(rate, count)
        due = pace.due(elapsed)
        self.assertTrue(1 <= due <= count)
        if due < count:
            self.assertGreater(pace.due(elapsed + pace.until(due, elapsed)), due)
