"""Sessions over the TCP link: keys that change, connections that break, ends, and what is left."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import TestCase

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from jetstreamproto.errors import (
    HandshakeError,
    HandshakeTimeout,
    JetStreamError,
    PeerSilent,
    ProtocolViolation,
    SessionCut,
)
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.protocol import JetStreamProtocol, TurnedAway
from jetstreamproto.security.handshake import Handshake, Role, TlsContext
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.keys import Cipher
from jetstreamproto.security.records import (
    HEADER_SIZE,
    RecordLimits,
    RecordSealer,
    RecordType,
    plain_record,
)
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import Discard, Echo
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.session import Session, SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import SessionPair
from jetstreamproto.transports.admission import AdmissionLimits
from jetstreamproto.transports.tcp import TcpLink
from jetstreamproto.wire.packet import Kind, encode_head
from jetstreamproto.wire.session_messages import HELLO, Hello
from tests.certificates import NOW
from tests.unit.security.test_records import seal, split
from tests.unit.transports.tcp_ends import Transport

SERVER = Identity.create(NOW)
CLIENTS = TlsContext(Role.CLIENT, trust=PinnedKeys([SERVER.fingerprint]))
TINY = RecordLimits(records=2, hard_records=3)
PLAIN = SessionSettings(compression=None)
PATIENT = SessionSettings(
    compression=None,
    handshake_timeout=1e6,
    heartbeat=1e6,
    idle_timeout=2e6,
    drain_timeout=1e6,
)
"""Of a peer that says nothing of its own, and never gives up: what ends is up to the other."""


def session_pair(**options: Any) -> SessionPair:
    options.setdefault("services", {"echo": Echo, "discard": Discard})
    return SessionPair(identity=SERVER, **options)


def close(pair: SessionPair) -> tuple[JetStreamError | None, JetStreamError | None]:
    pair.client.close()
    pair.run(pair.client.when_closed())
    pair.run(pair.server.when_closed())
    return pair.client.close_reason, pair.server.close_reason


def violate(session: Session) -> None:
    """Send a packet that no session may send."""
    session.link.send_packet(encode_head(0, 0, 99, 0, 0, 0), b"", 0)
    session.link.flush()


class RatchetTests(TestCase):
    """Epochs as short as they can be, through whole sessions."""

    def test_data_is_intact_over_many_epochs_in_both_directions(self) -> None:
        generator = random.Random(11)
        for cipher in Cipher:
            for limits in (TINY, RecordLimits(bytes=1), RecordLimits(records=3, hard_records=3)):
                pair = session_pair(
                    settings=PLAIN,
                    client_options={"record_limits": limits, "ciphers": (cipher,)},
                    server_options={"record_limits": limits},
                )
                inbox = pair.run(pair.client.open("echo"))
                for _ in range(60):
                    message = generator.randbytes(generator.choice((0, 1, 100, 3000, 200_000)))
                    inbox.channel.send(message)
                    self.assertEqual(pair.run(inbox.get()), message)
                for session in (pair.client, pair.server):
                    self.assertGreater(session.link._sealer.epoch, 30)  # type: ignore[attr-defined]
                    self.assertGreater(session.link._opener.epoch, 30)  # type: ignore[attr-defined]
                self.assertEqual(close(pair), (None, None))

    def test_one_byte_at_a_time(self) -> None:
        options = {"record_limits": TINY}
        pair = session_pair(chop=1, client_options=options, server_options=options)
        inbox = pair.run(pair.client.open("echo"))
        for size in (0, 1, 1000, 20_000):
            message = random.Random(size).randbytes(size)
            inbox.channel.send(message)
            self.assertEqual(pair.run(inbox.get()), message)
        self.assertEqual(close(pair), (None, None))

    def test_sides_may_have_different_limits(self) -> None:
        pair = session_pair(
            client_options={"record_limits": TINY},
            server_options={"record_limits": RecordLimits(records=50, hard_records=1000)},
        )
        pair.client_factory._record_limits = TINY
        inbox = pair.run(pair.client.open("echo"))
        inbox.channel.send(b"x")
        self.assertEqual(pair.run(inbox.get()), b"x")

    def test_a_peer_that_does_not_rekey_is_refused(self) -> None:
        pair = session_pair(
            server_options={"record_limits": RecordLimits(records=5, hard_records=5)}
        )
        inbox = pair.run(pair.client.open("echo"))

        def talk() -> None:
            for _ in range(10):
                inbox.channel.send(b"x")
                pair.run(inbox.get())

        with self.assertRaises(JetStreamError):
            talk()
        pair.run(pair.server.when_closed())
        self.assertIsInstance(pair.server.close_reason, ProtocolViolation)
        self.assertIn("too many records", str(pair.server.close_reason))
        self.assertIsInstance(pair.client.close_reason, JetStreamError)

    def test_ten_thousand_messages_in_flight(self) -> None:
        options = {"record_limits": RecordLimits(records=3, hard_records=3)}
        pair = session_pair(settings=PLAIN, client_options=options, server_options=options)
        inbox = pair.run(pair.client.open("echo"))
        for number in range(10_000):
            inbox.channel.send(number.to_bytes(4, "big"))
        inbox.channel.end()
        for number in range(10_000):
            self.assertEqual(pair.run(inbox.get()), number.to_bytes(4, "big"))


class CutTests(TestCase):
    """The connection breaks: never is that taken for an end."""

    def cut_after(
        self, side: str, count: int, how: Exception
    ) -> tuple[SessionPair, list[bytes], bool]:
        """A short session in which `side` receives `count` bytes and then sees the connection go.

        The pair, the messages that came back, and whether the session was over before.
        """
        pair = session_pair(connect=False)
        transport = {"client": pair.client_transport, "server": pair.server_transport}[side]
        protocol = transport._protocol
        deliver = protocol.dataReceived
        left = count

        def limited(data: bytes) -> None:
            nonlocal left
            if left > 0:
                part = data[:left]
                left -= len(part)
                deliver(part)
                if left == 0:
                    pair.clock.callLater(0, pair.client_transport.lose, how)
                    pair.clock.callLater(0, pair.server_transport.lose, how)

        protocol.dataReceived = limited  # type: ignore[method-assign]
        if not count:
            pair.client_transport.lose(how)
            pair.server_transport.lose(how)
        got: list[bytes] = []
        finished: list[object] = []
        self.converse(pair, got, finished)
        pair.run_until(lambda: pair.client.state is pair.server.state is SessionState.CLOSED)
        link: Any = getattr(pair, side).link
        return pair, got, left > 0 or link._peer_ended

    def converse(self, pair: SessionPair, got: list[bytes], finished: list[object]) -> None:
        def opened(inbox: Inbox) -> None:
            inbox.channel.send(b"first")
            inbox.channel.send(b"second")
            inbox.get().addCallbacks(first, finished.append)
            inbox.channel.when_closed().addErrback(finished.append)
            self.inbox = inbox

        def first(message: bytes) -> None:
            got.append(message)
            self.inbox.get().addCallbacks(second, finished.append)

        def second(message: bytes) -> None:
            got.append(message)
            pair.client.close()

        def connected(session: Session) -> None:
            session.open("echo").addCallbacks(opened, finished.append)

        pair.client.when_connected().addCallbacks(connected, finished.append)
        pair.server.when_connected().addErrback(finished.append)

    def test_at_every_byte(self) -> None:
        pair, got, over = self.cut_after("client", 1 << 20, ConnectionDone())
        self.assertTrue(over)
        self.assertEqual(got, [b"first", b"second"])
        self.assertEqual((pair.client.close_reason, pair.server.close_reason), (None, None))
        for side in ("client", "server"):
            count, tried = 0, 0
            while True:
                how = ConnectionDone() if tried % 2 else ConnectionLost()
                pair, got, over = self.cut_after(side, count, how)
                if over:
                    break
                self.check_cut(pair, side, got, count)
                tried += 1
                link: Any = getattr(pair, side).link
                count += 1 if link._opener else 17  # the handshake's bytes are TLS's own affair
            self.assertGreater(tried, 400)

    def check_cut(self, pair: SessionPair, side: str, got: list[bytes], count: int) -> None:
        reasons = {"client": pair.client.close_reason, "server": pair.server.close_reason}
        for name, reason in reasons.items():
            if name == side or reason is not None:
                self.assertIsInstance(reason, SessionCut | HandshakeError, (side, count))
        self.assertEqual(got, [b"first", b"second"][: len(got)])
        pair.advance(1)
        self.assertEqual(pair.clock.getDelayedCalls(), [], (side, count))
        self.assertFalse(pair.server_factory.sessions or pair.client_factory.sessions)

    def test_an_end_that_somebody_takes_away(self) -> None:
        """The attacker drops the last record and closes the connection as if all were well."""
        for victim in ("client", "server"):
            pair = session_pair()
            transport = {"client": pair.client_transport, "server": pair.server_transport}[victim]
            protocol = transport._protocol
            deliver = protocol.dataReceived

            def filtered(data: bytes, deliver: Callable[[bytes], None] = deliver) -> None:
                for record in split(data):
                    if record[0] != RecordType.END:
                        deliver(record)

            protocol.dataReceived = filtered  # type: ignore[method-assign]
            pair.client.close()
            pair.advance(1)
            pair.client_transport.lose(ConnectionDone())
            pair.server_transport.lose(ConnectionDone())
            session = {"client": pair.client, "server": pair.server}[victim]
            self.assertIsInstance(session.close_reason, SessionCut)
            self.assertIn("before the peer ended the session", str(session.close_reason))

    def test_a_cable_that_is_pulled(self) -> None:
        """Nobody says anything any more; the heartbeat finds out."""
        pair = session_pair()
        pair.client_transport.pause()
        pair.server_transport.pause()
        pair.advance(61)
        for session in (pair.client, pair.server):
            self.assertIsInstance(session.close_reason, PeerSilent)
        self.assertEqual(pair.clock.getDelayedCalls(), [])


class EndTests(TestCase):
    def test_clean_from_either_side_and_from_both(self) -> None:
        for latency in (0, 0.05):
            for closing in (("client",), ("server",), ("client", "server"), ("server", "client")):
                pair = session_pair(latency=latency)
                inbox = pair.run(pair.client.open("echo"))
                inbox.channel.send(b"hello")
                self.assertEqual(pair.run(inbox.get()), b"hello")
                inbox.channel.end()
                for side in closing:
                    {"client": pair.client, "server": pair.server}[side].close()
                pair.run(pair.client.when_closed())
                pair.run(pair.server.when_closed())
                reasons = (pair.client.close_reason, pair.server.close_reason)
                self.assertEqual(reasons, (None, None), (latency, closing))
                self.assertLess(pair.clock.seconds(), 2)
                pair.advance(1)
                self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_abort_is_a_cut_for_both(self) -> None:
        pair = session_pair()
        pair.client.abort()
        pair.run(pair.client.when_closed())
        pair.run(pair.server.when_closed())
        for session in (pair.client, pair.server):
            self.assertIsInstance(session.close_reason, SessionCut)

    def test_a_violation_is_told(self) -> None:
        pair = session_pair()
        violate(pair.client)
        pair.run(pair.server.when_closed())
        pair.run(pair.client.when_closed())
        self.assertIsInstance(pair.server.close_reason, ProtocolViolation)
        self.assertIsInstance(pair.client.close_reason, JetStreamError)

    def test_the_transport_closed_by_the_application(self) -> None:
        """`transport.loseConnection()`, which is also what a connector's `disconnect` calls."""
        for side in ("client", "server"):
            pair = session_pair()
            getattr(pair, f"{side}_transport").loseConnection()
            pair.run(pair.client.when_closed())
            pair.run(pair.server.when_closed())
            for session in (pair.client, pair.server):
                self.assertIsInstance(session.close_reason, SessionCut)
            self.assertLess(pair.clock.seconds(), 1)


