from __future__ import annotations

import unittest

from jetstreamproto.errors import ChannelClosed, ChannelReset
from jetstreamproto.services.source import MAX_BYTES, MAX_SIZE, SOURCE, Source, source_request
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.testing import SessionPair


class SourceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.pair = SessionPair(services={SOURCE: Source})
        self.inbox: Inbox = self.pair.run(self.pair.client.open(SOURCE))

    def messages(self) -> list[bytes]:
        received = []
        while True:
            try:
                received.append(self.pair.run(self.inbox.get()))
            except ChannelClosed:
                return received

    def test_it_sends_what_was_asked_for_and_ends(self) -> None:
        self.inbox.channel.send(source_request(2500, 1000))
        self.assertEqual([len(message) for message in self.messages()], [1000, 1000, 500])

    def test_it_goes_on_when_the_client_has_ended_its_direction(self) -> None:
        self.inbox.channel.send(source_request(1 << 22, 1 << 16))
        self.inbox.channel.end()
        self.assertEqual(sum(map(len, self.messages())), 1 << 22)
        self.pair.run(self.inbox.channel.when_closed())

    def test_nothing_can_be_asked_for(self) -> None:
        self.inbox.channel.send(source_request(0, 1))
        self.assertEqual(self.messages(), [])

    def test_an_end_without_a_request_ends_it(self) -> None:
        self.inbox.channel.end()
        self.pair.run(self.inbox.channel.when_closed())

    def test_it_sends_no_faster_than_the_client_takes(self) -> None:
        self.inbox.channel.pauseProducing()
        self.inbox.channel.send(source_request(1 << 30, 1 << 16))
        self.pair.advance(60)
        window = self.pair.client.settings.channel_window
        self.assertLess(self.pair.server_transport.sent, window + (1 << 20))
        (channel,) = self.pair.server.channels
        self.assertLess(channel.queued, 1 << 20)

    def test_a_request_out_of_bounds_resets_the_channel(self) -> None:
        for request, code in [
            (b"", ResetCode.BAD_MESSAGE),
            (bytes(15), ResetCode.BAD_MESSAGE),
            (bytes(17), ResetCode.BAD_MESSAGE),
            (source_request(1, 0), ResetCode.LIMIT_EXCEEDED),
            (source_request(1, MAX_SIZE + 1), ResetCode.LIMIT_EXCEEDED),
            (source_request(MAX_BYTES + 1, 1), ResetCode.LIMIT_EXCEEDED),
        ]:
            with self.subTest(request):
                inbox: Inbox = self.pair.run(self.pair.client.open(SOURCE))
                inbox.channel.send(request)
                with self.assertRaises(ChannelReset) as raised:
                    self.pair.run(inbox.get())
                self.assertEqual(raised.exception.code, code)

    def test_a_second_request_resets_the_channel(self) -> None:
        self.inbox.channel.send(source_request(1 << 30, 1 << 16))
        self.inbox.channel.send(source_request(1, 1))
        with self.assertRaises(ChannelReset) as raised:
            while True:
                self.pair.run(self.inbox.get())
        self.assertEqual(raised.exception.code, ResetCode.BAD_MESSAGE)
