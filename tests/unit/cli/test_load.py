from __future__ import annotations

import unittest

from jetstreamproto.cli.load import BULK_SIZE, Calls, Download, Load, Upload, WrongResult
from jetstreamproto.errors import SessionCut
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
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
