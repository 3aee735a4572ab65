"""Tests for jetstreamproto.reliability.sent."""

from __future__ import annotations

from random import Random
from unittest import TestCase

from jetstreamproto.reliability.sent import TRAIN_PACKETS, Flight, FlightLog
from jetstreamproto.reliability.streams import SendStream
from tests.unit.reliability.test_sent_model import FULL_STREAM, SIZE, STEP, Events


class Stage:
    """A log with one stream, whose flights are of full packets."""

    def __init__(self) -> None:
        self.events = Events()
        self.log = FlightLog(self.events)
        self.stream = SendStream(0)
        self.stream.write(bytes(FULL_STREAM))
        self.number = 0

    def send(self, count: int, now: float, repairable: int = 0, fin: bool = False) -> Flight:
        flight = Flight(self.number, now)
        start = self.stream.next
        stop = self.stream.next = start + count * STEP
        flight.runs.append((0, count, self.stream, start, STEP, stop, fin))
        flight.count = count
        flight.size = flight.last_size = SIZE
        flight.last = flight.first + count - 1
        flight.repairable = repairable
        self.number += count
        self.log.add(flight, count * SIZE, now, app_limited=False)
        return flight


class FlightLogTests(TestCase):
    def test_a_new_log(self) -> None:
        log = FlightLog(Events())
        self.assertEqual((log.floor, log.oldest, log.newest), (None, None, None))
        self.assertEqual(log.detect_losses(9.0, 0.0), (0, 0.0))
        self.assertIsNone(log.loss_time(0.0))
        self.assertFalse(log.recovered(5))
        log.probe(2)
        log.release(9.0)
        log.forget_late(9.0)

    def test_three_packets_later_is_lost(self) -> None:
        stage = Stage()
        stage.send(10, 0.0)
        stage.log.acknowledge(5, 0b1, 0, 0.1)
        self.assertEqual(stage.log.detect_losses(0.1, 1.0), (300, 0.0))
        self.assertEqual(list(stage.stream.lost), [(0, 3 * STEP)])
        self.assertEqual(stage.log.loss_time(1.0), 1.0)
        self.assertEqual(stage.log.detect_losses(1.0, 1.0), (200, 0.0))
        self.assertEqual((stage.log.packets_lost, stage.log.in_flight), (5, 400))
        self.assertIsNone(stage.log.loss_time(1.0))

    def test_what_is_due_at_the_time_it_is_said_to_be(self) -> None:
        """Whatever the roundings, acting at `loss_time` leaves nothing to be done then."""
        random = Random(4)
        for _ in range(2000):
            stage = Stage()
            sent_at, delay = random.uniform(0, 1e6), random.uniform(1e-3, 1.0)
            stage.send(2, sent_at)
            stage.log.acknowledge(1, 0b1, 0, sent_at)
            due = stage.log.loss_time(delay)
            assert due is not None
            self.assertEqual(stage.log.detect_losses(due, delay), (SIZE, sent_at))
            self.assertIsNone(stage.log.loss_time(delay))

    def test_how_fast_a_burst_arrives(self) -> None:
        stage = Stage()
        stage.send(TRAIN_PACKETS, 0.0).train = True
        last = TRAIN_PACKETS - 1
        self.assertIsNone(stage.log.acknowledge(1, 0b11, 2000, 0.1).train_rate)
        outcome = stage.log.acknowledge(last, (1 << TRAIN_PACKETS) - 1, 5000, 0.1)
        self.assertAlmostEqual(outcome.train_rate or 0.0, (last - 1) * SIZE / 0.003)

    def test_a_burst_whose_end_is_told_of_later(self) -> None:
        """The time is that of the largest packet, here one that only acknowledges."""
        stage = Stage()
        stage.send(TRAIN_PACKETS, 0.0).train = True
        stage.log.acknowledge(1, 0b11, 2000, 0.1)
        everything = (1 << TRAIN_PACKETS + 1) - 1
        outcome = stage.log.acknowledge(TRAIN_PACKETS, everything, 90_000, 0.2)
        self.assertEqual(outcome.acked, (TRAIN_PACKETS - 2) * SIZE)
        self.assertIsNone(outcome.train_rate)

    def test_the_end_of_a_stream(self) -> None:
        for lost in (False, True):
            stage = Stage()
            stage.stream.fin = stage.stream.fin_sent = True
            stage.send(3, 0.0, fin=True)
            stage.send(5, 0.0)
            stage.log.acknowledge(7, 0b11111 | (0b110 if lost else 0b111) << 5, 0, 0.1)
            stage.log.detect_losses(0.1, 1.0)
            self.assertEqual(stage.stream.fin_acked, not lost)
            self.assertEqual(stage.stream.fin_sent, not lost)

    def test_an_end_that_came_another_way_is_not_lost(self) -> None:
        stage = Stage()
        stage.stream.fin = stage.stream.fin_sent = stage.stream.fin_acked = True
        stage.send(1, 0.0, fin=True)
        stage.send(5, 0.0)
        stage.log.acknowledge(5, 0b1, 0, 0.1)
        stage.log.detect_losses(0.1, 1.0)
        self.assertTrue(stage.stream.fin_sent)

    def test_what_fec_may_restore_is_held(self) -> None:
        stage = Stage()
        stage.log.hold = 0.5
        stage.send(10, 1.0, repairable=2)
        stage.log.acknowledge(9, 0b1111011101, 0, 1.1)
        self.assertEqual(stage.log.detect_losses(1.1, 0.05), (200, 1.0))
        self.assertEqual((stage.log.next_release, list(stage.stream.lost)), (1.5, []))
        self.assertTrue(stage.log.recovered(4 + 4))
        stage.log.release(1.4)
        self.assertEqual(list(stage.stream.lost), [])
        stage.log.release(1.5)
        self.assertEqual(list(stage.stream.lost), [(4 * STEP, 5 * STEP)])
        self.assertIsNone(stage.log.next_release)

    def test_more_than_fec_can_restore_is_sent_again_at_once(self) -> None:
        stage = Stage()
        stage.log.hold = 0.5
        stage.send(10, 1.0, repairable=2)
        stage.log.acknowledge(9, 0b1111010101, 0, 1.1)
        stage.log.detect_losses(1.1, 0.05)
        self.assertEqual(sum(high - low for low, high in stage.stream.lost), 3 * STEP)
        self.assertIsNone(stage.log.next_release)

    def test_late_packets_are_forgotten_in_time(self) -> None:
        stage = Stage()
        stage.send(1, 0.0)
        stage.send(5, 1.0)
        stage.log.acknowledge(5, 0b11111, 0, 1.1)
        stage.log.detect_losses(1.1, 0.5)
        self.assertEqual(stage.log.floor, 0)
        stage.log.forget_late(0.0)
        self.assertEqual(stage.log.floor, 0)
        stage.log.forget_late(0.1)
        self.assertIsNone(stage.log.floor)

    def test_a_very_old_acknowledgement_costs_no_memory(self) -> None:
        stage = Stage()
        stage.number = 1 << 22
        stage.send(1, 0.0)
        stage.log.acknowledge(1 << 22, 0b1, 0, 0.1)
        stage.log.acknowledge(5, 0b1, 0, 0.1)
        self.assertLess(stage.log._largest_bitmap.bit_length(), 1 << 16)

    def test_delivery_rate(self) -> None:
        stage = Stage()
        first = stage.send(10, 1.0)
        second = stage.send(10, 1.1)
        stage.log.acknowledge(9, 0b1111111111, 0, 1.2)
        self.assertAlmostEqual(stage.log.delivery_rate(first, 1.2, 0.2) or 0.0, 1000 / 0.2)
        stage.log.acknowledge(19, 0b1111111111, 0, 1.3)
        self.assertAlmostEqual(stage.log.delivery_rate(second, 1.3, 0.2) or 0.0, 2000 / 0.3)
        third = stage.send(10, 1.4)
        stage.log.acknowledge(29, 0b1111111111, 0, 1.41)
        self.assertIsNone(stage.log.delivery_rate(third, 1.41, 0.2), "faster than any round trip")
