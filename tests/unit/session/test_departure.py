"""Departure: what a side says when it goes, and when it need not say it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import SessionState
from jetstreamproto.wire.packet import Kind
from tests.doubles import RawPeer


class FarewellTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.peer = RawPeer(client=True)
        inbox = Inbox()
        self.opening = self.peer.session.open("echo", inbox)
        self.opening.addErrback(lambda _: None)
        inbox.channel.send(b"1")
        inbox.channel.end()
        self.answer = inbox.get()
        self.peer.settle()

    def last_packets(self) -> list[tuple[int, int, int, int, int, bytes]]:
        """The echo's answer and its end."""
        return [
            (0, 1, Kind.ACCEPT, 0, 0, b""),
            (0, 1, Kind.DATA, 0, 0, b"1"),
            (1, 1, Kind.END, 0, 0, b""),
        ]

    def test_no_goaway_where_the_end_says_it_all(self) -> None:
        self.answer.addCallback(lambda _: self.peer.session.close())
        self.peer.feed(*self.last_packets())
        self.peer.settle()
        self.assertEqual(self.peer.sent(Kind.GOAWAY), [])
        self.assertTrue(self.peer.link.closed)
        self.peer.end_session()
        self.assertIs(self.peer.session.state, SessionState.CLOSED)
        self.assertIsNone(self.peer.session.close_reason)

    def test_goaway_while_a_channel_is_open(self) -> None:
        self.answer.addCallback(lambda _: self.peer.session.close())
        self.peer.feed(*self.last_packets()[:2])
        self.peer.settle()
        self.assertEqual([one.code for one in self.peer.sent(Kind.GOAWAY)], [ResetCode.NO_ERROR])
        self.assertFalse(self.peer.link.closed)
        self.peer.feed(*self.last_packets()[2:])
        self.peer.settle()
        self.assertTrue(self.peer.link.closed)

    def test_a_reason_is_always_told(self) -> None:
        self.answer.addCallback(lambda _: self.peer.session.drain("good night"))
        self.peer.feed(*self.last_packets())
        self.peer.settle()
        (goaway,) = self.peer.sent(Kind.GOAWAY)
        self.assertEqual((goaway.code, goaway.payload), (ResetCode.GOING_AWAY, b"good night"))
        self.assertTrue(self.peer.link.closed)

    def test_what_else_waits_is_sent(self) -> None:
        def leave(_: bytes) -> None:
            self.peer.control(Kind.PING, seq=7)
            self.peer.session.close()

        self.answer.addCallback(leave)
        self.peer.feed(*self.last_packets())
        self.peer.settle()
        self.assertEqual([one.seq for one in self.peer.sent(Kind.PONG)], [7])
        self.assertEqual(self.peer.sent(Kind.GOAWAY), [])
        self.assertTrue(self.peer.link.closed)
