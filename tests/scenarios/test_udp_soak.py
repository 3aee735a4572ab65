"""A few of the soak's seeds; `python -m tests.scenarios.udp_soak` plays any number of them."""

from __future__ import annotations

from unittest import TestCase

from tests.scenarios.udp_soak import play

SEEDS = 25


class SoakTests(TestCase):
    def test_a_few_seeds(self) -> None:
        faults = [fault for seed in range(SEEDS) if (fault := play(seed))]
        self.assertEqual(faults, [], "\n\n".join(faults))
