"""Tests for jetstreamproto.reliability.pacing."""

from __future__ import annotations

from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability.pacing import Pacer

untimed = settings(deadline=None, derandomize=True, database=None)

TICK, BURST = 0.001, 12000


class PacerTests(TestCase):
    def test_a_burst_after_a_pause(self) -> None:
        pacer = Pacer(TICK, BURST)
        self.assertEqual(pacer.allowance(1000.0, 1e6), BURST)
        self.assertEqual(pacer.allowance(2000.0, 1e6), BURST)
        self.assertEqual(pacer.allowance(3000.0, 1e8), 200000, "two ticks' worth")

    def test_what_is_spent_comes_back_at_the_rate(self) -> None:
        pacer = Pacer(TICK, BURST)
        pacer.allowance(5.0, 1e6)
        pacer.spent(20000)
        self.assertEqual(pacer.allowance(5.0, 1e6), -8000)
        self.assertAlmostEqual(pacer.allowance(5.01, 1e6), 2000)
        self.assertAlmostEqual(pacer.allowance(5.015, 1e6), 7000)

    def test_no_rate_at_all(self) -> None:
        pacer = Pacer(TICK, BURST)
        infinite = float("inf")
        self.assertEqual(pacer.allowance(1.0, infinite), infinite)
        pacer.allowance(1.0, 0.0)
        pacer.spent(BURST + 1000)
        self.assertAlmostEqual(pacer.allowance(2.0, 0.0), 0.0)

    @untimed
    @given(
        st.floats(0, 1e9),
        st.integers(0, 100000),
        st.integers(1, BURST),
        st.sampled_from([0.0, 5.0, 1e6]),
    )
    def test_the_delay_is_enough_and_a_tick_at_least(
        self, rate: float, spent: int, need: int, now: float
    ) -> None:
        pacer = Pacer(TICK, BURST)
        pacer.allowance(now, rate)
        pacer.spent(spent)
        delay = pacer.delay(rate, need)
        self.assertGreaterEqual(delay, TICK)
        # Late in the clock's life its steps are coarser.
        slack = max(rate, 1000.0) * 1e-9 + 1e-6
        self.assertGreaterEqual(pacer.allowance(now + delay, rate), need - slack)

    @untimed
    @given(st.floats(1e4, 1e9), st.lists(st.floats(0.0005, 0.1), min_size=5, max_size=50))
    def test_the_rate_is_kept(self, rate: float, waits: list[float]) -> None:
        pacer, now, sent = Pacer(TICK, BURST), 10.0, 0
        for wait in waits:
            allowed = pacer.allowance(now, rate)
            while allowed > 0:
                size = int(min(allowed, 1200)) + 1
                pacer.spent(size)
                allowed -= size
                sent += size
            now += wait
        most = max(BURST, 2 * TICK * rate)
        self.assertLessEqual(sent, most + rate * (now - 10.0) + 1201)