class BlockedPeerTests(TestCase):
    """A peer that does not read any more: every way to end comes to an end within deadlines."""

    DEADLINE = 61.0

    def blocked(self) -> SessionPair:
        """A server whose output nobody takes, with more of it waiting."""
        pair = session_pair(
            services={"echo": Echo, "flood": Flood},
            settings=PLAIN,
            client_settings=PATIENT,
        )
        inbox = pair.run(pair.client.open("flood"))
        pair.server_transport.pause()
        inbox.channel.send(b"go")
        pair.advance(0.1)
        self.assertFalse(pair.server.link.writable)
        return pair

    def test_every_way_to_end(self) -> None:
        for name, act in (
            ("close", lambda pair: pair.server.close()),
            ("drain", lambda pair: pair.server_factory.drain()),
            ("abort", lambda pair: pair.server.abort()),
            ("violation", lambda pair: violate(pair.client)),
            ("close, then violation", lambda pair: (pair.server.close(), violate(pair.client))),
            ("violation, then abort", lambda pair: (violate(pair.client), pair.server.abort())),
            ("violation, then close", lambda pair: (violate(pair.client), pair.server.close())),
            ("the peer closes", lambda pair: pair.client.close()),
            ("loseConnection", lambda pair: pair.server_transport.loseConnection()),
            ("nothing", lambda pair: None),
        ):
            with self.subTest(name):
                pair = self.blocked()
                act(pair)
                pair.advance(self.DEADLINE)
                self.assertIs(pair.server.state, SessionState.CLOSED)
                self.assertIsInstance(pair.server.close_reason, JetStreamError)
                pair.client.abort()
                pair.advance(1)
                self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_in_the_handshake(self) -> None:
        for side in ("client", "server"):
            pair = session_pair(connect=False)
            session = getattr(pair, side)
            getattr(pair, f"{side}_transport").pause()
            failures: list[Any] = []
            session.when_connected().addErrback(failures.append)
            pair.advance(10.1)
            self.assertIs(failures[0].type, HandshakeTimeout)
            pair.advance(1)
            self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_refusal_that_is_not_read(self) -> None:
        """The alert cannot leave; the deadline of the handshake still holds."""
        pair = session_pair(connect=False, client_settings=PATIENT)
        pair.server_transport.pause()
        pair.server_transport._protocol.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertIsNone(pair.server.close_reason)
        pair.advance(10.1)
        self.assertIs(pair.server.state, SessionState.CLOSED)
        self.assertIsInstance(pair.server.close_reason, HandshakeError)
        pair.client.abort()
        pair.advance(1)
        self.assertEqual(pair.clock.getDelayedCalls(), [])


