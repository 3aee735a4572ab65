"""Channels that are gone leave nothing: ten thousand of them, ended in every way there is."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ChannelReset, SessionClosed, SessionCut
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session, SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from tests.doubles import Recorder, make_pair, noise


def alive(*kinds: type) -> dict[str, int]:
    """How many objects of these types there are."""
    gc.collect()
    return dict(Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds))


def footprint(session: Session) -> int:
    """The size of the containers that a session, and what belongs to it, holds."""
    seen: set[int] = set()
    waiting: list[object] = [session]
    total = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict | list | set | tuple) or hasattr(one, "popleft"):
            total += sys.getsizeof(one)
            items = [*one.keys(), *one.values()] if isinstance(one, dict) else list(one)  # type: ignore[call-overload]
            waiting.extend(items)
        elif type(one).__module__.startswith("jetstreamproto.session"):
            for kind in type(one).__mro__:
                for name in getattr(kind, "__slots__", ()):
                    if name != "__weakref__" and hasattr(one, name):
                        waiting.append(getattr(one, name))
            waiting.extend(getattr(one, "__dict__", {}).values())
    return total


class Picky(Recorder):
    """Resets its channel as soon as a message comes."""

    def message_received(self, message: bytes) -> None:
        self.channel.reset(9, "no")


class ResidueTests(SynchronousTestCase):
    def setUp(self) -> None:
        gc.collect()

    def pair(self) -> SessionPair:
        return make_pair(
            {"echo": Echo, "picky": Picky}, settings=SessionSettings(max_channels=2000)
        )

    def run_through(self, pair: SessionPair, way: str, count: int) -> None:
        """Open `count` channels at once and see them end in that way."""
        opened: list[Deferred[Inbox]] = [
            pair.client.open(
                "picky" if way == "reset by peer" else way if way == "none" else "echo"
            )
            for _ in range(count)
        ]
        if way == "cancelled":
            for one in opened:
                one.addErrback(lambda _: None)
                one.cancel()
        for one in opened:
            if way == "none":
                self.assertRaises(ChannelReset, pair.run, one)
            elif way != "cancelled":
                channel = pair.run(one).channel
                channel.send(b"x")
                if way == "ended":
                    channel.end()
                elif way == "reset":
                    channel.reset()
                elif way == "held":
                    channel.pauseProducing()
                    channel.send(noise(3000))
                    channel.reset()
        pair.advance(0.1)
        self.assertEqual(pair.client.channels + pair.server.channels, ())

    def test_ten_thousand_channels_leave_no_residue(self) -> None:
        ways = ("ended", "reset", "reset by peer", "held", "none", "cancelled")
        of_others = alive(Channel)  # what tests before this one have left
        pair = self.pair()
        for way in ways:
            self.run_through(pair, way, 100)
        pair.advance(20)
        self.assertEqual(alive(Channel), of_others)
        before = alive(Channel, Inbox, Echo, Picky, Deferred)
        sizes = [footprint(side) for side in (pair.client, pair.server)]
        calls = len(pair.clock.getDelayedCalls())
        for _ in range(17):
            for way in ways:
                self.run_through(pair, way, 100)
        pair.advance(20)
        self.assertEqual(alive(Channel, Inbox, Echo, Picky, Deferred), before)
        self.assertEqual(len(pair.clock.getDelayedCalls()), calls)
        for side, size in zip((pair.client, pair.server), sizes, strict=True):
            self.assertLessEqual(footprint(side), size + 1000)
        self.assertIs(pair.client.state, SessionState.OPEN)

    def test_ten_thousand_channels_at_once(self) -> None:
        settings = SessionSettings(max_channels=20_000)
        pair = make_pair({"echo": Echo}, settings=settings)
        opened = [pair.client.open("echo") for _ in range(10_000)]
        for one in opened:
            one.addErrback(lambda failure: failure)
        pair.advance(5)
        self.assertIs(pair.client.state, SessionState.OPEN, str(pair.server.close_reason))
        for one in opened:
            self.successResultOf(one).channel.end()
        pair.advance(5)
        self.assertEqual(pair.client.channels + pair.server.channels, ())
        self.assertIs(pair.client.state, SessionState.OPEN)

    def test_ten_thousand_resets_at_once(self) -> None:
        settings = SessionSettings(max_channels=20_000)
        pair = make_pair({"echo": Echo}, settings=settings)
        for _ in range(20):
            opened = [pair.client.open("echo") for _ in range(500)]
            for one in opened:
                pair.run(one)
        for channel in pair.client.channels:
            channel.reset(1, "a reason that takes some room in every one of these packets")
        pair.advance(5)
        self.assertIs(pair.client.state, SessionState.OPEN, str(pair.server.close_reason))
        self.assertEqual(pair.client.channels + pair.server.channels, ())

    def test_a_closed_session_is_forgotten(self) -> None:
        known = []
        for how in ("close", "cut", "abort"):
            pair = self.pair()
            known += [weakref.ref(pair.client), weakref.ref(pair.server)]
            inbox = pair.run(pair.client.open("echo"))
            inbox.channel.send(b"x")
            opening, pinging = pair.client.open("echo"), pair.client.ping()
            for one in (opening, pinging):
                one.addErrback(lambda _: None)
            if how == "cut":
                pair.cut()
            else:
                getattr(pair.client, how)()
            pair.advance(30)
            self.assertEqual(pair.clock.getDelayedCalls(), [])
            self.assertEqual(pair.server_factory.sessions | pair.client_factory.sessions, set())
            del pair, inbox, opening, pinging, one
        gc.collect()
        self.assertEqual([one() for one in known if one() is not None], [])

    def test_a_session_that_is_over_is_in_no_cycle(self) -> None:
        for how in ("close", "cut", "abort"):
            pair = self.pair()
            inbox = pair.run(pair.client.open("echo"))
            inbox.channel.send(b"x")
            unanswered = pair.client.ping()
            unanswered.addErrback(lambda _: None)
            pair.cut() if how == "cut" else getattr(pair.client, how)()
            pair.advance(30)
            del inbox, unanswered
            own = {"Channel", "ChannelTable", "Departure", "TcpLink", "method"}
            for side, forbidden in ((pair.client, own | {"cell"}), (pair.server, own)):
                holders = {type(one).__qualname__ for one in gc.get_referrers(side)}
                self.assertEqual(holders & forbidden, set(), how)

    def test_a_channel_that_is_closed_goes_with_its_protocol(self) -> None:
        pair = self.pair()
        known = []
        gc.disable()
        self.addCleanup(gc.enable)
        for way in ("end", "reset"):
            inbox = pair.run(pair.client.open("echo"))
            known += [weakref.ref(inbox)]
            inbox.channel.send(b"x")
            getattr(inbox.channel, way)()
            pair.advance(1)
            self.assertEqual(pair.client.channels, ())
            del inbox
        self.assertEqual([one() for one in known if one() is not None], [])

    def test_what_is_closed_may_still_be_asked(self) -> None:
        pair = self.pair()
        inbox = pair.run(pair.client.open("echo"))
        channel, session = inbox.channel, pair.client
        pair.cut()
        pair.advance(1)
        channel.pauseProducing()
        channel.resumeProducing()
        channel.end()
        channel.reset()
        self.failureResultOf(channel.when_closed(), SessionCut)
        self.assertIn("closed", repr(channel))
        for gone in (session.close(), session.drain(), session.when_closed()):
            self.assertIsNone(self.successResultOf(gone))
        self.failureResultOf(session.open("echo"), SessionClosed)
        self.failureResultOf(session.ping(), SessionClosed)
        session.abort()
        self.assertEqual(session.channels, ())
        self.assertEqual(session.transport, "tcp")
        self.assertGreater(session.link.stats.bytes_sent, 0)
