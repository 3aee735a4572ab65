from __future__ import annotations

import unittest

from jetstreamproto.errors import ChannelClosed, ChannelReset, WireError
from jetstreamproto.services import latency
from jetstreamproto.services.latency import LATENCY, Latency, read_latencies, stamp
from jetstreamproto.session.codes import MAX_FRAGMENT, ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.testing import SessionPair

NOW = 10**12


class LatencyTests(unittest.TestCase):
    def setUp(self) -> None:
        self.pair = SessionPair(services={LATENCY: lambda: Latency(lambda: NOW)})
        self.inbox: Inbox = self.pair.run(self.pair.client.open(LATENCY))

    def answer(self) -> list[int]:
        """The latencies that come back, once the client has ended."""
        self.inbox.channel.end()
        latencies: list[int] = []
        while True:
            try:
                message = self.pair.run(self.inbox.get())
            except ChannelClosed:
                return latencies
            self.assertLessEqual(len(message), MAX_FRAGMENT)
            latencies += read_latencies(message)

    def assert_reset(self, code: int) -> None:
        with self.assertRaises(ChannelReset) as raised:
            self.pair.run(self.inbox.get())
        self.assertEqual(raised.exception.code, code)

    def test_latencies_come_back_in_microseconds(self) -> None:
        for nanoseconds in (0, 999, 1000, 35_000_000):
            self.inbox.channel.send(stamp(b"payload", NOW - nanoseconds))
        self.assertEqual(self.answer(), [0, 0, 1, 35_000])

    def test_what_cannot_be_is_bounded(self) -> None:
        self.inbox.channel.send(stamp(b"", NOW + 10**9))
        self.inbox.channel.send(bytes(8))
        self.inbox.channel.send(b"\xff" * 8)
        self.assertEqual(self.answer(), [0, 10**9, 0])
        self.assertEqual(Latency()._latencies.itemsize, 4)

    def test_a_clock_that_is_far_ahead(self) -> None:
        self.pair = SessionPair(services={LATENCY: lambda: Latency(lambda: 1 << 62)})
        self.inbox = self.pair.run(self.pair.client.open(LATENCY))
        self.inbox.channel.send(bytes(8))
        self.assertEqual(self.answer(), [(1 << 32) - 1])

    def test_many_come_back_in_messages_of_one_fragment(self) -> None:
        count = 20_000
        for number in range(count):
            self.inbox.channel.send(stamp(b"", NOW - 1000 * number))
        self.assertEqual(self.answer(), list(range(count)))

    def test_no_messages_no_latencies(self) -> None:
        self.assertEqual(self.answer(), [])

    def test_a_message_without_a_stamp_resets_the_channel(self) -> None:
        self.inbox.channel.send(bytes(7))
        self.assert_reset(ResetCode.BAD_MESSAGE)

    def test_there_is_a_limit(self) -> None:
        limit = latency.MAX_MESSAGES
        self.addCleanup(setattr, latency, "MAX_MESSAGES", limit)
        latency.MAX_MESSAGES = 3
        for _ in range(4):
            self.inbox.channel.send(stamp(b"", NOW))
        self.assert_reset(ResetCode.LIMIT_EXCEEDED)

    def test_answers_that_are_none(self) -> None:
        for answer in (b"", b"123", bytes(4 * 8192 + 4)):
            with self.subTest(len(answer)), self.assertRaises(WireError):
                read_latencies(answer)
