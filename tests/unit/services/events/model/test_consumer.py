"""The state of a consumer against a plain model of it."""

from __future__ import annotations

import random
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.services.events.model.consumer import (
    ConsumerConfig,
    ConsumerState,
    Progress,
)

CONFIG = ConsumerConfig("c", ">", ack_wait=10.0, max_deliver=3, max_pending=16)


class ConsumerTests(unittest.TestCase):
    def deliver(self, state: ConsumerState, *sequences: int, now: float = 0.0) -> None:
        for sequence in sequences:
            self.assertTrue(state.offer(sequence))
            state.deliver(sequence, "m", now)

    def test_the_floor_follows_the_oldest_that_is_open(self) -> None:
        state = ConsumerState(CONFIG, Progress(0))
        self.deliver(state, 1, 2, 4)
        state.skip_to(8)
        state.finish([2, 4])
        self.assertEqual(state.floor, 0)
        state.finish([1])
        self.assertEqual(state.floor, 7)
        self.assertEqual(state.progress(), Progress(7))

    def test_deadlines_delays_and_the_last_attempt(self) -> None:
        state = ConsumerState(CONFIG, Progress(0))
        self.deliver(state, 1, 2)
        state.postpone(2, 0.0, 25.0)
        self.assertEqual(state.next_due(), 10.0)
        self.assertEqual(state.due(9.9, 9), [])
        self.assertEqual(state.due(10.0, 9), [1])
        self.assertEqual(state.due(10.0, 9), [])
        self.assertEqual(state.deliver(1, "m", 10.0), 2)
        self.assertFalse(state.exhausted(1))
        self.assertEqual(state.due(25.0, 9), [1, 2])
        self.assertEqual(state.deliver(1, "m", 25.0), 3)
        self.assertTrue(state.exhausted(1))

    def test_strange_answers_change_nothing(self) -> None:
        state = ConsumerState(CONFIG, Progress(0))
        self.deliver(state, 1)
        self.assertFalse(state.finish([0, 2, 99, 1 << 63]))
        self.assertFalse(state.postpone(7, 0.0))
        self.assertFalse(state.hold(7))
        self.assertTrue(state.finish([1, 1]))
        self.assertFalse(state.finish([1]))

    def test_heaps_do_not_grow_with_redeliveries(self) -> None:
        state = ConsumerState(CONFIG, Progress(0))
        self.deliver(state, 1, 2)
        for number in range(10_000):
            state.postpone(1, number * 0.001)
            self.assertEqual(state.due(number * 0.001, 9)[:1], [1])
            state.deliver(1, "m", number * 0.001)
            state.finish([2] if number == 0 else [])
        self.deliver(state, 3)
        state.finish([3])
        self.assertLess(len(state._deadlines) + len(state._due), 300)

    @given(st.integers(0, 1 << 32))
    @settings(deadline=None)
    def test_everything_comes_until_it_is_done_also_over_restarts(self, seed: int) -> None:
        rng = random.Random(seed)
        state = ConsumerState(CONFIG._replace(max_deliver=0), Progress(0))
        matching = {n for n in range(1, 80) if rng.random() < 0.7}
        done: set[int] = set()
        now = 0.0
        for _ in range(2000):
            if len(done) == len(matching):
                break
            now += rng.random() * 5
            if rng.random() < 0.03:
                state = ConsumerState(state.config, state.progress())
            for sequence in state.due(now, rng.randint(1, 5)):
                self.assertNotIn(sequence, done, seed)
                state.deliver(sequence, "m", now)
            while state.room > 0 and state.next < 80 and rng.random() < 0.8:
                sequence = state.next
                if sequence not in matching:
                    state.skip_to(sequence + 1)
                elif state.offer(sequence):
                    self.assertNotIn(sequence, done, seed)
                    state.deliver(sequence, rng.choice("mn"), now)
            self.assertLessEqual(state.outstanding, state.config.max_pending)
            out = list(state._out)
            some = rng.sample(out, rng.randint(0, len(out)))
            action = rng.random()
            if action < 0.6:
                state.finish(some)
                done.update(some)
            elif action < 0.8:
                for sequence in some:
                    state.postpone(sequence, now, rng.random() * 9)
            elif action < 0.85:
                state.member_gone(rng.choice("mn"), now)
            open_ones = matching - done
            if open_ones:
                self.assertLess(state.floor, min(open_ones), seed)
        self.assertEqual(done, matching, seed)
        state.skip_to(80)
        self.assertEqual((state.floor, state.progress()), (79, Progress(79)), seed)
