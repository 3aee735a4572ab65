"""Whose turn it is."""

from __future__ import annotations

from collections import deque
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.session.scheduler import Scheduler


class Sender:
    def __init__(self, name: int, urgency: int) -> None:
        self.name = name
        self.urgency = urgency
        self.scheduled = False


class SchedulerTests(TestCase):
    def test_nobody_is_ready(self) -> None:
        self.assertIsNone(Scheduler[Sender]().first())

    def test_equals_take_turns_and_the_urgent_goes_first(self) -> None:
        scheduler: Scheduler[Sender] = Scheduler()
        one, two, urgent = Sender(1, 3), Sender(2, 3), Sender(3, 0)
        scheduler.add(one)
        self.assertFalse(scheduler.crowded)
        scheduler.add(two)
        self.assertTrue(scheduler.crowded)
        seen = []
        for _ in range(4):
            sender = scheduler.first()
            assert sender is not None
            seen.append(sender)
            scheduler.turn_over(sender, more=True)
        self.assertEqual(seen, [one, two, one, two])
        scheduler.discard(two)
        scheduler.add(urgent)
        self.assertTrue(scheduler.crowded)
        self.assertIs(scheduler.first(), urgent)
        scheduler.turn_over(urgent, more=False)
        self.assertIs(scheduler.first(), one)

    def test_a_sender_that_was_discarded_in_its_turn_stays_away(self) -> None:
        scheduler: Scheduler[Sender] = Scheduler()
        one, two = Sender(1, 3), Sender(2, 3)
        scheduler.add(one)
        scheduler.add(two)
        scheduler.discard(one)
        scheduler.turn_over(one, more=True)
        self.assertIs(scheduler.first(), two)
        self.assertFalse(one.scheduled)

    @settings(deadline=None, derandomize=True, database=None)
    @given(st.lists(st.tuples(st.sampled_from("atdm"), st.integers(0, 5))))
    def test_as_a_queue_for_each_urgency(self, steps: list[tuple[str, int]]) -> None:
        """Adding, turns with and without more to send, and discarding, beside a simple model."""
        scheduler: Scheduler[Sender] = Scheduler()
        senders = [Sender(name, name % 3) for name in range(6)]
        model: dict[int, deque[Sender]] = {urgency: deque() for urgency in range(3)}
        for step, name in steps:
            sender = senders[name]
            level = model[sender.urgency]
            if step == "a":
                scheduler.add(sender)
                if sender not in level:
                    level.append(sender)
            elif step == "d":
                scheduler.discard(sender)
                if sender in level:
                    level.remove(sender)
            elif (first := scheduler.first()) is not None:
                scheduler.turn_over(first, more=step == "m")
                level = model[first.urgency]
                level.popleft()
                if step == "m":
                    level.append(first)
            levels = [queue for queue in model.values() if queue]
            self.assertIs(scheduler.first(), levels[0][0] if levels else None)
            self.assertEqual(bool(scheduler), bool(levels))
            for one in senders:
                self.assertEqual(one.scheduled, one in model[one.urgency])
