from __future__ import annotations

import unittest
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.reliability.fec.plans import NO_FEC, group_plan
from jetstreamproto.reliability.fec.rate import FecRate, LossBound, random_losses
from jetstreamproto.reliability.fec.settings import FecSettings

RTT, JITTER = 0.1, 0.0
DEADLINE = RTT / 2 + 0.037
"""35 ms beyond the one-way delay, after 2 for timers and decoding."""


def rate(text: str = "adaptive", gap: float = 0.01, loss: float = 0.02, **values: float) -> FecRate:
    """After 200 rounds with symbols every `gap` and so much loss."""
    settings = FecSettings(**values) if values else FecSettings.parse(text)  # type: ignore[arg-type]
    found = FecRate(settings)
    for i in range(200):
        found.symbol_added(i * gap)
        found.round_ended(100, round(100 * loss), RTT, JITTER)
    return found


class LossBoundTests(unittest.TestCase):
    def test_before_anything_is_measured(self) -> None:
        self.assertTrue(0.02 <= LossBound().upper <= 0.055)

    def test_close_to_what_is_lost_in_the_end(self) -> None:
        for loss in (0.01, 0.05, 0.2):
            with self.subTest(loss):
                chance, bound = Random(1), LossBound()
                uppers = []
                for _ in range(500):
                    bound.measured(20, sum(chance.random() < loss for _ in range(20)))
                    uppers.append(bound.upper)
                late = uppers[100:]
                self.assertLess(max(late), 1.3 * loss + 0.03)
                above = sum(upper >= loss for upper in late)
                self.assertGreater(above, 0.9 * len(late))

    def test_changing_loss_has_a_higher_bound(self) -> None:
        steady, bursty = LossBound(), LossBound()
        for i in range(60):
            steady.measured(100, 2)
            bursty.measured(100, 4 if i % 8 < 4 else 0)
        self.assertAlmostEqual(steady.mean, bursty.mean, 2)
        self.assertGreater(bursty.upper, 1.3 * steady.upper)

    def test_nothing_lost_for_long(self) -> None:
        bound = LossBound()
        for _ in range(10):
            self.assertGreater(bound.upper, 0)
            bound.measured(100, 0)
        self.assertEqual(bound.upper, 0)
        bound.measured(100, 1)
        self.assertTrue(0.001 < bound.upper < 0.02)

    def test_forgets(self) -> None:
        bound = LossBound()
        bound.measured(1000, 300)
        self.assertGreater(bound.upper, 0.2)
        for _ in range(60):
            bound.measured(100, 1)
        self.assertLess(bound.upper, 0.05)

    @given(st.lists(st.tuples(st.integers(-1, 5000), st.integers(0, 6000))))
    def test_always_a_fraction(self, rounds: list[tuple[int, int]]) -> None:
        bound = LossBound()
        for sent, lost in rounds:
            bound.measured(sent, lost)
            self.assertTrue(0 <= bound.upper <= 0.5)
            self.assertTrue(0 <= bound.mean <= 1)


class DeadlineTests(unittest.TestCase):
    def test_no_hurry_no_fec(self) -> None:
        self.assertEqual(rate().plan(None), NO_FEC)

    def test_retransmission_fits(self) -> None:
        found = rate()
        self.assertFalse(found.retransmission_fits(DEADLINE))
        self.assertFalse(found.retransmission_fits(1.5 * RTT))
        self.assertTrue(found.retransmission_fits(1.5 * RTT + 0.02))
        self.assertEqual(found.plan(1.0), NO_FEC)

    def test_short_round_trips_need_none(self) -> None:
        found = rate(loss=0.1)
        found.round_ended(100, 10, 0.015, 0.001)
        self.assertEqual(found.plan(0.055), NO_FEC)
        self.assertNotEqual(found.plan(0.02), NO_FEC)

    def test_what_cannot_come_in_time_anyway(self) -> None:
        self.assertEqual(rate().plan(RTT / 2), NO_FEC)
        self.assertEqual(rate(floor=0.25).plan(RTT / 2), NO_FEC)

    def test_sparse_events(self) -> None:
        found = rate()
        self.assertAlmostEqual(found.interval, 0.01)
        self.assertAlmostEqual(found.budget(DEADLINE), 0.035)
        plan = found.plan(DEADLINE)
        self.assertEqual((plan.every, plan.repairs), (2, 1))
        self.assertGreaterEqual(plan.window, 4)

    def test_dense_events_cost_less(self) -> None:
        self.assertLess(rate(gap=0.001).plan(DEADLINE).overhead, 0.2)

    def test_jitter_takes_from_the_budget(self) -> None:
        found = rate()
        found.round_ended(100, 2, RTT, 0.02)
        self.assertAlmostEqual(found.budget(DEADLINE), 0.015)

    def test_before_anything_is_measured(self) -> None:
        self.assertGreater(FecRate(FecSettings(), RTT).plan(DEADLINE).overhead, 0)


