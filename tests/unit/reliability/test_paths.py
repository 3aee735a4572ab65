"""Tests for jetstreamproto.reliability.paths."""

from __future__ import annotations

from itertools import count
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability.paths import Address, PathValidator
from jetstreamproto.security.datagrams import OVERHEAD

untimed = settings(deadline=None, derandomize=True, database=None)

HERE, THERE, ELSEWHERE = ("192.0.2.1", 1000), ("192.0.2.2", 2000), ("2001:db8::1", 3000)
TIMEOUT = 0.1
LEAST = OVERHEAD + 9


def validator() -> PathValidator:
    numbers = count()
    return PathValidator(lambda size: next(numbers).to_bytes(size, "big"))


class ChallengeTests(TestCase):
    def challenge(self, paths: PathValidator, now: float) -> tuple[bytes, int]:
        made = paths.challenge(now, TIMEOUT)
        assert made is not None
        return made

    def test_a_new_address_is_challenged_and_answers(self) -> None:
        paths = validator()
        self.assertIsNone(paths.challenge(0.0, TIMEOUT))
        paths.heard(THERE, 1000, 1.0)
        self.assertEqual((paths.candidate, paths.due_at), (THERE, 1.0))
        data, size = self.challenge(paths, 1.0)
        self.assertEqual((len(data), size), (8, 1200))
        self.assertIsNone(paths.responded(b"whatever"))
        self.assertEqual(paths.responded(data), THERE)
        self.assertEqual((paths.candidate, paths.due_at), (None, None))
        self.assertIsNone(paths.responded(data), "once is enough")

    def test_nothing_before_it_is_due(self) -> None:
        paths = validator()
        paths.heard(THERE, 10000, 1.0)
        self.challenge(paths, 1.0)
        self.assertIsNone(paths.challenge(1.09, TIMEOUT))

    def test_five_challenges_farther_and_farther_apart(self) -> None:
        paths = validator()
        paths.heard(THERE, 10000, 0.0)
        times = []
        while paths.due_at is not None:
            now = paths.due_at
            if paths.challenge(now, TIMEOUT) is not None:
                times.append(round(now, 3))
        self.assertEqual(times, [0.0, 0.1, 0.3, 0.7, 1.5])
        self.assertIsNone(paths.candidate)
        self.assertEqual(round(now, 3), 3.1)

    def test_the_address_may_try_again_after_that(self) -> None:
        paths = validator()
        paths.heard(THERE, 10000, 0.0)
        while paths.due_at is not None:
            paths.challenge(paths.due_at, TIMEOUT)
        paths.heard(THERE, 10, 9.0)
        self.assertIsNone(paths.due_at, "old credit is gone")
        paths.heard(THERE, 100, 9.5)
        self.assertEqual(self.challenge(paths, 9.5)[1], 330)

    def test_any_of_the_challenges_may_be_answered(self) -> None:
        for answered in range(3):
            paths = validator()
            paths.heard(THERE, 10000, 0.0)
            sent = [self.challenge(paths, paths.due_at or 0.0)[0] for _ in range(3)]
            self.assertEqual(paths.responded(sent[answered]), THERE)

    def test_challenges_differ(self) -> None:
        paths = validator()
        paths.heard(THERE, 10000, 0.0)
        sent = [self.challenge(paths, paths.due_at or 0.0)[0] for _ in range(5)]
        self.assertEqual(len(set(sent)), 5)

    def test_a_third_address_in_between(self) -> None:
        paths = validator()
        paths.heard(THERE, 1000, 0.0)
        stale, _ = self.challenge(paths, 0.0)
        paths.heard(ELSEWHERE, 100, 0.05)
        self.assertEqual((paths.candidate, paths.due_at), (ELSEWHERE, 0.05))
        self.assertIsNone(paths.responded(stale), "nobody wants to know any more")
        fresh, size = self.challenge(paths, 0.05)
        self.assertEqual(size, 300, "what came from there does not count here")
        self.assertEqual(paths.responded(fresh), ELSEWHERE)

    def test_back_and_forth(self) -> None:
        paths = validator()
        paths.heard(THERE, 1000, 0.0)
        stale, _ = self.challenge(paths, 0.0)
        paths.heard(ELSEWHERE, 1000, 0.1)
        paths.heard(THERE, 1000, 0.2)
        self.assertIsNone(paths.responded(stale))
        self.assertEqual(paths.responded(self.challenge(paths, 0.2)[0]), THERE)

    def test_staying(self) -> None:
        paths = validator()
        paths.heard(THERE, 1000, 0.0)
        data, _ = self.challenge(paths, 0.0)
        paths.forget()
        self.assertEqual((paths.candidate, paths.due_at), (None, None))
        self.assertIsNone(paths.challenge(9.0, TIMEOUT))
        self.assertIsNone(paths.responded(data))


class CreditTests(TestCase):
    def test_too_little_to_say_anything(self) -> None:
        paths = validator()
        paths.heard(THERE, 12, 0.0)
        self.assertIsNone(paths.due_at, "a timer would be of no use")
        self.assertIsNone(paths.challenge(0.0, TIMEOUT))
        paths.heard(THERE, 1, 5.0)
        self.assertEqual(paths.due_at, 5.0)
        made = paths.challenge(5.0, TIMEOUT)
        assert made is not None
        self.assertEqual(made[1], 39)

    def test_credit_runs_out_and_comes_back(self) -> None:
        paths = validator()
        paths.heard(THERE, 410, 0.0)
        made = paths.challenge(0.0, TIMEOUT)
        assert made is not None
        self.assertEqual(made[1], 1200)
        self.assertEqual(paths.due_at, 0.1)
        self.assertIsNone(paths.challenge(0.1, TIMEOUT), "30 bytes are left")
        self.assertEqual((paths.candidate, paths.due_at), (THERE, None))
        self.assertEqual(paths.responded(made[0]), THERE, "it may still answer")

        paths.heard(THERE, 1, 1.0)
        self.assertIsNone(paths.due_at)
        paths.heard(THERE, 100, 1.0)
        self.assertEqual(paths.due_at, 1.0)

    def test_credit_does_not_hurry_a_challenge(self) -> None:
        paths = validator()
        paths.heard(THERE, 410, 0.0)
        paths.challenge(0.0, TIMEOUT)
        paths.heard(THERE, 1000, 0.01)
        self.assertEqual(paths.due_at, 0.1)

    @untimed
    @given(
        st.lists(
            st.tuples(st.sampled_from([THERE, ELSEWHERE]), st.integers(0, 1500), st.floats(0, 0.5)),
            max_size=40,
        )
    )
    def test_never_more_than_three_times_what_came(
        self, steps: list[tuple[Address, int, float]]
    ) -> None:
        paths = validator()
        came = {THERE: 0, ELSEWHERE: 0}
        sent = {THERE: 0, ELSEWHERE: 0}
        now = 0.0
        for address, size, wait in steps:
            paths.heard(address, size, now)
            came[address] += size
            now += wait
            for _ in range(10):
                if paths.due_at is None or paths.due_at > now:
                    break
                candidate = paths.candidate
                made = paths.challenge(now, TIMEOUT)
                if made is not None:
                    assert candidate is not None
                    self.assertTrue(LEAST <= made[1] <= 1200)
                    sent[candidate] += made[1]
            else:
                self.fail("it would be due for ever")
            for each in (THERE, ELSEWHERE):
                self.assertLessEqual(sent[each], 3 * came[each])
