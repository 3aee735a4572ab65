from __future__ import annotations

import unittest

from jetstreamproto.reliability.congestion.newreno import NewReno
from tests.unit.reliability.congestion.samples import RTT, SIZE, Rounds


class NewRenoTests(unittest.TestCase):
    def setUp(self) -> None:
        self.control = NewReno(SIZE)
        self.rounds = Rounds(self.control)

    def test_starts_with_the_initial_window_unpaced(self) -> None:
        self.assertEqual(self.control.window, 32 * SIZE)
        self.assertEqual(self.control.pacing_rate, float("inf"))
        self.assertEqual(self.control.phase, "slow start")

    def test_slow_start_doubles_each_round_trip(self) -> None:
        for expected in (64, 128, 256):
            self.rounds.round()
            self.assertEqual(self.rounds.packets, expected)

    def test_one_packet_a_round_trip_in_congestion_avoidance(self) -> None:
        self.rounds.lose()
        self.rounds.now += 2 * RTT
        self.assertEqual(self.control.phase, "congestion avoidance")
        for expected in range(17, 27):
            self.rounds.round()
            self.assertEqual(self.rounds.packets, expected)

    def test_a_loss_halves_the_window_once_a_recovery_period(self) -> None:
        self.rounds.round()
        self.rounds.lose()
        self.assertEqual(self.rounds.packets, 32)
        self.rounds.now += RTT / 2
        self.rounds.lose(sent_before=RTT)  # sent before the first loss was known
        self.assertEqual(self.rounds.packets, 32)
        self.rounds.now += RTT
        self.rounds.lose(sent_before=RTT / 4)
        self.assertEqual(self.rounds.packets, 16)

    def test_does_not_grow_in_recovery(self) -> None:
        sent_at = self.rounds.now
        self.rounds.now += RTT / 2
        self.rounds.lose()
        self.rounds.now = sent_at
        self.rounds.round(16)  # sent before the loss was known
        self.assertEqual(self.rounds.packets, 16)

    def test_what_is_not_used_does_not_grow(self) -> None:
        for _ in range(20):
            self.rounds.round(4)
        self.assertEqual(self.rounds.packets, 32)
        self.rounds.lose()
        self.rounds.now += 2 * RTT
        for _ in range(20):
            self.rounds.round(4)
        self.assertEqual(self.rounds.packets, 16)

    def test_never_less_than_four_packets_after_losses(self) -> None:
        for _ in range(10):
            self.rounds.now += 1
            self.rounds.lose()
        self.assertEqual(self.rounds.packets, 4)

    def test_persistent_congestion(self) -> None:
        self.rounds.round()
        self.control.collapsed(self.rounds.now)
        self.assertEqual(self.rounds.packets, 2)
        self.assertEqual(self.control.phase, "slow start")
        for _ in range(6):
            self.rounds.round()
        self.assertGreaterEqual(self.rounds.packets, 32)
        self.assertEqual(self.control.phase, "congestion avoidance")

    def test_pacing(self) -> None:
        self.rounds.round()
        self.assertAlmostEqual(self.control.pacing_rate, 2 * self.control.window / RTT)
        self.rounds.lose()
        self.rounds.now += 2 * RTT
        self.rounds.round()
        self.assertAlmostEqual(self.control.pacing_rate, 1.25 * self.control.window / RTT)
