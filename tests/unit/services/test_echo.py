"""Tests for jetstreamproto.services.echo."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from tests.doubles import MIB, Recorder, make_pair, noise

SERVICES = {ECHO: Echo, DISCARD: Discard}


class EchoTests(SynchronousTestCase):
    def test_messages_come_back_one_by_one_and_the_end_after_them(self) -> None:
        pair = make_pair(SERVICES, latency=0.01)
        mine = pair.run(pair.client.open(ECHO, Recorder()))
        messages = [b"", b"x", noise(70_000), b"", noise(MIB)]
        for message in messages:
            mine.channel.send(message)
        mine.channel.end()
        pair.run_until(lambda: "closed" in mine.events)
        self.assertTrue(mine.messages == messages)
        self.assertEqual(mine.events[-2:], ["end", "closed"])
        self.assertIsNone(mine.reason)

    def test_an_end_without_messages_is_answered_with_an_end(self) -> None:
        pair = make_pair(SERVICES)
        mine = pair.run(pair.client.open(ECHO, Recorder(stay=True)))
        mine.channel.end()
        pair.run_until(lambda: "closed" in mine.events)
        self.assertEqual(mine.events, ["opened", "end", "closed"])

    def test_a_reset_stops_the_echo(self) -> None:
        pair = make_pair(SERVICES, latency=0.01)
        mine = pair.run(pair.client.open(ECHO, Recorder()))
        mine.channel.pauseProducing()
        for number in range(20):
            mine.channel.send(noise(MIB, number))
        pair.advance(1)
        mine.channel.reset()
        pair.advance(1)
        self.assertEqual(pair.server.channels, ())
        self.assertEqual(self.flushLoggedErrors(), [])


class DiscardTests(SynchronousTestCase):
    def test_it_answers_the_end_with_the_number_of_bytes(self) -> None:
        for sizes in ((), (0,), (1, 2, 3), (MIB, 0, 70_000)):
            with self.subTest(sizes=sizes):
                pair = make_pair(SERVICES)
                mine = pair.run(pair.client.open(DISCARD, Recorder()))
                for size in sizes:
                    mine.channel.send(noise(size))
                mine.channel.end()
                pair.run_until(lambda mine=mine: "closed" in mine.events)
                self.assertEqual(mine.messages, [sum(sizes).to_bytes(8, "big")])
                self.assertIsNone(mine.reason)


class ClosingTests(SynchronousTestCase):
    def test_closing_the_session_under_a_service_is_no_failure_of_the_service(self) -> None:
        for name in SERVICES:
            with self.subTest(name):
                pair = make_pair(SERVICES, latency=0.05)
                mine = pair.run(pair.client.open(name, Recorder()))
                for number in range(3):
                    mine.channel.send(noise(1000, number))
                pair.server.close()
                pair.run(pair.client.when_closed())
                pair.run(pair.server.when_closed())
                self.assertEqual(self.flushLoggedErrors(), [])
                self.assertIsNone(pair.server.close_reason)
