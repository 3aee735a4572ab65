from __future__ import annotations

import unittest
from random import Random
from time import process_time

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.congestion.base import AckSample
from jetstreamproto.reliability.congestion.ceiling import Ceiling
from jetstreamproto.reliability.congestion.choice import congestion_control
from jetstreamproto.reliability.congestion.max_rate import MaxRate
from jetstreamproto.reliability.congestion.min_rtt import MinRtt
from jetstreamproto.reliability.congestion.random_loss import RandomLoss
from tests.unit.reliability.congestion.samples import SIZE, Rounds


class ChoiceTests(unittest.TestCase):
    def test_by_name(self) -> None:
        for name in ("bbr", "cubic", "newreno"):
            control = congestion_control(name, 1200)
            self.assertEqual(control.max_datagram, 1200)
            self.assertEqual(control.window, 32 * 1200)
        with self.assertRaisesRegex(ConfigurationError, "bbr, cubic, newreno"):
            congestion_control("vegas", 1200)

    def test_an_acknowledgement_costs_microseconds(self) -> None:
        sample = AckSample(0.0, SIZE, 0, 50 * SIZE, 0, 0, 1e6, False, 0.05, 0.05)
        for name in ("bbr", "cubic", "newreno"):
            control = congestion_control(name, SIZE)
            best = float("inf")
            for _ in range(5):
                started = process_time()
                for _ in range(2000):
                    sample.now += 0.0001
                    sample.delivered += SIZE
                    sample.prior_delivered = sample.delivered - 50 * SIZE
                    control.acked(sample)
                best = min(best, process_time() - started)
            self.assertLess(best / 2000, 25e-6, name)  # a few on an idle machine

    def test_nothing_known(self) -> None:
        """Samples without round trip or rate, and of no size, do no harm."""
        for name in ("bbr", "cubic", "newreno"):
            control = congestion_control(name, SIZE)
            for i in range(50):
                control.acked(AckSample(float(i), 0, 0, 0, 0, 0))
            self.assertIsInstance(control.window, int)
            self.assertGreater(control.window, 0)
            self.assertGreater(control.pacing_rate, 0)
            self.assertIsInstance(control.phase, str)
            Rounds(control).round()
            self.assertGreater(control.window, 0)


class CeilingTests(unittest.TestCase):
    def test_there_is_none_at_first(self) -> None:
        ceiling = Ceiling()
        ceiling.raised(1.0, 0.1)
        self.assertEqual(ceiling.limit, float("inf"))

    def test_lowered_by_overflows_and_raised_by_time(self) -> None:
        ceiling = Ceiling()
        ceiling.overflowed(0.0, 1000 * SIZE, 4 * SIZE, SIZE)
        self.assertAlmostEqual(ceiling.limit, 600 * SIZE)
        plateau = (400 / 0.4) ** (1 / 3) / 0.7
        ceiling.raised(plateau, 0.1)
        self.assertAlmostEqual(ceiling.limit, 1000 * SIZE)
        ceiling.raised(plateau / 2, 0.1)
        self.assertAlmostEqual(ceiling.limit, 1000 * SIZE)
        ceiling.raised(1.5 * plateau, 0.1)
        self.assertAlmostEqual(ceiling.limit, (1000 + 400 / 8) * SIZE)
        ceiling.lift()
        self.assertEqual(ceiling.limit, float("inf"))

    def test_an_earlier_overflow_than_last_time_makes_room(self) -> None:
        ceiling = Ceiling()
        ceiling.overflowed(0.0, 1000 * SIZE, 4 * SIZE, SIZE)
        ceiling.overflowed(1.0, 700 * SIZE, 4 * SIZE, SIZE)
        peak = 600  # what was allowed
        self.assertAlmostEqual(ceiling.limit, 0.6 * peak * SIZE)
        most = peak * 1.6 / 2
        ceiling.raised(1.0 + ((most - 0.6 * peak) / 0.4) ** (1 / 3) / 0.7, 1.0)
        self.assertAlmostEqual(ceiling.limit, most * SIZE)

    def test_as_fast_as_reno_on_short_paths(self) -> None:
        ceiling = Ceiling()
        ceiling.overflowed(0.0, 20 * SIZE, 4 * SIZE, SIZE)
        ceiling.raised(0.1, 0.001)
        self.assertAlmostEqual(ceiling.limit, (12 + 0.75 * 100) * SIZE)

    def test_another_packet_size_does_not_move_it(self) -> None:
        ceiling = Ceiling()
        ceiling.overflowed(0.0, 1000 * SIZE, 4 * SIZE, SIZE)
        ceiling.raised(0.01, 0.1)
        self.assertLess(ceiling.limit, 610 * SIZE)
        ceiling.overflowed(0.02, 1000 * SIZE, 4 * SIZE, 6 * SIZE)
        self.assertLess(ceiling.limit, 370 * SIZE)

    def test_the_least(self) -> None:
        ceiling = Ceiling()
        for i in range(20):
            ceiling.overflowed(float(i), 100 * SIZE, 50 * SIZE, SIZE)
        self.assertEqual(ceiling.limit, 50 * SIZE)


