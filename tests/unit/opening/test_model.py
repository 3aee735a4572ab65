"""The plan of a race, and the memory of servers."""

from __future__ import annotations

import json
import unittest
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.opening.model import (
    LIFETIME,
    NOTHING,
    PATIENCE,
    QUIC,
    TCP,
    TRANSPORTS,
    UDP,
    Memory,
    Recalled,
    Trouble,
    plan,
)

PLACE = ("server.example", 9000)
transports = st.sampled_from(TRANSPORTS)
recollections = st.builds(
    Recalled,
    st.none() | transports,
    st.dictionaries(transports, st.builds(Trouble, st.text(max_size=9), st.floats(0, 1e9))),
)


def names(*arguments: Any, **options: Any) -> list[str]:
    return [entrant.transport + "?" * entrant.near for entrant in plan(*arguments, **options)]


class PlanTests(unittest.TestCase):
    def test_of_a_server_that_is_not_known(self) -> None:
        self.assertEqual(names(NOTHING, bulk=False), ["tcp?", QUIC, TCP, UDP])
        self.assertEqual(names(NOTHING, bulk=True), [UDP, TCP, QUIC])

    def test_without_quic_here(self) -> None:
        self.assertEqual(names(NOTHING, bulk=False, quic=False), [TCP, UDP])
        self.assertEqual(names(NOTHING, bulk=True, quic=False), [UDP, TCP])

    def test_what_won_goes_first(self) -> None:
        self.assertEqual(names(Recalled(QUIC, {}), bulk=False), [QUIC, TCP, UDP])
        self.assertEqual(names(Recalled(TCP, {}), bulk=False), [TCP, QUIC, UDP])
        self.assertEqual(names(Recalled(TCP, {}), bulk=True), [TCP, UDP, QUIC])

    def test_what_did_not_serve_goes_last(self) -> None:
        trouble = Trouble("", 0)
        self.assertEqual(names(Recalled(None, {QUIC: trouble}), bulk=False), [TCP, UDP, QUIC])
        self.assertEqual(names(Recalled(QUIC, {QUIC: trouble}), bulk=False), [TCP, UDP, QUIC])
        self.assertEqual(names(Recalled(None, {TCP: trouble}), bulk=False), [QUIC, UDP, TCP])
        self.assertEqual(names(Recalled(None, {UDP: trouble}), bulk=True), [TCP, QUIC, UDP])

    @given(recollections, st.booleans(), st.booleans())
    def test_every_plan_tries_everything(self, recalled: Recalled, bulk: bool, quic: bool) -> None:
        entrants = plan(recalled, bulk=bulk, quic=quic)
        whole = [entrant for entrant in entrants if not entrant.near]
        self.assertEqual(
            sorted(entrant.transport for entrant in whole),
            sorted(name for name in TRANSPORTS if quic or name != QUIC),
        )
        self.assertEqual(entrants[0].after, 0)
        self.assertTrue(all(entrant.after > 0 for entrant in entrants[1:]))
        for entrant in whole:
            self.assertEqual(entrant.patience, None if entrant.transport == TCP else PATIENCE)
        self.assertEqual([e for e in entrants[1:] if e.near], [])


