from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.reliability.fec.plans import (
    MAX_WINDOW,
    NO_FEC,
    group_plan,
    parity_needed,
    sliding_plan,
)

LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2)


class ParityTests(unittest.TestCase):
    def test_the_published_table(self) -> None:
        """For a residual failure of 1e-3."""
        table = {4: (1, 2, 3, 4, 6), 10: (2, 3, 4, 6, 10), 20: (3, 4, 6, 9, 15)}
        for k, row in table.items():
            with self.subTest(k):
                self.assertEqual(tuple(parity_needed(k, p, 1e-3) for p in LOSSES), row)

    def test_extremes(self) -> None:
        self.assertEqual(parity_needed(10, 0.0, 1e-3), 0)
        self.assertEqual(parity_needed(10, 1.0, 1e-3), 246)
        self.assertEqual(parity_needed(1, 0.01, 0.5), 0)

    @given(st.integers(1, MAX_WINDOW), st.floats(0, 0.4), st.floats(0, 0.4))
    def test_more_loss_needs_no_less(self, k: int, one: float, other: float) -> None:
        less, more = sorted((one, other))
        self.assertLessEqual(parity_needed(k, less, 1e-3), parity_needed(k, more, 1e-3))


class PlanTests(unittest.TestCase):
    def test_groups(self) -> None:
        plan = group_plan(10, 2, 0.01)
        self.assertEqual((plan.every, plan.window, plan.k, plan.repairs), (10, 10, 10, 2))
        self.assertFalse(plan.slides)
        self.assertAlmostEqual(plan.overhead, 0.2)

    def test_sparse_events(self) -> None:
        """100 a second that may wait 35 ms, of which 2% are lost."""
        plan = sliding_plan(0.01, 0.035, 0.02, 1e-3, 0.5)
        self.assertEqual((plan.every, plan.repairs), (2, 1))
        self.assertGreaterEqual(plan.window, 4)
        self.assertTrue(plan.slides)

    def test_dense_traffic_costs_less(self) -> None:
        costs = [sliding_plan(1 / n, 0.035, 0.02, 1e-3, 0.5).overhead for n in (100, 300, 1000)]
        self.assertEqual(costs, sorted(costs, reverse=True))
        self.assertLess(costs[-1], 0.15)

    def test_lone_events_are_sent_twice_whatever_the_limit(self) -> None:
        self.assertEqual(sliding_plan(1.0, 0.035, 0.02, 1e-3, 0.5).every, 1)

    def test_nothing_to_do(self) -> None:
        self.assertEqual(sliding_plan(0.01, 0.035, 0.0, 1e-3, 0.5), NO_FEC)
        self.assertEqual(sliding_plan(0.01, 0.0, 0.05, 1e-3, 0.5), NO_FEC)
        self.assertEqual(sliding_plan(0.01, -1.0, 0.05, 1e-3, 0.5), NO_FEC)
        self.assertEqual(NO_FEC.overhead, 0)

    @given(st.floats(0, 2), st.floats(1e-4, 2), st.floats(1e-3, 0.5), st.floats(1 / MAX_WINDOW, 1))
    def test_every_plan_is_sound(
        self, interval: float, budget: float, loss: float, overhead: float
    ) -> None:
        plan = sliding_plan(interval, budget, loss, 1e-3, overhead)
        self.assertTrue(1 <= plan.every <= plan.window <= plan.k <= MAX_WINDOW)
        self.assertLess(plan.hold, budget)
        self.assertEqual(plan.reach, 4 * budget)
        if plan.overhead > overhead:  # no more symbols come in time
            self.assertLess(plan.hold, plan.every * interval + 1e-12)
        # a repair leaves in time for the first symbol it is made for
        self.assertLessEqual((plan.every - 1) * interval, budget)
