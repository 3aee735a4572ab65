from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.reliability.fec.codes import encode
from jetstreamproto.reliability.fec.encoder import FecEncoder, RepairSymbol
from jetstreamproto.reliability.fec.plans import NO_FEC, FecPlan, group_plan

SPARSE = FecPlan(2, 4, 1, 4, 0.03, 0.035)
HEADS = list[tuple[int, int, int, int]]


def heads(repairs: list[RepairSymbol]) -> HEADS:
    return [repair[:4] for repair in repairs]


def send(encoder: FecEncoder, count: int, gap: float = 0.01, start: float = 0.0) -> list[HEADS]:
    """The repairs after each of `count` symbols."""
    result = []
    for i in range(count):
        encoder.add(b"%d" % i, start + i * gap)
        result.append(heads(encoder.take_repairs(start + i * gap)))
    return result


class GroupTests(unittest.TestCase):
    def test_full_groups(self) -> None:
        encoder = FecEncoder(group_plan(3, 2, 0.01))
        self.assertEqual(
            send(encoder, 7, 0.0),
            [[], [], [(0, 3, 3, 3), (0, 3, 3, 4)], [], [], [(3, 3, 3, 3), (3, 3, 3, 4)], []],
        )
        self.assertEqual(encoder.next_number, 7)
        self.assertEqual(encoder.repairs, 4)

    def test_the_data_are_the_codes(self) -> None:
        encoder = FecEncoder(group_plan(3, 2, 0.01))
        window = [b"one", b"", b"fifteen"]
        for symbol in window:
            encoder.add(symbol, 0.0)
        data = [repair.data for repair in encoder.take_repairs(0.0)]
        self.assertEqual(data, encode(window, 0, 3, (3, 4)))

    def test_short_groups_are_closed_in_time(self) -> None:
        for count, expected in [
            (1, [(0, 1, 1, 1)]),
            (2, [(0, 2, 10, 10), (0, 2, 10, 11)]),
            (6, [(0, 6, 10, 10), (0, 6, 10, 11)]),
        ]:
            with self.subTest(count):
                encoder = FecEncoder(group_plan(10, 2, 0.01))
                send(encoder, count, 0.001)
                self.assertAlmostEqual(encoder.deadline or 0, 0.01)
                self.assertEqual(encoder.take_repairs(0.0099), [])
                self.assertEqual(heads(encoder.take_repairs(0.01)), expected)
                self.assertIsNone(encoder.deadline)
                self.assertEqual(encoder.take_repairs(1.0), [])

    def test_a_short_group_gets_its_share_of_repairs(self) -> None:
        encoder = FecEncoder(group_plan(20, 10, 0.01))
        send(encoder, 5, 0.001)
        self.assertEqual(len(encoder.take_repairs(1.0)), 3)

    def test_the_group_after_a_short_one_is_full(self) -> None:
        encoder = FecEncoder(group_plan(3, 1, 0.01))
        send(encoder, 2, 0.0)
        encoder.take_repairs(0.01)
        self.assertEqual(send(encoder, 3, 0.0, 0.02)[-1], [(2, 3, 3, 3)])

    def test_numbers_wrap(self) -> None:
        encoder = FecEncoder(group_plan(3, 1, 0.01), first=0xFFFFFFFE)
        self.assertEqual(send(encoder, 3, 0.0)[-1], [(0xFFFFFFFE, 3, 3, 3)])
        self.assertEqual(encoder.next_number, 1)


class SlidingTests(unittest.TestCase):
    def test_windows_overlap_and_rows_differ(self) -> None:
        encoder = FecEncoder(SPARSE)
        self.assertEqual(
            send(encoder, 6),
            [[], [(0, 2, 4, 4)], [], [(0, 4, 4, 5)], [], [(2, 4, 4, 6)]],
        )

    def test_old_symbols_are_not_covered(self) -> None:
        encoder = FecEncoder(SPARSE)
        send(encoder, 4)
        self.assertEqual(send(encoder, 2, 0.01, 0.06)[-1], [(4, 2, 4, 6)])

    def test_a_lone_symbol_is_sent_twice(self) -> None:
        encoder = FecEncoder(SPARSE)
        send(encoder, 4)
        encoder.add(b"lone", 1.0)
        self.assertEqual(encoder.deadline, 1.03)
        self.assertEqual(encoder.take_repairs(1.03), [(4, 1, 1, 3, b"lone")])
        self.assertIsNone(encoder.deadline)

    def test_an_odd_one_gets_its_repair_with_those_before_it(self) -> None:
        encoder = FecEncoder(SPARSE)
        send(encoder, 3)
        self.assertEqual(heads(encoder.take_repairs(0.05)), [(2, 1, 1, 2)])
        send(encoder, 3, 0.0, 1.0)
        self.assertEqual(heads(encoder.take_repairs(1.03)), [(3, 3, 4, 7)])


class PlanTests(unittest.TestCase):
    def test_off(self) -> None:
        encoder = FecEncoder()
        self.assertEqual(send(encoder, 20), [[]] * 20)
        self.assertIsNone(encoder.deadline)
        self.assertEqual(encoder.next_number, 20)

    def test_switched_on_and_off(self) -> None:
        encoder = FecEncoder()
        send(encoder, 5)
        encoder.use(SPARSE)
        self.assertEqual(send(encoder, 2)[-1], [(5, 2, 4, 4)])
        encoder.add(b"", 0.0)
        encoder.use(NO_FEC)
        self.assertIsNone(encoder.deadline)
        self.assertEqual(encoder.take_repairs(9.0), [])
        encoder.use(SPARSE)
        self.assertEqual(send(encoder, 2)[-1], [(8, 2, 4, 5)])

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=9),
                st.integers(1, 50),
                st.builds(
                    FecPlan,
                    st.integers(1, 4),
                    st.integers(4, 8),
                    st.integers(0, 3),
                    st.integers(8, 12),
                    st.floats(0.001, 0.1),
                    st.floats(0.001, 0.1),
                ),
                st.builds(group_plan, st.integers(1, 9), st.integers(1, 4), st.just(0.01)),
            )
        )
    )
    def test_whatever_happens_repairs_are_true(self, steps: list[bytes | int | FecPlan]) -> None:
        """Symbols, milliseconds and plans in any order."""
        encoder = FecEncoder()
        sent: list[bytes] = []
        now = 0.0
        for step in steps:
            if isinstance(step, FecPlan):
                encoder.use(step)
            elif isinstance(step, int):
                now += step / 1000
            else:
                sent.append(step)
                encoder.add(step, now)
            for base, count, k, row, data in encoder.take_repairs(now):
                self.assertTrue(0 < count <= k <= row < 256)
                self.assertEqual(encode(sent[base : base + count], base, k, (row,)), [data])
                self.assertLessEqual(base + count, len(sent))
            deadline = encoder.deadline
            self.assertTrue(deadline is None or deadline > now or isinstance(step, FecPlan))