class Flood(ChannelProtocol):
    """Sends more than anybody takes."""

    def message_received(self, message: bytes) -> None:
        for _ in range(60):
            self.channel.send(bytes(60_000))


class AdmissionTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def factory(self, **limits: int) -> JetStreamServerFactory:
        return JetStreamServerFactory(
            SERVER,
            admission=AdmissionLimits(**limits),
            reactor=self.clock,  # type: ignore[arg-type]
        )

    def arrive(self, factory: JetStreamServerFactory, host: str) -> tuple[Any, Transport]:
        address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 50000)
        protocol = factory.buildProtocol(address)
        transport = Transport(address)
        protocol.makeConnection(transport)
        return protocol, transport

    def test_a_flood_of_connections_that_say_nothing(self) -> None:
        factory = self.factory(half_open=20, half_open_per_address=5)
        for wave in range(3):
            arrivals = [
                self.arrive(factory, f"10.{wave}.{number % 50}.1") for number in range(1000)
            ]
            admitted = [
                (protocol, transport)
                for protocol, transport in arrivals
                if isinstance(protocol, JetStreamProtocol)
            ]
            self.assertEqual(len(admitted), 20)
            for protocol, transport in arrivals:
                if isinstance(protocol, TurnedAway):
                    self.assertIn(b"too many connections", transport.take())
                    self.assertTrue(transport.closed)
                    protocol.connectionLost()
            self.clock.advance(10)
            for protocol, transport in admitted:
                self.assertTrue(transport.aborted)
                protocol.connectionLost()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertEqual((factory.sessions, factory._tickets), (set(), {}))
        self.assertIsInstance(self.arrive(factory, "10.0.0.1")[0], JetStreamProtocol)

    def test_garbage_frees_its_place_when_the_connection_is_gone(self) -> None:
        factory = self.factory(half_open=1)
        for number in range(1000):
            protocol, transport = self.arrive(factory, f"10.0.{number % 256}.1")
            self.assertIsInstance(protocol, JetStreamProtocol)
            protocol.dataReceived(b"garbage")
            self.assertTrue(transport.closed)
            self.assertIsInstance(self.arrive(factory, "10.1.1.1")[0], TurnedAway)
            protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_neighbours_of_one_network(self) -> None:
        factory = self.factory(half_open_per_address=2)
        protocols = [self.arrive(factory, f"2001:db8::{number:x}")[0] for number in range(4)]
        kinds = [type(protocol).__name__ for protocol in protocols]
        self.assertEqual(kinds, ["JetStreamProtocol"] * 2 + ["TurnedAway"] * 2)
        elsewhere, _ = self.arrive(factory, "2001:db8:1::1")
        self.assertIsInstance(elsewhere, JetStreamProtocol)

    def test_connecting_frees_the_half_open_place_but_not_the_session(self) -> None:
        limits = AdmissionLimits(half_open=1, sessions=2)
        pair = session_pair(server_options={"admission": limits})
        factory = pair.server_factory
        address = IPv4Address("TCP", "10.0.0.1", 1)
        second = factory.buildProtocol(address)
        self.assertIsInstance(second, JetStreamProtocol)
        self.assertIsInstance(factory.buildProtocol(address), TurnedAway)
        self.assertEqual(close(pair), (None, None))
        self.assertIsInstance(factory.buildProtocol(address), TurnedAway, "half open is full")

    def test_a_failing_application_costs_no_place(self) -> None:
        """An override that raises when a session is lost must not use up the server."""
        pair = session_pair(server_options={"admission": AdmissionLimits(sessions=1)})

        def fail(session: Session, reason: object) -> None:
            raise RuntimeError("the application's own")

        pair.server_factory.session_lost = fail  # type: ignore[method-assign]
        with self.assertRaises(RuntimeError):
            pair.server_transport.lose(ConnectionLost())
        address = IPv4Address("TCP", "10.0.0.1", 1)
        self.assertIsInstance(pair.server_factory.buildProtocol(address), JetStreamProtocol)


