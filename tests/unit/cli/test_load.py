from __future__ import annotations

import unittest

from jetstreamproto.cli.load import BULK_SIZE, Calls, Download, Events, Load, Upload, WrongResult
from jetstreamproto.cli.pace import Pace
from jetstreamproto.errors import JetStreamError, SessionCut
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from jetstreamproto.services.latency import LATENCY, Latency
from jetstreamproto.services.source import SOURCE, Source
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.testing import SessionPair


class Liar(ChannelProtocol):
    """Answers everything, and its end, with eight zero bytes."""

    def message_received(self, message: bytes) -> None:
        self.channel.send(bytes(8))

    def end_received(self) -> None:
        self.channel.send(bytes(8))
        self.channel.end()


class Mute(ChannelProtocol):
    """Ends the channel at once."""

    def channel_opened(self) -> None:
        self.channel.end()


def run(load: Load, name: str, service: type[ChannelProtocol]) -> float:
    pair = SessionPair(services={name: service})
    pair.run(pair.client.open(name, load))
    seconds = pair.run(load.finished)
    pair.run(pair.client.close())
    return seconds


class LoadTests(unittest.TestCase):
    def test_uploads_of_any_length(self) -> None:
        for count in (1, BULK_SIZE - 1, BULK_SIZE, BULK_SIZE + 1, 40 * BULK_SIZE + 7):
            with self.subTest(count):
                self.assertGreater(run(Upload(count), DISCARD, Discard), 0)

    def test_downloads_of_any_length(self) -> None:
        for count in (1, BULK_SIZE - 1, BULK_SIZE, BULK_SIZE + 1, 40 * BULK_SIZE + 7):
            with self.subTest(count):
                self.assertGreater(run(Download(count), SOURCE, Source), 0)

    def test_calls_are_made_and_timed(self) -> None:
        for calls, concurrency, size in [(1, 1, 1), (100, 1, 64), (100, 7, 64), (3, 64, 100_000)]:
            with self.subTest(calls=calls, concurrency=concurrency):
                load = Calls(calls, concurrency, size)
                run(load, ECHO, Echo)
                self.assertEqual(len(load.times), calls)
                self.assertTrue(all(time > 0 for time in load.times))

    def test_a_wrong_result_is_found(self) -> None:
        for make in (lambda: Upload(10), lambda: Download(10), lambda: Calls(10, 1, 64)):
            for service in (Liar, Mute):
                with self.subTest(make(), service=service), self.assertRaises(WrongResult):
                    run(make(), "service", service)

    def test_more_than_was_asked_for_is_found(self) -> None:
        with self.assertRaisesRegex(WrongResult, "more than 7 bytes"):
            run(Download(7), SOURCE, Liar)

    def test_a_broken_connection_is_an_error(self) -> None:
        for load in (Upload(1 << 30), Download(1 << 30), Calls(1 << 20, 1, 64)):
            with self.subTest(load=load):
                services = {DISCARD: Discard, SOURCE: Source, ECHO: Echo}
                pair = SessionPair(services=services, latency=0.01)
                name = {Upload: DISCARD, Download: SOURCE, Calls: ECHO}[type(load)]
                pair.run(pair.client.open(name, load))
                pair.advance(0.1)
                pair.cut()
                with self.assertRaises(SessionCut):
                    pair.run(load.finished)


class Recorder(ChannelProtocol):
    """Notes when each message comes, and ends when the client does."""

    times: list[float]

    def message_received(self, message: bytes) -> None:
        self.times.append(self.channel.session.clock.seconds())


class EventsTests(unittest.TestCase):
    def open(
        self, service: type[ChannelProtocol], count: int, rate: float, size: int = 200
    ) -> tuple[SessionPair, Events]:
        pair = SessionPair(services={LATENCY: service})
        load = Events(pair.clock, Pace(rate, count), size)
        pair.run(pair.client.open(LATENCY, load))
        return pair, load

    def test_every_event_is_timed(self) -> None:
        for count in (1, 2, 100):
            with self.subTest(count):
                pair, load = self.open(Latency, count, 1000)
                pair.advance(count / 1000)
                self.assertGreater(pair.run(load.finished), 0)
                self.assertEqual(len(load.latencies), count)
                pair.run(pair.client.close())

    def test_they_leave_at_a_steady_pace(self) -> None:
        Recorder.times = []
        pair, load = self.open(Recorder, 51, 100)
        begun = pair.clock.seconds()
        for _ in range(30):
            pair.advance(0.017)
        pair.run(load.finished)
        self.assertEqual(len(Recorder.times), 51)
        for number, time in enumerate(Recorder.times):
            self.assertAlmostEqual(time - begun, number / 100, delta=0.002)

    def test_wrong_answers_are_found(self) -> None:
        for service, words in ((Liar, "more than"), (Mute, "too early")):
            pair, load = self.open(service, 1000, 100)
            pair.advance(0.1)
            with self.subTest(service), self.assertRaises(JetStreamError) as raised:
                pair.run(load.finished)
            self.assertIn(words, str(raised.exception))
            pair.run(pair.client.close())
            self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_broken_connection_stops_it(self) -> None:
        pair, load = self.open(Latency, 1000, 100)
        pair.advance(0.1)
        pair.cut()
        with self.assertRaises(SessionCut):
            pair.run(load.finished)
        self.assertEqual(pair.clock.getDelayedCalls(), [])
