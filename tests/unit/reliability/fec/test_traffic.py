from __future__ import annotations

import unittest
from random import Random

from jetstreamproto.reliability.fec.plans import FecPlan, group_plan, sliding_plan
from tests.unit.reliability.fec.traffic import (
    BUDGET,
    PLANS,
    Outcome,
    bursts,
    independent,
    poisson,
    regular,
    run,
)

SEED = 20260
EVENTS = 30_000


def events(plan: FecPlan, loss: float) -> Outcome:
    """100 a second."""
    return run(plan, EVENTS, regular(0.01), independent(Random(SEED), loss), BUDGET)


class EventTests(unittest.TestCase):
    """Events of a game or a robot: 100 a second, of use for 35 ms beyond the one-way delay."""

    def test_overlapping_windows_leave_less_than_groups(self) -> None:
        groups = events(PLANS["groups 2+1"], 0.02)
        sliding = events(PLANS["every 2 over 4"], 0.02)
        said = f"seed {SEED}: {groups}, {sliding}"
        self.assertEqual(groups.overhead, sliding.overhead, said)
        self.assertTrue(0.0004 < groups.residual < 0.0013, said)
        self.assertLess(sliding.residual, 0.0003, said)
        self.assertGreater(sliding.lost, 400, said)

    def test_the_plan_that_is_made_for_them(self) -> None:
        for loss in (0.01, 0.02, 0.05):
            with self.subTest(loss):
                outcome = events(sliding_plan(0.01, BUDGET, loss, 1e-3, 0.5), loss)
                said = f"seed {SEED}: {outcome}"
                self.assertLess(outcome.residual, 1.5e-3, said)
                self.assertLessEqual(outcome.overhead, 0.501, said)

    def test_at_random_times(self) -> None:
        chance = Random(SEED)
        plan = sliding_plan(0.01, BUDGET, 0.02, 1e-3, 0.5)
        outcome = run(plan, EVENTS, poisson(chance, 0.01), independent(chance, 0.02), BUDGET)
        said = f"seed {SEED}: {outcome}"
        self.assertLess(outcome.residual, 1e-3, said)
        self.assertLess(outcome.overhead, 0.55, said)

    def test_rare_ones(self) -> None:
        plan = sliding_plan(1.0, BUDGET, 0.02, 1e-3, 0.5)
        outcome = run(plan, EVENTS, regular(1.0), independent(Random(SEED), 0.02), BUDGET)
        self.assertLess(outcome.residual, 1e-3, f"seed {SEED}: {outcome}")
        self.assertEqual(outcome.overhead, 1.0)

    def test_bursts_are_repaired_in_part(self) -> None:
        plan = PLANS["every 2 over 4"]
        outcome = run(plan, EVENTS, regular(0.01), bursts(Random(SEED), 0.02, 2.0), BUDGET)
        self.assertLess(outcome.late, outcome.lost / 2, f"seed {SEED}: {outcome}")


class DenseTests(unittest.TestCase):
    def test_every_rate_has_its_plan(self) -> None:
        for rate, loss, most in [(200, 0.02, 0.26), (500, 0.02, 0.2), (2000, 0.05, 0.26)]:
            with self.subTest((rate, loss)):
                plan = sliding_plan(1 / rate, BUDGET, loss, 1e-3, 0.5)
                lossy = independent(Random(SEED), loss)
                outcome = run(plan, 10_000, regular(1 / rate), lossy, BUDGET)
                said = f"seed {SEED}: {outcome}"
                self.assertLess(outcome.residual, 1e-3, said)
                self.assertLess(outcome.overhead, most, said)

    def test_fixed_groups(self) -> None:
        lossy = independent(Random(SEED), 0.02)
        outcome = run(group_plan(10, 2, 0.05), 20_000, regular(0.001), lossy, 1.0)
        said = f"seed {SEED}: {outcome}"
        self.assertLess(outcome.residual, 1e-3, said)
        self.assertAlmostEqual(outcome.overhead, 0.2, 3, said)
