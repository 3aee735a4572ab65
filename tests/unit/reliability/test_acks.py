"""Tests for jetstreamproto.reliability.acks."""

from __future__ import annotations

from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability.acks import Acknowledger
from jetstreamproto.reliability.frames import Ack, parse_frames
from jetstreamproto.security.replay import ReplayWindow

untimed = settings(deadline=None, derandomize=True, database=None)

RTT = 0.08


class Receiver:
    """Packets come one by one, as `Connection` tells the acknowledger of them."""

    def __init__(self, max_delay: float = 0.025, size: int = 8192) -> None:
        self.window = ReplayWindow(size)
        self.acks = Acknowledger(self.window, max_delay)

    def receive(self, number: int, now: float, eliciting: int = 1) -> None:
        gap = number != self.window.highest + 1
        self.window.commit(number)
        self.acks.received(now, eliciting, gap, RTT)

    def take(self, now: float) -> Ack:
        ((_, ack),) = parse_frames(self.acks.take(now))
        assert isinstance(ack, Ack)
        return ack


class TimingTests(TestCase):
    def test_nothing_to_say(self) -> None:
        receiver = Receiver()
        self.assertIsNone(receiver.acks.due_at)
        receiver.receive(0, 1.0, eliciting=0)
        self.assertIsNone(receiver.acks.due_at)

    def test_at_first_every_second_packet(self) -> None:
        receiver = Receiver()
        for number in range(0, 200, 2):
            receiver.receive(number, 1.0)
            self.assertEqual(receiver.acks.due_at, 1.0 + RTT / 8)
            receiver.receive(number + 1, 1.001)
            self.assertEqual(receiver.acks.due_at, 1.001)
            receiver.take(1.001)
            self.assertIsNone(receiver.acks.due_at)

    def test_later_every_tenth(self) -> None:
        receiver = Receiver()
        for number in range(200):
            receiver.receive(number, 0.0)
        receiver.take(0.0)
        for number in range(200, 209):
            receiver.receive(number, 1.0)
            self.assertEqual(receiver.acks.due_at, 1.0 + RTT / 8)
        receiver.receive(209, 1.0)
        self.assertEqual(receiver.acks.due_at, 1.0)

    def test_at_once_after_a_gap(self) -> None:
        receiver = Receiver()
        receiver.receive(0, 1.0)
        receiver.take(1.0)
        receiver.receive(2, 2.0)
        self.assertEqual(receiver.acks.due_at, 2.0)
        receiver.take(2.0)
        receiver.receive(1, 3.0)
        self.assertEqual(receiver.acks.due_at, 3.0)

    def test_the_wait_is_bounded(self) -> None:
        for rtt, wait in ((1e-5, 0.001), (0.08, 0.01), (5.0, 0.025)):
            receiver = Receiver()
            receiver.window.commit(0)
            receiver.acks.received(1.0, 1, False, rtt)
            self.assertAlmostEqual((receiver.acks.due_at or 0.0) - 1.0, wait)

    def test_what_wants_no_answer_does_not_put_one_off(self) -> None:
        receiver = Receiver()
        receiver.receive(0, 1.0)
        receiver.receive(1, 1.005, eliciting=0)
        self.assertEqual(receiver.acks.due_at, 1.01)


class FrameTests(TestCase):
    @untimed
    @given(st.lists(st.integers(0, 60), min_size=1), st.integers(0, 70))
    def test_what_came(self, numbers: list[int], floor: int) -> None:
        receiver = Receiver()
        for number in numbers:
            receiver.receive(number, 1.0)
        receiver.acks.floor_received(floor)
        ack = receiver.take(1.0)
        came = {ack.largest - bit for bit in range(100) if ack.bitmap >> bit & 1}
        self.assertEqual(ack.largest, max(numbers))
        wanted = {number for number in numbers if number >= floor}
        self.assertEqual(came, wanted | {max(numbers)})

    def test_times(self) -> None:
        receiver = Receiver()
        receiver.receive(0, 5000.0)
        ack = receiver.take(5000.007)
        self.assertEqual(ack.received_at, 5_000_000_000 & 0xFFFFFFFF)
        self.assertTrue(6990 <= ack.delay <= 7010)

    def test_the_time_is_that_of_the_largest(self) -> None:
        receiver = Receiver()
        receiver.receive(5, 1.0)
        receiver.receive(3, 1.02)
        ack = receiver.take(1.02)
        self.assertEqual((ack.largest, ack.received_at), (5, 1_000_000))
        self.assertTrue(19990 <= ack.delay <= 20010, ack.delay)

    def test_the_clock_of_the_largest_counts_even_if_it_wants_no_answer(self) -> None:
        receiver = Receiver()
        receiver.receive(0, 1.0)
        receiver.receive(1, 1.5, eliciting=0)
        ack = receiver.take(1.5)
        self.assertEqual((ack.largest, ack.received_at, ack.bitmap), (1, 1_500_000, 3))

    def test_no_more_than_a_frame_takes(self) -> None:
        receiver = Receiver(size=1 << 20)
        for number in range(0, 40000, 2):
            receiver.window.commit(number)
        receiver.acks.received(1.0, 1, False, RTT)
        ack = receiver.take(1.0)
        self.assertEqual((ack.largest, ack.bitmap.bit_count()), (39998, 4096))

    def test_the_floor_does_not_go_back_and_may_be_anywhere(self) -> None:
        receiver = Receiver()
        for number in range(10):
            receiver.receive(number, 1.0)
        for floor, bitmap in ((5, 0b11111), (2, 0b11111), (9, 1), (10, 1), ((1 << 64) - 1, 1)):
            receiver.acks.floor_received(floor)
            self.assertEqual(receiver.take(1.0).bitmap, bitmap)
