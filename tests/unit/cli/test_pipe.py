from __future__ import annotations

import os
import unittest
from collections.abc import Callable
from queue import Queue
from typing import Any, cast

from twisted.internet.base import ReactorBase

from jetstreamproto.cli.pipe import InputReader, OutputWriter

DEADLINE = 60.0
PIPE = 1 << 16  # what a pipe holds


class CallQueue:
    """Takes the place of the reactor: the test runs what the threads want to have called."""

    def __init__(self) -> None:
        self._calls: Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = Queue()

    def callFromThread(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._calls.put((call, arguments))

    def run_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.run_one(DEADLINE)

    def run_one(self, timeout: float) -> None:
        """Raises `queue.Empty` when no thread has anything to say for so long."""
        call, arguments = self._calls.get(timeout=timeout)
        call(*arguments)


class StreamCase(unittest.TestCase):
    def setUp(self) -> None:
        self.queue = CallQueue()
        self.reactor = cast(ReactorBase, self.queue)
        self.read_end, self.write_end = os.pipe()
        self.open = {self.read_end, self.write_end}
        self.addCleanup(lambda: [os.close(end) for end in self.open])

    def close(self, end: int) -> None:
        self.open.remove(end)
        os.close(end)


class InputReaderTests(StreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.received: list[bytes] = []
        self.events: list[object] = []

    def reader(self, descriptor: int) -> InputReader:
        reader = InputReader(
            self.reactor,
            descriptor,
            self.received.append,
            lambda: self.events.append("ended"),
            self.events.append,
        )
        reader.start()
        return reader

    def test_it_reads_to_the_end(self) -> None:
        self.reader(self.read_end)
        os.write(self.write_end, b"one")
        self.queue.run_until(lambda: b"".join(self.received) == b"one")
        os.write(self.write_end, b"two")
        self.close(self.write_end)
        self.queue.run_until(lambda: bool(self.events))
        self.assertEqual((b"".join(self.received), self.events), (b"onetwo", ["ended"]))

    def test_it_waits_where_the_descriptor_does_not(self) -> None:
        os.set_blocking(self.read_end, False)
        self.reader(self.read_end)
        os.write(self.write_end, b"late")
        self.queue.run_until(lambda: self.received == [b"late"])
        self.close(self.write_end)
        self.queue.run_until(lambda: self.events == ["ended"])

    def test_while_paused_it_reads_only_a_little_ahead(self) -> None:
        with open("/dev/zero", "rb") as endless:
            reader = self.reader(endless.fileno())
            self.queue.run_until(lambda: bool(self.received))
            reader.pause()
            with self.assertRaises(Exception) as raised:
                while True:
                    self.queue.run_one(0.3)
            self.assertEqual(type(raised.exception).__name__, "Empty")
            ahead = sum(map(len, self.received))
            self.assertLess(ahead, 2 << 20)
            reader.resume()
            self.queue.run_until(lambda: sum(map(len, self.received)) > 4 * ahead)
            reader.pause()

    def test_an_error_is_told(self) -> None:
        self.reader(self.write_end)  # cannot be read from
        self.queue.run_until(lambda: bool(self.events))
        self.assertIsInstance(self.events[0], OSError)


class OutputWriterTests(StreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[object] = []
        self.writer = OutputWriter(
            self.reactor, self.write_end, lambda: self.events.append("drained"), self.events.append
        )

    def read(self, size: int) -> bytes:
        pieces = []
        while size:
            pieces.append(os.read(self.read_end, size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def test_it_writes_in_order_and_says_when_it_has(self) -> None:
        for number in range(100):
            self.writer.write(b"%d," % number)
        self.writer.finish().addCallback(self.events.append)
        self.queue.run_until(lambda: bool(self.events))
        expected = b"".join(b"%d," % number for number in range(100))
        self.assertEqual(os.read(self.read_end, PIPE), expected)
        self.assertEqual(self.events, [None])

    def test_it_is_full_until_somebody_reads(self) -> None:
        sent = 0
        while not self.writer.full:
            self.writer.write(bytes(PIPE))
            sent += PIPE
        self.assertLess(sent, 2 << 20)
        self.assertEqual(len(self.read(sent)), sent)
        self.queue.run_until(lambda: self.events == ["drained"])
        self.assertFalse(self.writer.full)

    def test_it_waits_where_the_descriptor_does_not(self) -> None:
        os.set_blocking(self.write_end, False)
        data = os.urandom(10 * PIPE)
        self.writer.write(data)
        self.writer.finish().addCallback(self.events.append)
        self.assertEqual(self.read(len(data)), data)
        self.queue.run_until(lambda: self.events == [None])

    def test_a_reader_that_is_gone_is_told(self) -> None:
        self.close(self.read_end)
        self.writer.write(b"nobody reads this")
        self.queue.run_until(lambda: bool(self.events))
        self.assertIsInstance(self.events[0], BrokenPipeError)
