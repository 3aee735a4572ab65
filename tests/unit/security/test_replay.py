"""Tests for jetstreamproto.security.replay."""

from __future__ import annotations

from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.security.replay import DEFAULT_SIZE, ReplayWindow

untimed = settings(deadline=None, derandomize=True, database=None)

FAR = (1 << 62) - 1


class NaiveWindow:
    """The same by its definition."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.highest = -1
        self.seen: set[int] = set()

    def check(self, number: int) -> bool:
        return number > self.highest - self.size and number not in self.seen

    def commit(self, number: int) -> None:
        self.seen.add(number)
        self.highest = max(self.highest, number)


class VectorTests(TestCase):
    """Sequences of numbers, and whether each is let in, as WireGuard tests its window."""

    def run_vectors(self, window: ReplayWindow, *vectors: tuple[int, bool]) -> None:
        for row, (number, expected) in enumerate(vectors, 1):
            self.assertIs(window.check(number), expected, f"vector {row}, number {number}")
            if expected:
                window.commit(number)
            self.assertFalse(window.check(number), f"vector {row}, number {number}, again")

    def test_vectors(self) -> None:
        for size in (32, 64, 1000, DEFAULT_SIZE):
            with self.subTest(size):
                self.run_vectors(
                    ReplayWindow(size),
                    (0, True),
                    (1, True),
                    (1, False),
                    (9, True),
                    (8, True),
                    (7, True),
                    (7, False),
                    (size, True),
                    (size - 1, True),
                    (size - 1, False),
                    (size - 2, True),
                    (2, True),
                    (2, False),
                    (size + 16, True),
                    (3, False),
                    (size + 16, False),
                    (size * 4, True),
                    (size * 4 - (size - 1), True),
                    (10, False),
                    (size * 4 - size, False),
                    (size * 4 - (size + 1), False),
                    (size * 4 - (size - 2), True),
                    (size * 4 + 1 - size, False),
                    (0, False),
                    (FAR - 1, True),
                    (FAR, True),
                    (FAR, False),
                    (FAR - 1, False),
                    (FAR - 2, True),
                    (FAR + 1, True),
                    (FAR + 2, True),
                    (FAR - 2, False),
                    (FAR - 3, True),
                    (0, False),
                )

    def test_a_full_window_in_order_then_the_one_before_it(self) -> None:
        size = 512
        window = ReplayWindow(size)
        self.run_vectors(window, *((number, True) for number in range(1, size)))
        self.run_vectors(window, (0, True), (0, False))

    def test_a_full_window_in_order_leaves_no_room_behind_it(self) -> None:
        size = 512
        window = ReplayWindow(size)
        self.run_vectors(window, *((number, True) for number in range(2, size + 1)))
        self.run_vectors(window, (1, True), (0, False))

    def test_a_full_window_backwards(self) -> None:
        size = 512
        window = ReplayWindow(size)
        self.run_vectors(window, *((number, True) for number in reversed(range(size))))

    def test_one_more_than_the_window_backwards(self) -> None:
        size = 512
        window = ReplayWindow(size)
        self.run_vectors(window, *((number, True) for number in reversed(range(1, size + 1))))
        self.run_vectors(window, (0, False))

    def test_backwards_after_the_next_number(self) -> None:
        size = 512
        window = ReplayWindow(size)
        self.run_vectors(window, *((number, True) for number in reversed(range(2, size + 1))))
        self.run_vectors(window, (1, True), (size + 1, True), (0, False), (1, False))

    def test_the_last_of_a_window_forwards_then_backwards(self) -> None:
        size = 512
        window = ReplayWindow(size)
        self.run_vectors(window, *((number, True) for number in reversed(range(1, size))))
        self.run_vectors(window, (size + 1, True), (0, False), (size, True))


class WindowTests(TestCase):
    def test_a_new_window_knows_nothing(self) -> None:
        window = ReplayWindow()
        self.assertEqual((window.highest, window.size), (-1, 8192))
        self.assertTrue(window.check(0))
        self.assertTrue(window.check(FAR))
        self.assertFalse(window.check(-1), "there is no such number")

    def test_checking_changes_nothing(self) -> None:
        window = ReplayWindow(8)
        window.commit(3)
        for _ in range(3):
            self.assertTrue(window.check(7))
            self.assertTrue(window.check(1))
            self.assertFalse(window.check(3))
        self.assertEqual(window.highest, 3)

    def test_a_forged_high_number_that_is_not_committed_shuts_nobody_out(self) -> None:
        window = ReplayWindow(8)
        window.commit(3)
        window.check(FAR)
        self.assertTrue(window.check(4))

    def test_committing_twice_or_too_late_does_no_harm(self) -> None:
        window = ReplayWindow(8)
        for number in (20, 20, 15, 15, 1, -3):
            window.commit(number)
        self.assertEqual(window.highest, 20)
        self.assertEqual([n for n in range(13, 21) if not window.check(n)], [15, 20])

    def test_memory_stays_bounded(self) -> None:
        window = ReplayWindow(64)
        for number in (0, FAR, FAR << 40, (FAR << 40) + 50):
            window.commit(number)
            window.commit_run(number - 1000, 900)
            window.commit_run(number - 10, 1 << 70)
        self.assertLessEqual(window._older.bit_length(), 64)

    def test_a_run_of_nothing(self) -> None:
        window = ReplayWindow(8)
        window.commit_run(5, 0)
        self.assertEqual(window.highest, -1)

    def test_no_size(self) -> None:
        for size in (0, -1):
            with self.assertRaisesRegex(ValueError, "at least"):
                ReplayWindow(size)


numbers = st.one_of(st.integers(0, 40), st.integers(0, 200), st.integers(FAR - 40, FAR))
steps = st.one_of(numbers, st.tuples(numbers, st.integers(0, 60)))


class ModelTests(TestCase):
    @untimed
    @given(st.integers(1, 40), st.lists(steps, max_size=60))
    def test_against_the_definition(self, size: int, sequence: list[int | tuple[int, int]]) -> None:
        window, model = ReplayWindow(size), NaiveWindow(size)
        for step in sequence:
            first, count = (step, 1) if isinstance(step, int) else step
            if isinstance(step, int):
                if window.check(step):
                    window.commit(step)
            else:
                window.commit_run(first, count)
            for number in range(first, first + count):
                model.commit(number)
            self.assertEqual(window.highest, model.highest)
            around = range(max(0, model.highest - size - 5), model.highest + 5)
            self.assertEqual(
                [n for n in around if window.check(n)], [n for n in around if model.check(n)]
            )

    @untimed
    @given(st.integers(1, 64), st.lists(st.integers(-6, 6), max_size=200))
    def test_mild_reordering_lets_every_number_in_once(self, size: int, shifts: list[int]) -> None:
        window, model = ReplayWindow(size), NaiveWindow(size)
        for index, shift in enumerate(shifts):
            number = max(0, index + shift)
            self.assertEqual(window.check(number), model.check(number))
            if window.check(number):
                window.commit(number)
                model.commit(number)
