"""A reader between the store and the fan-out: nothing twice, nothing left out."""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock

from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.reading import StreamReader
from jetstreamproto.services.events.runs import Run


def events(first: int, last: int) -> list[Event]:
    return [Event("a", b"", number) for number in range(first, last + 1)]


class Kept:
    """A stream that has what is committed, whether it was told or not."""

    id = 7

    def __init__(self) -> None:
        self.committed = 0

    def read(self, sequence: int, count: int, size: int) -> Sequence[Event]:
        return events(sequence, min(self.committed, sequence + count - 1))


class Out:
    ready = True

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, run: Run) -> None:
        self.sent += [event.sequence for event in run.events]


class ReaderTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock, self.kept, self.out = Clock(), Kept(), Out()
        stream: Any = self.kept
        self.reader = StreamReader(stream, "a", 1, self.clock)
        self.reader.out = self.out  # type: ignore[assignment]
        self.reader.resumed()

    def settle(self) -> None:
        for _ in range(10):
            self.clock.advance(0)

    def tell(self, first: int, last: int, stream: int = 7) -> None:
        self.reader.deliver(Run(events(first, last), stream))

    def test_what_was_read_before_it_was_told_comes_once(self) -> None:
        self.kept.committed = 10
        self.settle()
        self.tell(1, 4)
        self.tell(5, 10)
        self.assertEqual(self.out.sent, list(range(1, 11)))
        self.kept.committed = 14
        self.tell(9, 14)
        self.tell(3, 4, stream=8)
        self.assertEqual(self.out.sent, list(range(1, 15)))

    def test_without_room_it_falls_back_on_the_store(self) -> None:
        self.settle()
        self.kept.committed = 3
        self.out.ready = False
        self.tell(1, 3)
        self.kept.committed = 6
        self.out.ready = True
        self.tell(4, 6)  # told while it is behind
        self.assertEqual(self.out.sent, [])
        self.reader.resumed()
        self.settle()
        self.assertEqual(self.out.sent, [1, 2, 3, 4, 5, 6])
        self.kept.committed = 7
        self.tell(7, 7)
        self.assertEqual(self.out.sent[-1], 7)