class RateTests(unittest.TestCase):
    def test_more_loss_more_repairs(self) -> None:
        costs = [rate(gap=0.001, loss=loss).plan(DEADLINE).overhead for loss in (0.01, 0.05, 0.2)]
        self.assertEqual(costs, sorted(costs))
        self.assertLess(costs[0], costs[1])

    def test_never_more_than_allowed(self) -> None:
        for overhead in (0.1, 0.25, 0.5):
            with self.subTest(overhead):
                plan = rate(gap=0.001, loss=0.3, overhead=overhead).plan(DEADLINE)
                self.assertLessEqual(plan.overhead, overhead)

    def test_no_loss_no_repairs(self) -> None:
        self.assertEqual(rate(loss=0.0).plan(DEADLINE), NO_FEC)

    def test_a_floor_without_loss(self) -> None:
        plan = rate(gap=0.001, loss=0.0, floor=0.25).plan(DEADLINE)
        self.assertEqual(plan.overhead, 0.25)
        self.assertEqual(rate(loss=0.05, floor=0.25).plan(DEADLINE).overhead, 0.5)

    def test_fixed_and_off(self) -> None:
        for deadline in (None, DEADLINE, 10.0):
            with self.subTest(deadline):
                self.assertEqual(rate("10+3").plan(deadline), group_plan(10, 3, 0.01))
                self.assertEqual(rate("off").plan(deadline), NO_FEC)

    def test_a_pause_does_not_count_for_much(self) -> None:
        found = rate()
        found.symbol_added(100.0)
        self.assertLess(found.interval, 0.02)

    def test_slower_and_faster_symbols_are_noticed(self) -> None:
        found = rate()
        for i in range(60):
            found.symbol_added(10 + i * 0.2)
        self.assertAlmostEqual(found.interval, 0.2, 1)
        for _ in range(100):
            found.symbol_added(30.0)
        self.assertLess(found.interval, 0.001)
        for i in range(100):
            found.symbol_added(40 + i * 0.01)
        self.assertAlmostEqual(found.interval, 0.01, 3)


class GovernorTests(unittest.TestCase):
    def test_useless_repairs_are_cut(self) -> None:
        found = rate(gap=0.001)
        costs = [found.plan(DEADLINE).overhead]
        for _ in range(5):
            found.repairs_used(1000, 1)
            costs.append(found.plan(DEADLINE).overhead)
        self.assertAlmostEqual(costs[1], costs[0] / 2)
        self.assertEqual(costs[-1], 0)
        self.assertEqual(costs, sorted(costs, reverse=True))

    def test_not_below_the_floor(self) -> None:
        found = rate(gap=0.001, floor=0.05)
        for _ in range(5):
            found.repairs_used(1000, 0)
        self.assertGreaterEqual(found.plan(DEADLINE).overhead, 0.05)

    def test_useful_ones_are_not(self) -> None:
        found = rate()
        before = found.plan(DEADLINE)
        for _ in range(100):
            found.repairs_used(100, 3)
        self.assertEqual(found.plan(DEADLINE), before)

    def test_a_second_chance(self) -> None:
        found = rate()
        before = found.plan(DEADLINE)
        found.repairs_used(1000, 0)
        self.assertEqual(found.plan(DEADLINE), NO_FEC)
        for i in range(2000):
            found.symbol_added(10 + i * 0.01)
        self.assertEqual(found.plan(DEADLINE), before)

    def test_repairs_that_become_useful_are_sent_again(self) -> None:
        found = rate(gap=0.001)
        before = found.plan(DEADLINE)
        found.repairs_used(1000, 0)
        found.repairs_used(1000, 50)
        self.assertEqual(found.plan(DEADLINE), before)


class QueueTests(unittest.TestCase):
    def test_losses_while_a_queue_is_full_are_not_fecs(self) -> None:
        self.assertEqual(random_losses(7, 0.105, 0.1), 7)
        self.assertEqual(random_losses(7, 0.2, 0.1), 0)
        self.assertEqual(random_losses(7, 0.004, 0.001), 7)