class MaxRateTests(unittest.TestCase):
    def test_forgets_after_nine_round_trips(self) -> None:
        rate = MaxRate()
        rate.measured(0.0, 5.0, 0.05)
        for i in range(1, 9):
            rate.measured(i * 0.05, 2.0, 0.05)
            self.assertEqual(rate.best, 5.0)
        rate.measured(9 * 0.05, 2.0, 0.05)
        self.assertEqual(rate.best, 2.0)

    def test_sooner_when_a_queue_makes_them_long(self) -> None:
        rate = MaxRate()
        for i, value in enumerate((5.0, 2.0, 2.0, 2.0)):
            rate.measured(i * 1.0, value, 0.05)
        self.assertEqual(rate.best, 2.0)


class MinRttTests(unittest.TestCase):
    def test_seen_again_or_looked_for(self) -> None:
        rtt = MinRtt()
        rtt.measured(0.0, 0.05)
        self.assertFalse(rtt.expired(9.9))
        rtt.measured(9.9, 0.055)
        self.assertFalse(rtt.expired(10.0))  # that is near enough, this time
        rtt.measured(15.0, 0.055)
        self.assertTrue(rtt.expired(20.0))
        rtt.measured(20.1, 0.06)
        rtt.renew(20.2)
        self.assertEqual(rtt.value, 0.06)

    def test_longer_ones_have_it_looked_for(self) -> None:
        rtt = MinRtt()
        rtt.measured(0.0, 0.05)
        rtt.measured(5.0, 0.04)
        self.assertEqual(rtt.value, 0.04)
        self.assertFalse(rtt.expired(15.0))
        rtt.measured(16.0, 0.06)
        self.assertFalse(rtt.expired(24.9))
        self.assertTrue(rtt.expired(25.0))

    def test_nothing_seen_keeps_it(self) -> None:
        rtt = MinRtt()
        rtt.measured(0.0, 0.05)
        self.assertFalse(rtt.expired(10.0))
        self.assertTrue(rtt.expired(20.0))
        rtt.renew(21.0)
        self.assertEqual(rtt.value, 0.05)


class RandomLossTests(unittest.TestCase):
    def observe(self, estimate: RandomLoss, loss: float, chance: Random, packets: int) -> None:
        estimate.quiet(0.0)
        for _ in range(packets):
            if chance.random() < loss:
                estimate.lost(SIZE, 0.5)
            else:
                estimate.acked(SIZE, 0.5)
        estimate.loud(1.0)
        self.assertTrue(estimate.acked(SIZE, 1.5))
        estimate.settle(SIZE)

    def test_what_is_lost_in_quiet_times(self) -> None:
        for loss in (0.0, 0.02, 0.1):
            for seed in range(5):
                with self.subTest(loss=loss, seed=seed):
                    chance, estimate = Random(seed), RandomLoss()
                    for _ in range(20):
                        self.observe(estimate, loss, chance, 300)
                    self.assertAlmostEqual(estimate.share, loss, delta=0.3 * loss)
                    lost = round(300 * loss)
                    self.assertFalse(estimate.excess(lost * SIZE, 300 * SIZE, SIZE))
                    more = lost + 5 + round(300 * 0.2 * loss**0.5)
                    self.assertTrue(estimate.excess(more * SIZE, 300 * SIZE, SIZE))

    def test_loud_times_do_not_count(self) -> None:
        estimate = RandomLoss()
        estimate.lost(100 * SIZE, 0.5)
        estimate.quiet(1.0)
        estimate.loud(2.0)
        estimate.lost(100 * SIZE, 2.5)
        estimate.acked(100 * SIZE, 2.6)
        estimate.settle(SIZE)
        self.assertEqual(estimate.share, 0)

    def test_never_more_than_a_quarter_and_bounded_by_what_is_lost_in_all(self) -> None:
        estimate = RandomLoss()
        for _ in range(10):
            self.observe(estimate, 0.5, Random(1), 300)
        self.assertEqual(estimate.share, 0.25)
        estimate.bounded(0.1)
        self.assertEqual(estimate.share, 0.1)

    def test_little_evidence_is_no_proof(self) -> None:
        self.assertFalse(RandomLoss().excess(3 * SIZE, 300 * SIZE, SIZE))