class ResidueTests(TestCase):
    KINDS = (Session, TcpLink, Channel, Handshake, SSL.Connection, JetStreamProtocol)

    def living(self) -> dict[str, int]:
        gc.collect()
        counts = dict.fromkeys((kind.__name__ for kind in self.KINDS), 0)
        for thing in gc.get_objects():
            if isinstance(thing, self.KINDS):
                counts[type(thing).__name__] += 1
        return {name: count for name, count in counts.items() if count}

    def test_nothing_is_left_of_sessions_that_ended(self) -> None:
        before = self.living()
        factories: list[Any] = []
        clock = Clock()
        for number in range(30):
            pair = session_pair(clock=clock, connect=False)
            factories += [pair.client_factory, pair.server_factory]
            ignored: list[object] = []
            pair.client.when_connected().addErrback(ignored.append)
            if number % 5 == 1:
                pair.cut()  # in the handshake
                continue
            pair.run(pair.client.when_connected())
            inbox = pair.run(pair.client.open("echo"))
            inbox.channel.send(b"hello")
            self.assertEqual(pair.run(inbox.get()), b"hello")
            if number % 5 == 2:
                pair.cut()
            elif number % 5 == 3:
                pair.server.abort()
            elif number % 5 == 4:
                violate(pair.client)
            else:
                pair.client.close()
            pair.run(pair.client.when_closed())
            pair.run(pair.server.when_closed())
            pair.advance(1)
        del pair, inbox, ignored
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual([len(factory.sessions) for factory in factories], [0] * 60)
        for factory in factories[1::2]:
            self.assertEqual(factory._tickets, {})
            left = {name: value for name, value in vars(factory.admission).items() if value}
            self.assertEqual(set(left), {"limits"})
        self.assertEqual(self.living(), before)

    def test_an_idle_session_holds_nothing_of_tls(self) -> None:
        before = self.living()
        gc.disable()
        self.addCleanup(gc.enable)
        pairs = [session_pair() for _ in range(5)]
        alive = [
            thing for thing in gc.get_objects() if isinstance(thing, Handshake | SSL.Connection)
        ]
        self.assertEqual(len(alive), before.get("Handshake", 0) + before.get("Connection", 0))
        for pair in pairs:
            close(pair)

    def test_a_session_is_not_kept_by_what_a_factory_knows(self) -> None:
        pair = session_pair()
        client, server = weakref.ref(pair.client), weakref.ref(pair.server)
        close(pair)
        factories = pair.client_factory, pair.server_factory
        del pair
        gc.collect()
        self.assertEqual((client(), server()), (None, None))
        self.assertEqual([factory.sessions for factory in factories], [set(), set()])


