"""Heartbeats, timeouts, and the ways in which a session ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import TimeoutError
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import (
    ChannelReset,
    ConfigurationError,
    HandshakeError,
    HandshakeTimeout,
    JetStreamError,
    PeerSilent,
    SessionClosed,
    SessionCut,
)
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.codes import MIN_WINDOW, ResetCode
from jetstreamproto.session.session import SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.wire.packet import Kind, encode_head
from tests.doubles import RawPeer, Recorder, Registry, make_pair, noise


class HeartbeatTests(SynchronousTestCase):
    def test_a_quiet_peer_that_lives_is_kept_for_an_hour(self) -> None:
        for heartbeat, idle in ((15.0, 45.0), (15.0, 16.0), (10.0, 10.0)):
            with self.subTest(heartbeat=heartbeat, idle_timeout=idle):
                try:
                    settings = SessionSettings(heartbeat=heartbeat, idle_timeout=idle)
                except ConfigurationError:
                    continue  # refusing such settings is as good
                pair = make_pair({"echo": Echo}, settings=settings, latency=0.1)
                inbox = pair.run(pair.client.open("echo"))
                pair.advance(3600)
                self.assertIs(pair.client.state, SessionState.OPEN)
                self.assertIs(pair.server.state, SessionState.OPEN)
                inbox.channel.send(b"still there")
                self.assertEqual(pair.run(inbox.get()), b"still there")

    def test_quiet_sessions_cost_little(self) -> None:
        pair = make_pair({})
        before = pair.client.link.stats.bytes_sent + pair.server.link.stats.bytes_sent
        pair.advance(3600)
        spent = pair.client.link.stats.bytes_sent + pair.server.link.stats.bytes_sent - before
        self.assertLess(spent, 4 * 100 * 3600 / 15)

    def test_a_dead_peer_is_found_within_the_idle_timeout_and_a_heartbeat(self) -> None:
        for heartbeat, idle in ((15.0, 45.0), (10.0, 15.0), (10.0, 39.0)):
            for quiet_for in (0.0, 0.1, 7.0, 9.9):
                with self.subTest(heartbeat=heartbeat, idle_timeout=idle, phase=quiet_for):
                    settings = SessionSettings(heartbeat=heartbeat, idle_timeout=idle)
                    peer = RawPeer(settings=settings)
                    peer.clock.advance(quiet_for)
                    peer.control(Kind.PONG)
                    heard = peer.clock.seconds()
                    while peer.link.open and peer.clock.seconds() < 1000:
                        peer.clock.advance(0.5)
                    took = peer.clock.seconds() - heard
                    self.assertIsInstance(peer.session.close_reason, PeerSilent)
                    self.assertGreaterEqual(took, idle - 0.5)
                    self.assertLessEqual(took, idle + heartbeat + 0.5)
                    self.assertGreaterEqual(len(peer.sent(Kind.PING)), 1)

    def test_a_dead_peer_breaks_everything_off(self) -> None:
        registry = Registry()
        pair = make_pair({"service": registry})
        mine = pair.run(pair.client.open("service", Recorder()))
        pair.server_transport.pause()
        pair.client_transport.pause()
        pinging = pair.client.ping()
        pair.run_until(lambda: pair.client.state is SessionState.CLOSED)
        self.assertIsInstance(pair.client.close_reason, PeerSilent)
        self.assertIsInstance(mine.reason, PeerSilent)
        self.failureResultOf(pinging, PeerSilent)

    def test_a_peer_that_only_sends_is_not_dead(self) -> None:
        registry = Registry()
        pair = make_pair({"service": registry})
        pair.run(pair.client.open("service", Recorder()))
        for _ in range(100):
            registry.made[0].channel.send(b"tick")
            pair.advance(14)
        self.assertIs(pair.client.state, SessionState.OPEN)

    def test_a_ping_takes_one_round_trip(self) -> None:
        for latency in (0.0, 0.05, 1.0):
            pair = make_pair({}, latency=latency)
            for side in (pair.client, pair.server):
                self.assertAlmostEqual(pair.run(side.ping()), 2 * latency)

    def test_many_pings_and_pings_that_were_cancelled(self) -> None:
        pair = make_pair({}, latency=0.05)
        pings = [pair.client.ping() for _ in range(64)]
        for ping in pings[::2]:
            ping.addErrback(lambda _: None)
            ping.cancel()
        self.failureResultOf(pair.client.ping(), JetStreamError)
        for ping in pings[1::2]:
            self.assertAlmostEqual(pair.run(ping), 0.1)
        self.assertAlmostEqual(pair.run(pair.client.ping()), 0.1)

    def test_unanswered_pings_fail_when_the_session_dies(self) -> None:
        pair = make_pair({}, latency=1.0)
        pings = [pair.client.ping() for _ in range(3)]
        pair.cut()
        for ping in pings:
            self.failureResultOf(ping, SessionCut)
        self.failureResultOf(pair.client.ping(), SessionClosed)


class ConnectingTests(SynchronousTestCase):
    def test_a_peer_that_says_nothing(self) -> None:
        pair = make_pair({}, connect=False)
        pair.server_transport.pause()
        connecting = pair.client.when_connected()
        pair.run_until(lambda: pair.client.state is SessionState.CLOSED)
        self.assertEqual(pair.clock.seconds(), 10.0)
        self.failureResultOf(connecting, HandshakeTimeout)
        self.assertIsInstance(pair.client.close_reason, HandshakeTimeout)

    def test_a_client_that_says_nothing(self) -> None:
        pair = make_pair({}, connect=False)
        pair.client_transport.pause()
        pair.run_until(lambda: pair.server.state is SessionState.CLOSED)
        self.assertEqual(pair.clock.seconds(), 10.0)
        self.assertIsInstance(pair.server.close_reason, HandshakeTimeout)

    def test_a_peer_that_completes_the_handshake_and_says_nothing(self) -> None:
        for client in (False, True):
            peer = RawPeer(client=client, hello=None)
            connecting = peer.session.when_connected()
            peer.clock.advance(10)
            peer.settle()
            self.failureResultOf(connecting, HandshakeTimeout)
            self.assertEqual(peer.clock.getDelayedCalls(), [])

    def test_close_drain_and_abort_while_connecting(self) -> None:
        for how in ("close", "drain", "abort"):
            for side in ("client", "server"):
                for after in (0.0, 0.3, 0.5, 0.7, 0.9):
                    with self.subTest(how=how, side=side, after=after):
                        pair = make_pair({}, connect=False, latency=0.2)
                        waiting = [pair.client.when_connected(), pair.server.when_connected()]
                        for one in waiting:
                            one.addErrback(lambda failure: failure.trap(JetStreamError))
                        pair.advance(after)
                        getattr(getattr(pair, side), how)()
                        pair.advance(30)
                        for session in (pair.client, pair.server):
                            self.assertIs(session.state, SessionState.CLOSED)
                        self.assertEqual(pair.clock.getDelayedCalls(), [])
                        for one in waiting:
                            self.successResultOf(one)

    def test_close_and_repr_before_there_is_a_connection(self) -> None:
        pair = make_pair({})
        session = pair.client_factory.buildProtocol(None).session
        self.assertIn("connecting", repr(session))
        session.close()

    def test_nothing_is_opened_while_connecting(self) -> None:
        pair = make_pair({"echo": Echo}, connect=False)
        self.failureResultOf(pair.client.open("echo"), SessionClosed)
        self.failureResultOf(pair.client.ping(), SessionClosed)

    def test_a_cut_while_connecting(self) -> None:
        pair = make_pair({}, connect=False, latency=0.1)
        connecting = pair.client.when_connected()
        pair.cut()
        self.failureResultOf(connecting, HandshakeError)


class OpenTimeoutTests(SynchronousTestCase):
    def test_a_peer_that_never_answers_an_open(self) -> None:
        peer = RawPeer(client=True)
        opening = peer.session.open("x")
        for _ in range(31):
            peer.clock.advance(1)
            peer.control(Kind.PONG)
        error = self.failureResultOf(opening, ChannelReset).value
        self.assertEqual(error.code, ResetCode.TIMED_OUT)
        self.assertEqual(peer.sent(Kind.RESET, 1)[0].code, ResetCode.TIMED_OUT)
        self.assertEqual(peer.session.channels, ())
        peer.control(Kind.ACCEPT, 1)
        self.assertTrue(peer.link.open)

    def test_an_open_given_a_time_limit_of_the_callers(self) -> None:
        peer = RawPeer(client=True)
        opening = peer.session.open("x").addTimeout(2, peer.clock)
        peer.clock.advance(2)
        self.failureResultOf(opening, TimeoutError)

    def test_an_accepted_channel_has_no_deadline(self) -> None:
        pair = make_pair({"echo": Echo})
        inbox = pair.run(pair.client.open("echo"))
        pair.advance(100)
        inbox.channel.send(b"x")
        self.assertEqual(pair.run(inbox.get()), b"x")


class DrainTests(SynchronousTestCase):
    def join(self, **options: Any) -> tuple[SessionPair, Recorder, Recorder]:
        registry = Registry(lambda: Recorder(stay=True))
        pair = make_pair({"service": registry}, **options)
        mine = pair.run(pair.client.open("service", Recorder(stay=True)))
        return pair, mine, registry.made[0]

    def test_both_sides_refuse_new_channels_and_the_peer_is_told_once(self) -> None:
        pair, mine, theirs = self.join(latency=0.05)
        early = pair.client.open("service")
        pair.server.drain("maintenance")
        self.failureResultOf(pair.server.open("service"), SessionClosed)
        error = self.assertRaises(ChannelReset, pair.run, early)
        self.assertEqual(error.code, ResetCode.GOING_AWAY)
        self.failureResultOf(pair.client.open("service"), SessionClosed)
        pair.server.drain("again")
        pair.advance(1)
        self.assertEqual(mine.events.count("closing"), 1)
        for side in (mine, theirs):
            side.channel.end()
        pair.run(pair.client.when_closed())
        self.assertIsNone(pair.client.close_reason)

    def test_channels_finish_within_the_deadline(self) -> None:
        pair, mine, theirs = self.join(latency=0.05)
        gone = pair.server.drain()
        for number in range(50):
            mine.channel.send(noise(100_000, number))
        pair.advance(5)
        mine.channel.end()
        pair.run_until(lambda: "end" in theirs.events)
        theirs.channel.end()
        pair.run(gone)
        pair.run(pair.client.when_closed())
        self.assertEqual(theirs.received, 5_000_000)
        self.assertLess(pair.clock.seconds(), 10)
        for session in (pair.client, pair.server):
            self.assertIsNone(session.close_reason)
        for side in (mine, theirs):
            self.assertIsNone(side.reason)

    def test_a_channel_that_never_finishes_is_reset_at_the_deadline(self) -> None:
        pair, mine, theirs = self.join()
        started = pair.clock.seconds()
        pair.run(pair.server.drain())
        pair.run(pair.client.when_closed())
        self.assertEqual(pair.clock.seconds() - started, 10.0)
        for side in (mine, theirs):
            assert isinstance(side.reason, ChannelReset)
            self.assertEqual(side.reason.code, ResetCode.GOING_AWAY)
        for session in (pair.client, pair.server):
            self.assertIsNone(session.close_reason)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_peer_that_never_ends_is_cut(self) -> None:
        peer = RawPeer({"record": lambda: Recorder(stay=True)})
        peer.open(1)
        gone = peer.session.drain()
        for _ in range(21):
            peer.clock.advance(1)
            peer.control(Kind.PONG)
        self.assertEqual(peer.sent(Kind.RESET, 1)[0].code, ResetCode.GOING_AWAY)
        self.successResultOf(gone)
        self.assertIsInstance(peer.session.close_reason, SessionCut)

    def test_close_has_its_deadline_though_the_peer_is_going_away_already(self) -> None:
        for how in ("close", "drain"):
            with self.subTest(how):
                service = Registry(lambda: Recorder(stay=True))
                peer = RawPeer({"record": service})
                peer.open(1)
                peer.control(Kind.GOAWAY)
                gone = getattr(peer.session, how)()
                for _ in range(60):
                    peer.clock.advance(1)
                    peer.control(Kind.PONG)
                self.successResultOf(gone)

    def test_a_peer_that_does_not_read_is_cut_at_the_deadline(self) -> None:
        pair, _, _ = self.join()
        pair.server_transport.pause()
        gone = pair.server.close()
        pair.advance(25)
        self.successResultOf(gone)
        self.assertIsInstance(pair.server.close_reason, SessionCut)

    def test_a_peer_that_breaks_the_protocol_and_does_not_read_goes_too(self) -> None:
        pair, _, theirs = self.join()
        theirs.channel.send(noise(10_000_000))
        pair.server_transport.pause()
        pair.client.link.send_packet(encode_head(0, 0, 99, 0, 0, 0), b"", 0)
        pair.client.link.flush()
        pair.advance(120)
        self.assertIs(pair.server.state, SessionState.CLOSED)

    def test_an_open_under_way_is_told_when_the_session_closes(self) -> None:
        peer = RawPeer(client=True)
        opening = peer.session.open("x")
        gone = peer.session.close()
        for _ in range(25):
            peer.clock.advance(1)
            peer.control(Kind.PONG)
        self.failureResultOf(opening, ChannelReset, SessionClosed)
        self.successResultOf(gone)

    def test_close_while_data_is_held_by_a_paused_reader(self) -> None:
        pair, mine, theirs = self.join()
        theirs.channel.pauseProducing()
        mine.channel.send(b"held")
        pair.client.close()
        pair.advance(5)
        self.assertEqual(theirs.messages, [])
        theirs.channel.resumeProducing()
        theirs.channel.end()
        pair.advance(1)
        self.assertEqual(theirs.messages, [b"held"])
        for session in (pair.client, pair.server):
            self.assertIs(session.state, SessionState.CLOSED)
            self.assertIsNone(session.close_reason)

    def test_every_order_of_close_drain_and_abort(self) -> None:
        ways = ("close", "drain", "abort")
        for latency in (0.0, 0.05):
            for first in ways:
                for second in ways:
                    for gap in (0.0, 0.04, 0.06, 0.2):
                        with self.subTest(f"{first}, {second} {gap} later at {latency}"):
                            pair, mine, theirs = self.join(latency=latency)
                            mine.channel.send(b"x")
                            getattr(pair.client, first)()
                            pair.advance(gap)
                            getattr(pair.server, second)()
                            pair.advance(40)
                            for session in (pair.client, pair.server):
                                self.assertIs(session.state, SessionState.CLOSED)
                            self.assertEqual(pair.clock.getDelayedCalls(), [])
                            for side in (mine, theirs):
                                self.assertEqual(side.events.count("closed"), 1)

    def test_the_servers_factory_drains_all_its_sessions(self) -> None:
        pair, mine, _ = self.join()
        gone = pair.server_factory.drain()
        mine.channel.end()
        pair.run(gone)
        self.assertIsNone(pair.server.close_reason)
        self.assertEqual(pair.server_factory.sessions, set())


class SettingsTests(SynchronousTestCase):
    def test_what_cannot_be_announced_is_refused_at_once(self) -> None:
        for setting in ("max_message", "max_channels", "channel_window"):
            with self.subTest(setting):
                more = {"max_assembly": 1 << 40} if setting == "max_message" else {}
                if setting == "channel_window":
                    more = {"max_channel_window": 1 << 40}
                self.assertRaises(ConfigurationError, SessionSettings, **{setting: 1 << 32}, **more)

    def test_settings_that_cannot_work_name_themselves(self) -> None:
        for setting, value in (
            ("channel_window", MIN_WINDOW - 1),
            ("session_window", 0),
            ("max_message", 0),
            ("max_channels", 0),
            ("high_water", 0),
            ("send_limit", -1),
            ("heartbeat", 0.0),
            ("open_timeout", -1.0),
            ("drain_timeout", 0.0),
            ("handshake_timeout", 0.0),
            ("idle_timeout", 1.0),
            ("max_assembly", 1000),
        ):
            error = self.assertRaises(ConfigurationError, SessionSettings, **{setting: value})
            self.assertIn(setting, str(error))

    def test_the_smallest_settings_work(self) -> None:
        settings = SessionSettings(
            max_message=1,
            max_assembly=1,
            max_channels=1,
            channel_window=MIN_WINDOW,
            max_channel_window=MIN_WINDOW,
            session_window=MIN_WINDOW,
            max_session_window=MIN_WINDOW,
            high_water=1,
            send_limit=1,
            compression=None,
        )
        pair = make_pair({"echo": Echo}, settings=settings)
        inbox = pair.run(pair.client.open("echo"))
        for _ in range(3):
            inbox.channel.send(b"x")
            self.assertEqual(pair.run(inbox.get()), b"x")
        inbox.channel.end()
        pair.run(inbox.channel.when_closed())


class SlowLinkTests(SynchronousTestCase):
    def test_a_record_that_takes_minutes_is_a_sign_of_life(self) -> None:
        """At 1 KiB/s a record of 64 KiB takes longer than the idle timeout."""
        pair = make_pair({"echo": Echo})
        inbox = pair.run(pair.client.open("echo"))
        held: list[bytes] = []
        protocol = pair.server_transport._protocol
        deliver = protocol.dataReceived
        protocol.dataReceived = held.append  # type: ignore[method-assign]
        inbox.channel.send(noise(64 * 1024))
        pair.advance(0)
        arriving = b"".join(held)
        for start in range(0, len(arriving), 1024):
            deliver(arriving[start : start + 1024])
            pair.advance(1)
        self.assertIs(pair.server.state, SessionState.OPEN)
        self.assertEqual(pair.run(inbox.get()), noise(64 * 1024))
