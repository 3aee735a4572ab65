from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.services.rpc.model import (
    DeadlineWheel,
    check_method,
    check_pattern,
    check_service,
    matches,
    read_target,
)


class NameTests(unittest.TestCase):
    def test_what_is_a_name(self) -> None:
        self.assertEqual(check_service("demo.Calculator"), "demo.Calculator")
        self.assertEqual(check_method("a.b.C#d_1"), "a.b.C#d_1")
        self.assertEqual(read_target("shop.orders:Orders"), "shop.orders:Orders")

    def test_what_is_none(self) -> None:
        for name in ("", "Calculator", "demo.", ".demo", "demo.Calc#", "demo.Cälc", "a b.c", "a.1"):
            with self.subTest(name), self.assertRaises(ValueError):
                check_service(name)
        for name in ("demo.Calc", "demo#x", "demo.Calc#x#y", "demo.Calc#x\n", "d.C#" + "x" * 300):
            with self.subTest(name), self.assertRaises(ValueError):
                check_method(name)
        for name in ("", "a", "a:", ":b", "a:b:c", "a b:c", "../a:b"):
            with self.subTest(name), self.assertRaises(ValueError):
                read_target(name)

    def test_a_refusal_is_no_longer_than_a_line(self) -> None:
        with self.assertRaises(ValueError) as raised:
            check_method("x" * 100_000)
        self.assertLess(len(str(raised.exception)), 400)

    def test_patterns(self) -> None:
        for pattern in ("*", "demo.*", "demo.Calc#*", "demo.Calc#add"):
            self.assertEqual(check_pattern(pattern), pattern)
            self.assertTrue(matches([pattern], "demo.Calc#add"))
        for pattern in ("", "demo*", "demo.Calc", "**", "demo.Calc#a*", "*.Calc#add", "demo.*#add"):
            with self.subTest(pattern), self.assertRaises(ValueError):
                check_pattern(pattern)

    def test_patterns_do_not_match_others(self) -> None:
        for pattern in ("demo.Calc#*", "demo.Calc#add"):
            self.assertFalse(matches([pattern], "demo.Calculator#add"))
        self.assertFalse(matches(["demo.*"], "demonic.Calc#add"))
        self.assertFalse(matches([], "demo.Calc#add"))


class DeadlineWheelTests(unittest.TestCase):
    @given(
        st.lists(
            st.tuples(st.floats(0.001, 100_000.0), st.floats(0.0, 1000.0), st.booleans()),
            max_size=60,
        )
    )
    def test_every_call_ends_at_its_deadline_or_a_little_later(
        self, calls: list[tuple[float, float, bool]]
    ) -> None:
        wheel = DeadlineWheel()
        due = {}
        for number, (seconds, start, ends) in enumerate(calls):
            slot = wheel.add(number, start, seconds)
            if ends:
                wheel.discard(number, slot)
            else:
                due[number] = start + seconds, seconds
        while (now := wheel.earliest) is not None:
            for number in wheel.expire(now):
                deadline, seconds = due.pop(number)
                self.assertGreaterEqual(now, deadline - 1e-9)
                self.assertLessEqual(now, deadline + max(0.002, 2 * seconds / 128) + 1e-6)
        self.assertEqual(due, {})

    def test_nothing_ends_before_its_time(self) -> None:
        wheel = DeadlineWheel()
        wheel.add(1, 0.0, 1.0)
        self.assertEqual(wheel.expire(0.99), [])
        self.assertEqual(wheel.expire(1.02), [1])
        self.assertIsNone(wheel.earliest)

    def test_many_calls_take_few_slots(self) -> None:
        wheel = DeadlineWheel()
        for number in range(20_000):
            wheel.add(number, number / 1000, 30.0)
        self.assertLess(len(wheel._due), 300)