class HostileSessionTests(TestCase):
    def test_requests_without_reading_are_bounded(self) -> None:
        """A peer that asks and asks, and takes no answer."""
        pair = session_pair()
        pair.server_transport.pause()
        for _ in range(20):
            for number in range(1000):
                pair.client.link.send_packet(encode_head(number, 0, 8, 0, 0, 0), b"", 0)
            pair.client.link.flush()
            pair.advance(0)
        pair.advance(61)
        self.assertIs(pair.server.state, SessionState.CLOSED)

    def test_any_records_from_a_peer_that_has_the_keys(self) -> None:
        """Sealed as they should be, and otherwise in no order and of no sense."""
        reasons = set()
        for seed in range(150):
            generator = random.Random(seed)
            clock = Clock()
            factory = JetStreamServerFactory(
                SERVER,
                {"echo": Echo},
                reactor=clock,  # type: ignore[arg-type]
            )
            address = IPv4Address("TCP", "192.0.2.1", 50000)
            protocol: Any = factory.buildProtocol(address)
            transport = Transport(address)
            protocol.makeConnection(transport)
            peer = Handshake(CLIENTS, now=NOW)
            peer.start()
            protocol.dataReceived(plain_record(RecordType.CRYPTO, peer.outgoing()))
            clock.advance(0)  # a flight leaves at the end of the turn
            for record in split(transport.take()):
                if record[0] == RecordType.CRYPTO:  # the rest is the server's HELLO
                    peer.receive(record[HEADER_SIZE:])
            protocol.dataReceived(plain_record(RecordType.CRYPTO, peer.outgoing()))
            sealer = RecordSealer(peer.traffic_keys(b"tcp")[0])
            for _ in range(generator.randrange(1, 12)):
                protocol.dataReceived(self.any_record(generator, sealer))
                clock.advance(generator.choice((0, 0, 0.1)))
                transport.take()
            clock.advance(11)
            protocol.connectionLost()
            with self.subTest(seed=seed):
                self.assertIs(protocol.session.state, SessionState.CLOSED)
                self.assertIsInstance(protocol.session.close_reason, JetStreamError | None)
                self.assertEqual(clock.getDelayedCalls(), [])
                self.assertEqual((factory.sessions, factory._tickets), (set(), {}))
            reasons.add(type(protocol.session.close_reason).__name__)
        self.assertGreaterEqual(len(reasons), 4, reasons)

    def any_record(self, generator: random.Random, sealer: RecordSealer) -> bytes:
        kind = generator.randrange(10)
        if kind < 3:
            hello = HELLO.encode(Hello(1, 1 << 20, 10, 1 << 20, 1 << 20))
            head = encode_head(0, 0, Kind.HELLO, 0, 0, len(hello))
            return seal(sealer, head + hello)
        if kind == 3:
            return seal(sealer, b"", RecordType.END)
        if kind == 4:
            record = seal(sealer, b"", RecordType.REKEY)
            sealer._keys = sealer._keys.next_epoch()
            return record
        if kind == 5:
            return seal(sealer, generator.randbytes(generator.randrange(100)))
        if kind == 6:
            return seal(sealer, b"")
        if kind == 7:
            payload = generator.randbytes(generator.randrange(40))
            numbers = (generator.randrange(4), generator.randrange(4), generator.randrange(13))
            return seal(sealer, encode_head(*numbers, 0, 0, len(payload)) + payload)
        if kind == 8:
            return plain_record(
                generator.choice((RecordType.CRYPTO, RecordType.ALERT)), generator.randbytes(20)
            )
        return generator.randbytes(generator.randrange(1, 30))

    def test_thousands_of_opens_at_once(self) -> None:
        """The session's own packets can be more than a record holds."""
        name = 200 * "e"
        settings = replace(PLAIN, max_channels=10_000)
        pair = session_pair(services={name: Echo}, settings=settings)
        opened = [pair.client.open(name, urgency=number % 8) for number in range(1500)]
        inboxes = [pair.run(deferred) for deferred in opened]
        self.assertEqual(len(pair.server.channels), 1500)
        inboxes[-1].channel.send(b"hello")
        self.assertEqual(pair.run(inboxes[-1].get()), b"hello")
        self.assertEqual(close(pair), (None, None))

    def test_header_only_records_cannot_hold_a_session(self) -> None:
        """Half a header, then nothing: the handshake's deadline does not wait for more."""
        pair = session_pair(connect=False)
        pair.client_transport.pause()
        protocol = pair.server_transport._protocol
        for size in range(HEADER_SIZE):
            protocol.dataReceived(b"\x01\0\x10"[size : size + 1])
            pair.advance(3)
        pair.advance(1)
        self.assertIsInstance(pair.server.close_reason, HandshakeTimeout)
        pair.client.abort()
        pair.advance(1)
