from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.cli.percentile import percentile

values = st.lists(st.floats(allow_nan=False), min_size=1).map(sorted)


class PercentileTests(unittest.TestCase):
    def test_examples(self) -> None:
        hundred = [float(n) for n in range(1, 101)]
        for percent, expected in [(0, 1.0), (1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)]:
            self.assertEqual(percentile(hundred, percent), expected)
        self.assertEqual(percentile([7.0], 99), 7.0)
        self.assertEqual(percentile([1.0, 2.0, 3.0], 99), 3.0)

    @given(values, st.floats(0, 100))
    def test_that_many_percent_do_not_exceed_it(self, ordered: list[float], percent: float) -> None:
        found = percentile(ordered, percent)
        self.assertIn(found, ordered)
        at_most = sum(1 for value in ordered if value <= found)
        self.assertGreaterEqual(at_most / len(ordered) * 100, percent - 1e-9)
