"""Ends of sessions over UDP: graceful ones, cuts, and what is left of either."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

from jetstreamproto.errors import (
    JetStreamError,
    PeerSilent,
    ProtocolViolation,
    SessionClosed,
    SessionCut,
)
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.datagram_pair import CLIENT, SERVER, SERVER_PORT
from jetstreamproto.wire.packet import encode_head
from tests.doubles import noise
from tests.scenarios.udp_pairs import WAN, UdpPair, UdpTestCase, outcome, recorded, settings

NEAR = LinkOptions(delay=0.02)
DATA = noise(200_000)


class GracefulTests(UdpTestCase):
    def close(self, pair: UdpPair, sides: tuple[str, ...]) -> None:
        for side in sides:
            getattr(pair, side).close()
        self.assertEqual(pair.closed(), (None, None))
        self.assert_nothing_left(pair)

    def test_under_loss(self) -> None:
        """Both sides end cleanly, whichever of them wants it, or both."""
        for seed in range(60):
            loss = (0.1, 0.2, 0.3)[seed % 3]
            sides = (("client",), ("server",), ("client", "server"))[seed // 3 % 3]
            with self.subTest(seed=seed, loss=loss, sides=sides):
                pair = UdpPair(link=replace(NEAR, loss=loss), seed=seed)
                self.assertEqual(pair.ask(DATA), DATA)
                self.close(pair, sides)

    def test_with_fec_that_still_waits_for_repairs(self) -> None:
        """What is left to FEC for a while must come before the end does."""
        for seed in range(30):
            with self.subTest(seed=seed):
                options = settings(fec=("10+2", "2+1", "4+4")[seed % 3])
                link = replace(NEAR, loss=0.25)
                pair = UdpPair(link=link, seed=seed, datagrams=options)
                inbox = pair.open("sink")
                for number in range(20):
                    inbox.channel.send(noise(1000, number))
                pair.client.close()
                self.assertEqual(pair.closed(), (None, None))
                self.assertEqual(pair.received, b"".join(noise(1000, n) for n in range(20)))
                self.assert_nothing_left(pair)

    def test_the_links_end_does_not_overtake_what_waits_for_repairs(self) -> None:
        for seed in range(30):
            with self.subTest(seed=seed):
                options = settings(fec=("10+2", "2+1", "4+4")[seed % 3])
                link = replace(NEAR, loss=0.25)
                pair = UdpPair(link=link, seed=seed, datagrams=options)
                inbox = pair.open("sink")
                inbox.channel.when_closed().addErrback(lambda failure: None)
                for number in range(20):
                    inbox.channel.send(noise(1000, number))
                pair.advance(0)
                pair.client.link.close()
                server = pair.server
                while server.channels and server.close_reason is None:
                    pair.advance(0.05)
                self.assertEqual(pair.received, b"".join(noise(1000, n) for n in range(20)))

    def test_everything_that_was_sent_arrives_first(self) -> None:
        for seed in range(10):
            with self.subTest(seed=seed):
                pair = UdpPair(link=replace(WAN, loss=0.05), seed=seed)
                inbox = pair.open("sink")
                inbox.channel.send(DATA)
                self.close(pair, ("client",))
                self.assertEqual(pair.received, DATA)

    def test_the_last_word_is_lost(self) -> None:
        """The peer has gone, and what it had said last never came."""
        for lost in range(1, 6):
            with self.subTest(lost=lost):
                pair = UdpPair(link=NEAR, seed=lost)
                connection, left = pair.connection("client"), [lost]

                def drop(datagram: Any, connection: Any = connection, left: Any = left) -> bool:
                    if not connection.closed or datagram.source[0] != CLIENT:
                        return True
                    left[0] -= 1
                    return bool(left[0] < 0)

                pair.net.tap = drop
                pair.client.close()
                self.assertEqual(pair.closed(), (None, None))
                self.assert_nothing_left(pair)

    def test_the_peer_has_gone_before_its_last_word_came(self) -> None:
        pair = UdpPair(link=NEAR, seed=1)
        connection = pair.connection("client")
        pair.net.tap = lambda datagram: datagram.source[0] != CLIENT or not connection.closed
        pair.client.close()
        self.assertEqual(pair.closed(), (None, None))
        self.assertLess(pair.clock.seconds(), 9.5)
        self.assert_nothing_left(pair)

    def test_draining(self) -> None:
        pair = UdpPair(link=replace(NEAR, loss=0.1), seed=3)
        inbox = pair.open("echo")
        drained = outcome(pair.server_factory.drain())
        inbox.channel.send(DATA)
        self.assertEqual(pair.run(inbox.get()), DATA)
        inbox.channel.end()
        self.assertEqual(pair.closed(), (None, None))
        self.assertTrue(drained)
        self.assert_nothing_left(pair)


class CutTests(UdpTestCase):
    def test_an_abort_is_seen_as_a_cut(self) -> None:
        for seed in range(10):
            for side, other in (("client", "server"), ("server", "client")):
                with self.subTest(seed=seed, side=side):
                    pair = UdpPair(link=NEAR, seed=seed)
                    inbox = pair.open("echo")
                    closed = outcome(inbox.channel.when_closed())
                    getattr(pair, side).abort()
                    pair.advance(1.0)
                    self.assertIsInstance(getattr(pair, other).close_reason, SessionCut)
                    self.assertIn("dropped", str(getattr(pair, other).close_reason))
                    self.assertIsInstance(getattr(pair, side).close_reason, SessionCut)
                    self.assertTrue(issubclass(closed[0].type, JetStreamError))
                    self.assert_nothing_left(pair)

    def test_under_loss_the_cut_is_told_when_the_peer_asks(self) -> None:
        told = 0
        for seed in range(20):
            with self.subTest(seed=seed):
                pair = UdpPair(link=replace(NEAR, loss=0.3), seed=seed)
                pair.start_transfer(DATA).channel.when_closed().addErrback(lambda failure: None)
                pair.advance(0.1)
                pair.server.abort()
                pair.run(pair.client.when_closed())
                told += "dropped" in str(pair.client.close_reason)
                self.assertIsInstance(pair.client.close_reason, SessionCut)
                self.assert_nothing_left(pair)
        self.assertGreater(told, 17)

    def test_the_reason_reaches_the_peer(self) -> None:
        for seed in range(10):
            with self.subTest(seed=seed):
                pair = UdpPair(link=NEAR, seed=seed)
                pair.client.link.send_packet(encode_head(0, 0, 99, 0, 0, 0), b"", 0)
                pair.client.link.flush()
                pair.run(pair.client.when_closed())
                self.assertIsInstance(pair.server.close_reason, ProtocolViolation)
                self.assertIn(str(pair.server.close_reason), str(pair.client.close_reason))
                self.assert_nothing_left(pair)

    def test_a_reason_is_shown_as_text(self) -> None:
        pair = UdpPair(link=NEAR)
        pair.client.link.fail(ProtocolViolation("a\x1b[31m\nbell\x07 " + 500 * "\N{SNOWMAN}"))
        pair.advance(1.0)
        reason = str(pair.server.close_reason)
        self.assertTrue(reason.isprintable())
        self.assertLess(len(reason), 400)

    def test_a_server_that_has_forgotten_everything(self) -> None:
        pair = UdpPair(link=NEAR, seed=1)
        inbox = pair.open("echo")
        closed = outcome(inbox.channel.when_closed())
        for link in pair.server_protocol.links:
            link.forget()
        inbox.channel.send(DATA)
        pair.run(pair.client.when_closed())
        self.assertIsInstance(pair.client.close_reason, PeerSilent)
        self.assertLess(pair.clock.seconds(), 46.0)
        self.assertTrue(closed)
        self.assert_nothing_left(pair)


class StopTests(UdpTestCase):
    def test_it_fires_when_nobody_is_to_be_answered(self) -> None:
        for side in ("client", "server"):
            pair = UdpPair(link=NEAR, seed=2)
            protocol = getattr(pair, f"{side}_protocol")
            more = [
                pair.client_protocol.connect(SERVER, SERVER_PORT, pair.client_factory)
                for _ in range(3)
            ]
            for session in more:
                outcome(session.when_connected())
            pair.advance(0.03)
            stopped = outcome(protocol.stop())
            self.assertEqual(stopped, [])
            pair.advance(11.0)
            self.assertEqual(stopped, [None])
            self.assertEqual(protocol.links, [])
            self.assertEqual(outcome(protocol.stop()), [None])
            self.assert_nothing_left(pair)

    def test_a_port_that_is_closed(self) -> None:
        pair = UdpPair(link=NEAR, seed=2)
        pair.client_port.stopListening()
        pair.advance(0)
        self.assertIsInstance(pair.client.close_reason, SessionCut)
        pair.server.abort()
        self.assert_nothing_left(pair)

    def test_closing_at_any_moment_of_a_transfer(self) -> None:
        for step in range(30):
            for how in ("close", "abort"):
                with self.subTest(step=step, how=how):
                    impatient = SessionSettings(compression=None, drain_timeout=1.0)
                    pair = UdpPair(link=replace(NEAR, loss=0.1), seed=step, settings=impatient)
                    inbox = pair.open("echo")
                    inbox.channel.when_closed().addErrback(lambda failure: None)
                    inbox.channel.send(DATA)
                    pair.advance(0.005 * step)
                    getattr(pair.server if step % 2 else pair.client, how)()
                    pair.closed()
                    self.assert_nothing_left(pair)


class ManySessionsTests(UdpTestCase):
    def test_two_hundred_on_one_port(self) -> None:
        pair = UdpPair(link=replace(NEAR, loss=0.02), seed=1)
        sessions: list[Session] = [
            pair.client_protocol.connect(SERVER, SERVER_PORT, pair.client_factory)
            for _ in range(199)
        ]
        connected = [outcome(session.when_connected()) for session in sessions]
        pair.run_until(lambda: all(connected))
        sessions.append(pair.client)
        self.assertEqual(len(pair.server_protocol.links), 200)
        inboxes = [pair.run(session.open("echo", Inbox())) for session in sessions]
        for number, inbox in enumerate(inboxes):
            inbox.channel.send(noise(3000, number))
        for number, inbox in enumerate(inboxes):
            self.assertEqual(pair.run(inbox.get()), noise(3000, number))
        for session in sessions:
            session.close()
        for session in sessions:
            pair.run(session.when_closed())
            self.assertIsNone(session.close_reason)
        self.assert_nothing_left(pair)

    def test_five_hundred_one_after_another(self) -> None:
        pair = UdpPair(link=NEAR, seed=1)
        self.assert_closes(pair)
        kept: list[weakref.ref[Any]] = []
        for number in range(500):
            session = pair.client_protocol.connect(SERVER, SERVER_PORT, pair.client_factory)
            pair.run(session.when_connected())
            if number % 3 == 0:
                inbox = pair.run(session.open("echo", Inbox()))
                inbox.channel.send(b"hello")
                self.assertEqual(pair.run(inbox.get()), b"hello")
            kept += [weakref.ref(session), weakref.ref(session.link), weakref.ref(pair.server)]
            if number % 2:
                session.close()
            else:
                session.abort()
            pair.run(session.when_closed())
        self.assert_nothing_left(pair)
        del session, inbox, pair.server_factory.last, pair.client
        gc.collect()
        self.assertEqual([reference() for reference in kept if reference() is not None], [])

    def test_channels_leave_nothing(self) -> None:
        """Also those that are given up before the peer has answered."""
        pair = UdpPair(link=replace(NEAR, loss=0.05), seed=4)
        for number in range(300):
            name = "echo" if number % 3 else "nothing of that name"
            opening = pair.client.open(name, Inbox())
            results = outcome(opening)
            if number % 2:
                pair.advance(0.001 * (number % 50))
                opening.cancel()
                if results and hasattr(results[0], "channel"):
                    results[0].channel.reset()
            else:
                pair.run_until(lambda results=results: bool(results))  # type: ignore[misc]
                if number % 3:
                    results[0].channel.end()
        pair.advance(5.0)
        self.assertEqual(pair.client.channels, ())
        self.assertEqual(pair.server.channels, ())
        for side in ("client", "server"):
            connection = pair.connection(side)
            self.assertEqual(set(connection.incoming._channels), {0})
            self.assertEqual(set(connection.sender.outgoing.streams), {(0, -1)})
            self.assertEqual(connection.sender.outgoing._messages, {})
        self.assert_closes(pair)

    def test_nothing_is_sent_after_the_end(self) -> None:
        pair = UdpPair(link=NEAR)
        self.assert_closes(pair)
        with recorded(pair) as sent:
            opening = pair.client.open("echo", Inbox())
            opening.addErrback(lambda failure: failure.trap(SessionClosed))
            pair.client.link.send_packet(b"", b"", 0)
            pair.client.link.flush()
            pair.client.abort()
            pair.client.close()
            pair.advance(1.0)
        self.assertEqual(sent, [])
