"""Tests for jetstreamproto.reliability.intervals."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability.intervals import IntervalSet, Range, add_range, remove_range

untimed = settings(deadline=None, derandomize=True, database=None)

small = st.integers(0, 40)
changes = st.lists(st.tuples(st.booleans(), small, st.integers(1, 12)), max_size=40)


def runs(numbers: Iterable[int]) -> list[Range]:
    """The ranges that a set of numbers is made of."""
    found: list[Range] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


class IntervalSetTests(TestCase):
    @untimed
    @given(st.lists(small, max_size=60))
    def test_against_a_set(self, numbers: list[int]) -> None:
        intervals, model = IntervalSet(), set[int]()
        for number in numbers:
            self.assertEqual(intervals.add(number), number not in model)
            model.add(number)
            self.assertEqual(intervals.intervals, len(runs(model)))
            for other in range(42):
                self.assertEqual(other in intervals, other in model)

    def test_memory_grows_with_the_gaps(self) -> None:
        intervals = IntervalSet()
        for number in [*range(0, 1000, 2), *range(1, 1000, 2)]:
            intervals.add(number)
        self.assertEqual(intervals.intervals, 1)


class RangeTests(TestCase):
    @untimed
    @given(changes, st.booleans())
    def test_against_a_set(self, steps: list[tuple[bool, int, int]], as_deque: bool) -> None:
        ranges: deque[Range] | list[Range] = deque() if as_deque else []
        model = set[int]()
        for put_in, start, size in steps:
            if put_in:
                add_range(ranges, start, start + size)
                model.update(range(start, start + size))
            else:
                remove_range(ranges, start, start + size)
                model.difference_update(range(start, start + size))
            self.assertEqual(list(ranges), runs(model))

    def test_taking_nothing_out(self) -> None:
        ranges = [(0, 10)]
        remove_range(ranges, 5, 5)
        self.assertEqual(ranges, [(0, 10)])
        empty: list[Range] = []
        remove_range(empty, 0, 5)
        self.assertEqual(empty, [])
