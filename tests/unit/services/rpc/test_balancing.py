from __future__ import annotations

import random
import unittest
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.rpc.balancing import (
    POLICIES,
    Ejection,
    Figures,
    LeastOutstanding,
    PowerOfTwo,
    RetryBudget,
    RoundRobin,
    make_policy,
)


def chance(seed: int = 1) -> random.Random:
    return random.Random(seed)


class PolicyTests(unittest.TestCase):
    @given(st.sampled_from(sorted(POLICIES)), st.integers(1, 9), st.integers(0, 1000))
    def test_every_policy_chooses_one_of_them(self, name: str, count: int, seed: int) -> None:
        choices = [Figures() for _ in range(count)]
        policy, rng = make_policy(name), chance(seed)
        for _ in range(20):
            index = policy.choose(choices, rng.random)
            self.assertIn(index, range(count))
            choices[index].began()
            choices[index].ended(rng.random(), fault=False)

    def test_an_unknown_policy(self) -> None:
        with self.assertRaisesRegex(ConfigurationError, "round-robin"):
            make_policy("best")

    def test_round_robin_takes_turns(self) -> None:
        policy, choices = RoundRobin(), [Figures() for _ in range(3)]
        turns = [policy.choose(choices, chance().random) for _ in range(6)]
        self.assertEqual(turns, [0, 1, 2, 0, 1, 2])

    def test_least_outstanding(self) -> None:
        choices = [Figures() for _ in range(3)]
        choices[0].outstanding = choices[2].outstanding = 2
        rng = chance()
        chosen = {LeastOutstanding().choose(choices, rng.random) for _ in range(50)}
        self.assertEqual(chosen, {1})
        choices[1].outstanding = 2
        chosen = {LeastOutstanding().choose(choices, rng.random) for _ in range(50)}
        self.assertEqual(chosen, {0, 1, 2})

    def test_two_choices_avoid_the_slow_one_and_the_busy_one(self) -> None:
        choices = [Figures() for _ in range(3)]
        for figures, seconds in zip(choices, (0.01, 0.01, 1.0), strict=True):
            figures.began()
            figures.ended(seconds, fault=False)
        rng = chance()
        counts = Counter(PowerOfTwo().choose(choices, rng.random) for _ in range(1000))
        self.assertEqual(counts[2], 0)  # of two, it is always the worse
        self.assertGreater(min(counts[0], counts[1]), 300)
        choices[0].outstanding = 50
        counts = Counter(PowerOfTwo().choose(choices, rng.random) for _ in range(1000))
        self.assertGreater(counts[1], 600)

    def test_failing_quickly_makes_nobody_attractive(self) -> None:
        figures = Figures()
        figures.began()
        figures.ended(0.5, fault=False)
        for _ in range(20):
            figures.began()
            figures.ended(0.0, fault=True)
        self.assertEqual(figures.latency, 0.5)
        self.assertEqual((figures.outstanding, figures.faults), (0, 20))


class EjectionTests(unittest.TestCase):
    def fail(self, figures: Figures, times: int) -> None:  # type: ignore[override]
        for _ in range(times):
            figures.began()
            figures.ended(0.1, fault=True)

    def test_after_faults_in_a_row(self) -> None:
        rule, everyone = Ejection(faults=3, seconds=10), [Figures() for _ in range(4)]
        bad = everyone[0]
        self.fail(bad, 2)
        bad.began()
        bad.ended(0.1, fault=False)
        self.fail(bad, 2)
        self.assertFalse(rule.consider(bad, everyone, 0.0))
        self.fail(bad, 1)
        self.assertTrue(rule.consider(bad, everyone, 0.0))
        self.assertEqual(bad.ejected_until, 10.0)

    def test_longer_each_time_and_shorter_again_once_it_works(self) -> None:
        rule, everyone = Ejection(faults=1, seconds=10, longest=35), [Figures(), Figures()]
        bad, now, times = everyone[0], 0.0, []
        for _ in range(4):
            self.fail(bad, 1)
            self.assertTrue(rule.consider(bad, everyone, now))
            times.append(bad.ejected_until - now)
            now = bad.ejected_until
        self.assertEqual(times, [10, 20, 35, 35])
        bad.began()
        bad.ended(0.1, fault=False)
        self.fail(bad, 1)
        rule.consider(bad, everyone, now)
        self.assertEqual(bad.ejected_until - now, 10)

    @given(st.integers(1, 12), st.floats(0.0, 1.0))
    def test_never_more_than_a_part_is_out(self, count: int, most: float) -> None:
        rule, everyone = Ejection(faults=1, most=most), [Figures() for _ in range(count)]
        for figures in everyone:
            self.fail(figures, 5)
            rule.consider(figures, everyone, 0.0)
        out = sum(figures.ejected_until > 0 for figures in everyone)
        self.assertLessEqual(out, most * count)


class RetryBudgetTests(unittest.TestCase):
    @given(st.lists(st.booleans(), max_size=300))
    def test_retries_are_a_part_of_the_calls(self, steps: list[bool]) -> None:
        budget = RetryBudget(ratio=0.1, most=5)
        calls = retries = 0
        for call in steps:
            if call:
                calls += 1
                budget.earn()
            else:
                retries += budget.spend()
        self.assertLessEqual(retries, 5 + 0.1 * calls + 1e-6)

    def test_it_fills_again(self) -> None:
        budget = RetryBudget(ratio=0.5, most=1)
        self.assertEqual([budget.spend(), budget.spend()], [True, False])
        budget.earn()
        budget.earn()
        self.assertEqual([budget.spend(), budget.spend()], [True, False])
