"""`Channel.before_sending`: what collects in a turn of the reactor, and leaves together."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ChannelClosed, ChannelReset, QueueFull
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from tests.doubles import make_pair


class Collecting(Inbox):
    """Answers all messages of a turn with one, that they are in one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.collected = b""

    def message_received(self, message: bytes) -> None:
        if not self.collected:
            self.channel.before_sending(self.answer)
        self.collected += message

    def answer(self) -> None:
        self.channel.send(self.collected)
        self.collected = b""


class BeforeSendingTests(SynchronousTestCase):
    def open(self, settings: SessionSettings | None = None) -> tuple[SessionPair, Inbox]:
        pair = make_pair({"echo": Echo}, **({"settings": settings} if settings else {}))
        inbox: Inbox = pair.run(pair.client.open("echo"))
        return pair, inbox

    def test_it_is_called_once_and_what_it_sends_goes_along(self) -> None:
        pair, inbox = self.open()
        calls: list[int] = []

        def call() -> None:
            calls.append(1)
            inbox.channel.send(b"late")

        inbox.channel.before_sending(call)
        inbox.channel.send(b"early")
        self.assertEqual(calls, [])
        sent = pair.client_transport.sent
        self.assertEqual([pair.run(inbox.get()) for _ in range(2)], [b"early", b"late"])
        self.assertLess(pair.client_transport.sent - sent, 300)
        pair.advance(5)
        self.assertEqual(calls, [1])

    def test_a_turn_in_which_something_arrives_is_one_turn(self) -> None:
        pair = make_pair({"collecting": Collecting})
        inbox: Inbox = pair.run(pair.client.open("collecting"))
        for message in (b"a", b"b", b"c"):
            inbox.channel.send(message)
        self.assertEqual(pair.run(inbox.get()), b"abc")

    def test_what_asks_again_while_it_is_called_is_called_again(self) -> None:
        pair, inbox = self.open()
        calls: list[int] = []

        def call() -> None:
            calls.append(len(calls))
            if len(calls) < 3:
                inbox.channel.before_sending(call)

        inbox.channel.before_sending(call)
        pair.advance(1)
        self.assertEqual(calls, [0, 1, 2])

    def test_it_waits_for_the_link(self) -> None:
        pair, inbox = self.open()
        calls: list[int] = []
        pair.client_transport.pause()
        inbox.channel.send(bytes(1 << 20))
        pair.advance(0.1)
        inbox.channel.before_sending(lambda: calls.append(1))
        pair.advance(0.1)
        self.assertEqual(calls, [])
        pair.client_transport.resume()
        pair.advance(0.1)
        self.assertEqual(calls, [1])

    def test_it_raises_as_send_does(self) -> None:
        _, inbox = self.open(SessionSettings(send_limit=1000, high_water=1))
        inbox.channel.send(bytes(1000))
        self.assertRaises(QueueFull, inbox.channel.before_sending, lambda: None)
        inbox.channel.reset()
        self.assertRaises(ChannelClosed, inbox.channel.before_sending, lambda: None)

    def test_what_it_raises_resets_its_channel_only(self) -> None:
        pair, inbox = self.open()
        other: Inbox = pair.run(pair.client.open("echo"))

        def call() -> None:
            raise LookupError("the application's fault")

        inbox.channel.before_sending(call)
        other.channel.send(b"alive")
        self.assertEqual(pair.run(other.get()), b"alive")
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        with self.assertRaises(ChannelReset) as raised:
            pair.run(inbox.get())
        self.assertEqual(raised.exception.code, ResetCode.INTERNAL_ERROR)

    def test_there_is_no_call_when_the_session_has_broken(self) -> None:
        pair, inbox = self.open()
        calls: list[int] = []
        inbox.channel.before_sending(lambda: calls.append(1))
        pair.cut()
        pair.advance(1)
        self.assertEqual(calls, [])
