from __future__ import annotations

import unittest

from jetstreamproto.reliability.congestion.cubic import (
    ALPHA,
    BETA,
    Cubic,
    cubic_window,
    time_to_plateau,
)
from jetstreamproto.reliability.congestion.hystart import HyStart
from jetstreamproto.reliability.congestion.newreno import NewReno
from tests.unit.reliability.congestion.bottleneck import DATAGRAM, Bottleneck, mbit, transfer
from tests.unit.reliability.congestion.samples import SIZE, Rounds


class CurveTests(unittest.TestCase):
    def test_k(self) -> None:
        """K = cbrt((W_max - cwnd_epoch) / C)"""
        self.assertAlmostEqual(time_to_plateau(1000, 700), (300 / 0.4) ** (1 / 3))
        self.assertEqual(time_to_plateau(700, 700), 0)
        self.assertEqual(time_to_plateau(500, 700), 0)

    def test_starts_reduced_and_is_back_after_k(self) -> None:
        most = 1000.0
        plateau = time_to_plateau(most, BETA * most)
        self.assertAlmostEqual(cubic_window(0, plateau, most), BETA * most)
        self.assertAlmostEqual(cubic_window(plateau, plateau, most), most)
        self.assertGreater(cubic_window(2 * plateau, plateau, most), 1.29 * most)


class CubicTests(unittest.TestCase):
    def reduced(self, packets: int, rtt: float) -> tuple[Cubic, Rounds]:
        control = Cubic(SIZE)
        rounds = Rounds(control, rtt)
        control.window = packets * SIZE
        rounds.lose()
        rounds.now += 2 * rtt
        return control, rounds

    def test_a_loss_leaves_seven_tenths_once_a_recovery_period(self) -> None:
        _, rounds = self.reduced(1000, 0.1)
        self.assertEqual(rounds.packets, 700)
        rounds.lose(sent_before=0.5)
        self.assertEqual(rounds.packets, 700)

    def test_follows_the_curve(self) -> None:
        most, rtt = 1000.0, 0.1
        control, rounds = self.reduced(1000, rtt)
        started = rounds.now + rtt
        plateau = time_to_plateau(most, BETA * most)
        while rounds.now < started + 1.3 * plateau:
            rounds.round()
            # the window is where the curve will be a round trip later
            elapsed = rounds.now - started + rtt
            expected = cubic_window(elapsed, plateau, most)
            self.assertAlmostEqual(rounds.packets, expected, delta=0.03 * expected)
        self.assertGreater(rounds.packets, most)
        self.assertEqual(control.phase, "congestion avoidance")

    def test_reno_friendly_on_short_paths(self) -> None:
        """Where the cubic curve is slower, it grows by alpha a round trip, later by one."""
        _, rounds = self.reduced(20, 0.005)
        self.assertEqual(rounds.packets, 14)
        for _ in range(10):
            rounds.round()
        self.assertAlmostEqual(rounds.packets, 14 + 10 * ALPHA, delta=0.8)
        for _ in range(60):
            rounds.round()
        at_prior = 6 / ALPHA
        self.assertAlmostEqual(rounds.packets, 20 + 70 - at_prior, delta=3)

    def test_fast_convergence(self) -> None:
        control, rounds = self.reduced(1000, 0.1)
        rounds.now += 1
        rounds.lose()  # at 700, below the last W_max
        self.assertAlmostEqual(rounds.packets, 490, places=1)
        rounds.now += 0.2
        plateau = time_to_plateau(700 * (1 + BETA) / 2, 490)
        started = rounds.now + 0.1
        while rounds.now < started + plateau:
            rounds.round()
        self.assertAlmostEqual(rounds.packets, 595, delta=6)
        self.assertIsInstance(control.window, int)

    def test_idle_time_does_not_count(self) -> None:
        _, rounds = self.reduced(1000, 0.1)
        for _ in range(5):
            rounds.round()
        before = rounds.packets
        for _ in range(3):
            rounds.round(2)
        rounds.now += 30
        rounds.round(2)
        self.assertLess(rounds.packets, 1.02 * before)
        rounds.round()
        rounds.round()
        self.assertLess(rounds.packets, 1.1 * before)

    def test_persistent_congestion(self) -> None:
        control, rounds = self.reduced(1000, 0.1)
        control.collapsed(rounds.now)
        self.assertEqual(rounds.packets, 2)
        self.assertEqual(control.phase, "slow start")

    def test_hystart_leaves_slow_start_before_the_queue_overflows(self) -> None:
        control, lost = self.slow_start(Cubic, 4)
        self.assertEqual(lost, 0)
        self.assertEqual(control.phase, "conservative slow start")
        _, lost = self.slow_start(NewReno, 4)
        self.assertGreater(lost, 1000)

    def test_hystart_loses_less_in_shorter_queues(self) -> None:
        for queue in (1.5, 2, 3):
            with self.subTest(queue=queue):
                control, lost = self.slow_start(Cubic, queue)
                self.assertEqual(control.phase, "congestion avoidance")
                self.assertLess(lost, 0.4 * self.slow_start(NewReno, queue)[1])

    def slow_start(self, kind: type[Cubic | NewReno], queue: float) -> tuple[Cubic | NewReno, int]:
        """Start into a queue of `queue` times what the path holds: how many packets are lost."""
        rate, rtt = mbit(100), 0.05
        control = kind(DATAGRAM)
        link = Bottleneck(rate, rtt / 2, queue * rate * rtt)
        return control, transfer(control, link, 10_000_000)[1].lost_packets


class HyStartTests(unittest.TestCase):
    def round(self, hystart: HyStart, rtt: float, samples: int = 10) -> bool:
        over = hystart.round_started()
        for _ in range(samples):
            hystart.measured(rtt)
        return over

    def test_growing_round_trips_make_it_conservative_and_then_end_it(self) -> None:
        hystart = HyStart()
        self.round(hystart, 0.080)
        self.round(hystart, 0.089)  # less than an eighth more
        self.assertFalse(hystart.conservative)
        self.round(hystart, 0.101)
        self.assertTrue(hystart.conservative)
        ends = [self.round(hystart, 0.110) for _ in range(5)]
        self.assertEqual(ends, [False] * 4 + [True])

    def test_four_milliseconds_at_least_and_sixteen_at_most(self) -> None:
        for before, after, expected in (
            (0.010, 0.0139, False),
            (0.010, 0.0141, True),
            (0.4, 0.415, False),
            (0.4, 0.417, True),
        ):
            with self.subTest(before=before, after=after):
                hystart = HyStart()
                self.round(hystart, before)
                self.round(hystart, after)
                self.assertEqual(hystart.conservative, expected)

    def test_jitter_is_forgiven(self) -> None:
        hystart = HyStart()
        for rtt in (0.05, 0.07):
            self.round(hystart, rtt)
        self.assertTrue(hystart.conservative)
        self.round(hystart, 0.05)
        self.assertFalse(hystart.conservative)

    def test_few_samples_do_not_say_enough(self) -> None:
        hystart = HyStart()
        self.round(hystart, 0.05)
        self.round(hystart, 0.09, samples=7)
        self.assertFalse(hystart.conservative)