class MemoryTests(unittest.TestCase):
    def recall(self, memory: Memory, now: float, bulk: bool = False) -> Recalled:
        return memory.recall(PLACE, now, bulk=bulk)

    def test_nothing(self) -> None:
        self.assertEqual(self.recall(Memory(), 0), NOTHING)

    def test_choices_are_kept_by_purpose(self) -> None:
        memory = Memory()
        memory.served(PLACE, UDP, 100, bulk=True)
        self.assertEqual(self.recall(memory, 100, bulk=True).choice, UDP)
        self.assertIsNone(self.recall(memory, 100).choice)
        self.assertIsNone(memory.recall(("server.example", 9001), 100, bulk=True).choice)

    def test_a_choice_is_forgotten_however_often_it_serves(self) -> None:
        memory = Memory()
        for now in range(0, int(LIFETIME), 10):
            memory.served(PLACE, TCP, now, bulk=False)
        self.assertEqual(self.recall(memory, LIFETIME - 1).choice, TCP)
        self.assertIsNone(self.recall(memory, LIFETIME).choice)

    def test_trouble_ends_with_time_and_with_success(self) -> None:
        memory = Memory()
        memory.failed(PLACE, UDP, "silent", 10)
        self.assertEqual(self.recall(memory, 20).troubles, {UDP: Trouble("silent", 10)})
        self.assertEqual(self.recall(memory, 10 + LIFETIME).troubles, {})
        memory.served(PLACE, UDP, 30, bulk=False)
        self.assertEqual(self.recall(memory, 31).troubles, {})

    def test_a_clock_that_is_set_back(self) -> None:
        memory = Memory()
        memory.failed(PLACE, UDP, "silent", 1e9)
        self.assertEqual(self.recall(memory, 1e9 - 3600), NOTHING)

    def test_why_another_was_tried_first(self) -> None:
        recalled = Recalled(None, {UDP: Trouble("udp fell silent", 10)})
        self.assertEqual(recalled.over(TCP, 52, bulk=True), "udp fell silent, 42 s ago")
        self.assertIsNone(recalled.over(TCP, 52, bulk=False))
        self.assertIsNone(recalled.over(UDP, 52, bulk=True))

    def test_it_is_bounded(self) -> None:
        memory = Memory(max_records=10)
        for port in range(1, 100):
            memory.failed(("host", port), UDP, "x" * 10_000, port)
        self.assertEqual(len(memory), 10)
        recalled = memory.recall(("host", 99), 99, bulk=False)
        self.assertLessEqual(len(recalled.troubles[UDP].reason), 300)
        self.assertEqual(memory.recall(("host", 80), 99, bulk=False), NOTHING)

    def test_changes_are_told(self) -> None:
        told: list[Memory] = []
        memory = Memory(changed=told.append)
        memory.served(PLACE, TCP, 0, bulk=False)
        memory.served(PLACE, TCP, 1, bulk=False)  # known already
        self.assertEqual(told, [memory])
        memory.failed(PLACE, UDP, "silent", 2)
        self.assertEqual(len(told), 2)

    @given(st.lists(st.tuples(transports, st.booleans(), st.booleans(), st.floats(0, 400))))
    def test_it_survives_its_file(self, events: list[tuple[str, bool, bool, float]]) -> None:
        memory, again = Memory(), Memory()
        for transport, bulk, ok, at in events:
            if ok:
                memory.served(PLACE, transport, at, bulk=bulk)
            else:
                memory.failed(PLACE, transport, "silent", at)
        again.load(json.loads(json.dumps(memory.dump())), 400)
        for bulk in (False, True):
            self.assertEqual(self.recall(again, 400, bulk), self.recall(memory, 400, bulk))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner),
        )
        | st.lists(
            st.tuples(
                st.sampled_from(["host", "", 7]),
                st.sampled_from([9000, 0, 1 << 16, "x", 1.5]),
                st.sampled_from(["tcp", "any", "bulk", "smoke"]),
                st.sampled_from(["tcp", "silent", "x" * 301, None]),
                st.sampled_from([100, 1e300, float("nan"), "now"]),
            ).map(list),
            min_size=1,
        )
    )
    def test_a_file_that_is_not_ours(self, data: object) -> None:
        memory = Memory()
        try:
            memory.load(data, 100)
        except ValueError:
            return
        assert isinstance(data, list)
        for record in memory.dump():
            self.assertIn(record, data)

    def test_too_many_records(self) -> None:
        records = [["host", port, "tcp", "silent", 0] for port in range(1, 20)]
        with self.assertRaises(ValueError):
            Memory(max_records=10).load(records, 0)
