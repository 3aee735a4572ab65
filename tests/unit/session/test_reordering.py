"""Links on which each channel is a stream of its own: what may overtake what, and what may not."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.errors import SessionClosed
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.introduction import MAX_EARLY_BYTES, MAX_EARLY_PACKETS
from jetstreamproto.session.session import SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.packet import Kind
from jetstreamproto.wire.session_messages import HELLO, OPEN, Mode, Open
from tests.doubles import HONEST, KIB, RawPeer, Recorder, Registry, cost, noise
from tests.shuffling import ShufflingPair
from tests.unit.session.test_hostile_peer import HostileCase


class StreamsCase(HostileCase):
    def peer(self, **options: Any) -> RawPeer:
        return super().peer(streams=True, **options)


class BeforeHelloTests(StreamsCase):
    def test_packets_that_overtook_the_hello_are_taken_after_it_and_in_order(self) -> None:
        peer = self.peer(client=True, hello=None)
        peer.open(4)
        peer.open(2)
        buffer = bytearray(b"first")
        peer.session.packets_received([(0, 4, Kind.DATA, 0, 0, memoryview(buffer))])
        buffer[:] = b"lost!"
        peer.data(4, 1, b"second")
        self.assertEqual(self.service.made, [])
        peer.hello()
        self.assertEqual([made.channel.id for made in self.service.made], [4, 2])
        self.assertEqual(self.service.made[0].messages, [b"first", b"second"])
        peer.data(4, 2, b"third")
        self.assertEqual(self.service.made[0].messages[2:], [b"third"])
        self.check_alive(peer)

    def test_in_one_batch_with_the_hello(self) -> None:
        peer = self.peer(client=True, hello=None)
        opening = (0, 2, Kind.OPEN, 0, 0, OPEN.encode(Open("record")))
        hello = (0, 0, Kind.HELLO, 0, 0, HELLO.encode(HONEST))
        peer.feed(opening, (0, 2, Kind.DATA, 0, 0, b"1"), hello, (1, 2, Kind.DATA, 0, 0, b"2"))
        self.assertEqual(self.service.made[0].messages, [b"1", b"2"])
        self.check_alive(peer)

    def test_they_wait_while_the_client_is_judged(self) -> None:
        for at_once in (False, True):
            with self.subTest(at_once=at_once):
                peer = self.peer(hello=None)
                verdict: Deferred[object] = Deferred()
                peer.host.verdict = lambda hello, verdict=verdict: verdict
                if at_once:
                    verdict.callback("avatar")
                    peer.open(1)
                peer.hello()
                if not at_once:
                    peer.open(1)
                    peer.data(1, 0, b"early")
                    verdict.callback("avatar")
                else:
                    peer.data(1, 0, b"early")
                self.assertEqual(self.service.made[-1].messages, [b"early"])
                peer.settle()
                self.assertEqual(len(peer.sent(Kind.ACCEPT)), 1)
                self.check_alive(peer)

    def test_who_is_turned_away_has_waited_for_nothing(self) -> None:
        peer = self.peer(hello=None)
        verdict: Deferred[object] = Deferred()
        peer.host.verdict = lambda hello: verdict
        peer.hello()
        peer.open(1)
        verdict.errback(ValueError("no"))
        peer.settle()
        self.assertEqual(self.service.made, [])
        self.assertEqual(peer.sent(Kind.GOAWAY)[0].code, ResetCode.NOT_ALLOWED)
        peer.clock.advance(9)
        peer.end_session()
        self.assertIs(peer.session.state, SessionState.CLOSED)
        self.assertEqual(peer.clock.getDelayedCalls(), [])

    def test_what_violates_the_protocol_does_so_afterwards(self) -> None:
        peer = self.peer(client=True, hello=None)
        peer.data(2, 0, b"never opened")
        peer.hello()
        self.check_violated(peer, "2")
        peer = self.peer(hello=None)
        verdict: Deferred[object] = Deferred()
        peer.host.verdict = lambda hello: verdict
        peer.hello()
        peer.data(1, 0)
        verdict.callback(None)
        self.check_violated(peer, "1")

    def test_too_many_and_too_large(self) -> None:
        for size, number in ((64 * KIB, MAX_EARLY_BYTES // (64 * KIB)), (0, MAX_EARLY_PACKETS)):
            for client in (True, False):
                with self.subTest(size=size, client=client):
                    peer = self.peer(client=client, hello=None)
                    for seq in range(number):
                        peer.data(2, seq, bytes(size))
                    self.assertTrue(peer.link.open)
                    peer.data(2, number, bytes(size))
                    self.check_violated(peer, "HELLO")

    def test_the_sessions_own_stream_is_in_order(self) -> None:
        for kind in (Kind.PING, Kind.CREDIT, Kind.PONG, Kind.OPEN, Kind.DATA):
            peer = self.peer(hello=None)
            peer.control(kind)
            self.check_violated(peer, "before HELLO")

    def test_on_one_stream_nothing_comes_before_hello(self) -> None:
        peer = RawPeer({"record": self.service}, client=True, hello=None)
        peer.open(2)
        self.check_violated(peer, "before HELLO")


class NumberTests(StreamsCase):
    def test_opens_come_in_any_order_and_each_number_once(self) -> None:
        peer = self.peer()
        for number in (5, 1, 9, 3):
            peer.open(number)
            peer.data(number, 0, b"%d" % number)
        messages = [message for made in self.service.made for message in made.messages]
        self.assertEqual(messages, [b"5", b"1", b"9", b"3"])
        self.check_alive(peer)
        for again in (5, 1, 9, 3):
            other = self.peer()
            for number in (5, 1, 9, 3):
                other.open(number)
            other.open(again)
            self.check_violated(other, str(again))

    def test_numbers_of_the_other_side(self) -> None:
        for client, numbers in ((False, (0, 2, 2**32 - 2)), (True, (0, 1, 2**32 - 1))):
            for number in numbers:
                peer = self.peer(client=client)
                peer.open(number)
                self.check_violated(peer, str(number))

    def test_packets_for_channels_that_never_were_though_later_ones_are(self) -> None:
        for kind in (Kind.DATA, Kind.END, Kind.RESET, Kind.CREDIT, Kind.ACCEPT):
            for number in (0, 2, 3, 7):
                if kind == Kind.CREDIT and not number:
                    continue
                with self.subTest(kind=kind.name, number=number):
                    peer = self.peer()
                    peer.open(1)
                    peer.open(5)
                    peer.control(kind, number)
                    self.check_violated(peer)

    def test_late_packets_for_channels_that_are_gone_or_were_refused(self) -> None:
        peer = self.peer()
        peer.open(5)
        peer.open(1, "unknown")
        self.service.made[0].channel.reset()
        for number in (1, 5):
            for kind in (Kind.DATA, Kind.CREDIT, Kind.END, Kind.RESET, Kind.ACCEPT):
                peer.control(kind, number, seq=12)
            peer.dropped(number, 13, 1000)
        self.check_alive(peer)
        self.assertEqual(peer.session.intake.credit._consumed, 2 * (cost(0) + cost(1000)))

    def test_gaps_in_the_numbers_are_bounded(self) -> None:
        peer = self.peer()
        for number in range(1, 4 * 4096, 4):
            peer.open(number, "unknown")
            peer.settle()
        self.check_alive(peer)
        for number in range(3, 4 * 4096, 4):  # closing gaps is no fault
            peer.open(number, "unknown")
            peer.settle()
        for number in range(100_001, 100_001 + 4 * 4095, 4):
            peer.open(number, "unknown")
            peer.settle()
        self.assertTrue(peer.link.open)
        peer.open(1_000_001, "unknown")
        self.check_violated(peer, "out")

    def test_goaway_names_the_highest_number(self) -> None:
        peer = self.peer()
        for number in (3, 9, 5):
            peer.open(number)
        peer.session.drain()
        peer.settle()
        self.assertEqual(peer.sent(Kind.GOAWAY)[0].seq, 9)

    def test_an_open_that_overtook_the_end_of_another_channel_is_let_in(self) -> None:
        settings = SessionSettings(max_channels=2)
        peer = self.peer(settings=settings)
        peer.open(1)
        peer.open(3)
        peer.open(5)
        peer.settle()
        self.assertEqual([one.channel for one in peer.sent(Kind.RESET)], [5])
        for made in self.service.made:
            made.channel.end()
        for number in (7, 9, 11):
            peer.open(number)
        peer.settle()
        self.assertEqual([one.channel for one in peer.sent(Kind.ACCEPT)], [1, 3, 7, 9])
        self.assertEqual([one.channel for one in peer.sent(Kind.RESET)], [5, 11])
        for number in (1, 3):
            peer.control(Kind.END, number)
        peer.open(13)
        peer.settle()
        self.assertEqual([one.channel for one in peer.sent(Kind.RESET)], [5, 11, 13])

    def test_on_one_stream_ends_are_not_overtaken(self) -> None:
        peer = RawPeer({"record": self.service}, settings=SessionSettings(max_channels=1))
        peer.open(1)
        self.service.made[0].channel.end()
        peer.open(3)
        peer.settle()
        self.assertEqual([one.channel for one in peer.sent(Kind.RESET)], [3])


class GoawayTests(StreamsCase):
    def test_an_open_that_was_overtaken_is_accepted_and_told(self) -> None:
        for first in (None, 5):
            with self.subTest(first=first):
                peer = self.peer()
                if first:
                    peer.open(first)
                    self.service.made[-1].channel.end()
                peer.control(Kind.GOAWAY, code=ResetCode.GOING_AWAY)
                if first:
                    peer.control(Kind.END, first)
                peer.settle()
                self.assertIs(peer.session.state, SessionState.DRAINING)
                self.assertFalse(peer.link.closed)
                peer.open(1)
                mine = self.service.made[-1]
                self.assertEqual(mine.events, ["opened", "closing"])
                peer.data(1, 0, b"the last")
                peer.control(Kind.END, 1, seq=1)
                mine.channel.end()
                peer.settle()
                self.assertEqual(mine.events[2:], ["message", "end", "closed"])
                self.assertFalse(peer.link.closed)
                peer.end_session()
                self.assertIs(peer.session.state, SessionState.CLOSED)
                self.assertIsNone(peer.session.close_reason)

    def test_who_was_told_to_go_may_want_to_himself(self) -> None:
        for how in ("close", "drain"):
            peer = self.peer()
            peer.control(Kind.GOAWAY)
            getattr(peer.session, how)()
            peer.settle()
            self.assertIs(peer.session.state, SessionState.ENDING)
            self.assertTrue(peer.link.closed)

    def test_who_goes_accepts_nothing(self) -> None:
        peer = self.peer()
        peer.open(3)
        peer.session.drain()
        peer.open(1)
        peer.settle()
        (reset,) = peer.sent(Kind.RESET)
        self.assertEqual((reset.channel, reset.code), (1, ResetCode.GOING_AWAY))
        self.service.made[0].channel.reset()
        peer.settle()
        self.assertTrue(peer.link.closed)

    def test_nothing_is_opened_from_here_after_it(self) -> None:
        peer = self.peer()
        peer.control(Kind.GOAWAY)
        self.failureResultOf(peer.session.open("x"), SessionClosed)

    def test_open_and_drain_at_once_lets_the_channel_finish(self) -> None:
        for seed in range(40):
            with self.subTest(seed=seed):
                pair = ShufflingPair({"echo": Echo}, seed=seed)
                mine = Recorder(stay=True)
                opened = pair.client.open("echo", mine)
                mine.channel.send(b"hello")
                mine.channel.end()
                gone = pair.client.drain()
                pair.run(opened)
                pair.run(gone)
                pair.run(pair.server.when_closed())
                self.assertEqual(mine.messages, [b"hello"])
                self.assertIsNone(pair.client.close_reason)
                self.assertIsNone(pair.server.close_reason)
                pair.advance(1)
                self.assertEqual(pair.clock.getDelayedCalls(), [])


class LinkTests(StreamsCase):
    """What a session tells a link about its channels."""

    def test_modes_are_told_where_they_matter(self) -> None:
        peer = self.peer()
        peer.open(1)
        peer.open(3, mode=Mode.UNORDERED)
        peer.open(5, mode=Mode.EXPIRING, deadline_ms=1500)
        peer.open(7, deadline_ms=20)
        peer.open(9, "unknown", mode=Mode.UNORDERED)
        for mode, deadline in ((Mode.ORDERED, None), (Mode.EXPIRING, 0.0011)):
            opening = peer.session.open("x", mode=mode, deadline=deadline)
            opening.addErrback(lambda _: None)
        self.assertEqual(
            peer.link.modes,
            {
                3: (Mode.UNORDERED, None),
                5: (Mode.EXPIRING, 1.5),
                7: (Mode.ORDERED, 0.02),
                4: (Mode.EXPIRING, 0.002),
            },
        )

    def test_a_channel_ends_once_and_after_its_last_packet(self) -> None:
        peer = self.peer()
        peer.block()
        peer.open(1, "unknown")
        peer.open(3)
        self.service.made[-1].channel.reset(9)
        peer.open(5)
        peer.control(Kind.RESET, 5)
        peer.open(7)
        self.service.made[-1].channel.send(b"x")
        self.service.made[-1].channel.end()
        peer.control(Kind.END, 7)
        opening = peer.session.open("x")
        opening.addErrback(lambda _: None)
        opening.cancel()
        self.assertEqual(peer.link.ended, [])
        peer.unblock()
        peer.settle()
        self.assertEqual(sorted(peer.link.ended), [1, 2, 3, 5, 7])
        self.assertEqual(sorted({one.channel for one in peer.link.sent}), [0, 1, 2, 3, 5, 7])
        peer.control(Kind.RESET, 7)
        peer.control(Kind.RESET, 2)
        peer.settle()
        self.assertEqual(len(peer.link.ended), 5)

    def test_one_stream_is_told_nothing(self) -> None:
        peer = RawPeer({"record": self.service})
        peer.open(1, mode=Mode.UNORDERED)
        self.service.made[0].channel.reset()
        peer.open(3, "unknown")
        peer.settle()
        self.assertEqual((peer.link.modes, peer.link.ended), ({}, []))

    def test_every_channel_of_a_busy_session_ends_in_both_directions(self) -> None:
        for seed in range(12):
            with self.subTest(seed=seed):
                chance = random.Random(seed)
                services = {"echo": Echo, "stay": lambda: Recorder(stay=True)}
                pair = ShufflingPair(services, dict(services), seed=seed)
                opened = []
                for _ in range(40):
                    side = chance.choice((pair.client, pair.server))
                    mode, deadline = chance.choice(
                        ((Mode.ORDERED, None), (Mode.UNORDERED, None), (Mode.EXPIRING, 1.0))
                    )
                    mine = Recorder(stay=True)
                    opening = side.open(
                        chance.choice(("echo", "stay", "none")), mine, mode=mode, deadline=deadline
                    )
                    opening.addErrback(lambda _: None)
                    mine.channel.send(noise(chance.choice((0, 10, 100_000))))
                    opened.append(mine)
                    what = chance.randrange(5)
                    if what == 0:
                        opening.cancel()
                    elif what == 1:
                        mine.channel.reset()
                    elif what == 2:
                        mine.channel.end()
                    pair.advance(chance.choice((0.0, 0.001, 0.02)))
                for channel in (*pair.client.channels, *pair.server.channels):
                    channel.end()
                pair.advance(5)
                for channel in pair.client.channels:
                    channel.reset()
                pair.advance(5)
                self.assertEqual(pair.client.channels + pair.server.channels, ())
                for session, link in (
                    (pair.client, pair.client_link),
                    (pair.server, pair.server_link),
                ):
                    self.assertIs(session.state, SessionState.OPEN)
                    self.assertEqual(link.used - {0}, link.ended)
                    credit = session.intake.credit
                    self.assertEqual(credit._received, credit._consumed)
                    self.assertEqual(session.intake._assembled, 0)
                    self.assertEqual(session.intake._held, 0)

    def test_the_round_trip_of_the_link_lets_windows_grow(self) -> None:
        for rtt, grows in ((0.1, True), (0.001, False)):
            with self.subTest(rtt=rtt):
                peer = self.peer()
                peer.link.rtt = rtt
                peer.open(1)
                for seq in range(100):
                    peer.data(1, seq, bytes(64 * KIB))
                    peer.clock.advance(0.01)
                credits = [one.seq for one in peer.sent(Kind.CREDIT, 1)]
                steps = [b - a for a, b in pairwise(credits)]
                self.assertEqual(max(steps) > 1_100_000, grows)
                self.assertEqual(peer.sent(Kind.PING), [])


class SynchronousLossTests(StreamsCase):
    """A link may say that it is lost while it is being told to fail."""

    def test_an_abort_within_a_message(self) -> None:
        pair = ShufflingPair({"service": Registry(lambda: Aborting())})
        mine = pair.run(pair.client.open("service", Recorder()))
        for _ in range(5):
            mine.channel.send(b"abort")
        pair.run(pair.server.when_closed())
        pair.run(pair.client.when_closed())
        self.assertIsNotNone(mine.reason)
        pair.advance(1)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_violation(self) -> None:
        pair = ShufflingPair({})
        payload = memoryview(b"")
        pair.server.packets_received([(0, 99, Kind.DATA, 0, 0, payload)] * 3)
        self.assertIs(pair.server.state, SessionState.CLOSED)
        pair.run(pair.client.when_closed())
        pair.advance(1)
        self.assertEqual(pair.clock.getDelayedCalls(), [])


class Aborting(Recorder):
    def message_received(self, message: bytes) -> None:
        self.channel.session.abort()
