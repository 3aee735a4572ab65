"""When a session over TCP is connected: after how many round trips, and who waits for whom."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.handshake import Handshake, Role, TlsContext
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.records import HEADER_SIZE, RecordSealer, RecordType, plain_record
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.state import SessionState
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.wire.packet import Kind, encode_head
from jetstreamproto.wire.session_messages import HELLO, Hello
from tests.certificates import NOW
from tests.unit.security.test_records import seal, split
from tests.unit.transports.tcp_ends import Transport

SERVER = Identity.create(NOW)
CLIENT = Identity.create(NOW)
ONE_WAY = 0.05


def let_in(*_: object) -> Deferred[object]:
    return succeed("somebody")


class RoundTripTests(TestCase):
    def first_answer(self, **options: Any) -> tuple[int, int]:
        """Round trips until the client is connected, and until it has an answer of a service."""
        pair = SessionPair(
            {"echo": Echo}, identity=SERVER, latency=ONE_WAY, connect=False, **options
        )
        begun = pair.clock.seconds()
        pair.run(pair.client.when_connected())
        connected = pair.clock.seconds() - begun
        inbox = Inbox()
        opening = pair.client.open("echo", inbox)
        inbox.channel.send(b"first")
        self.assertEqual(pair.run(inbox.get()), b"first")
        self.assertIs(pair.run(opening), inbox)
        answered = pair.clock.seconds() - begun
        pair.run(pair.client.close())
        self.assertEqual((pair.client.close_reason, pair.server.close_reason), (None, None))
        return round(connected / ONE_WAY / 2), round(answered / ONE_WAY / 2)

    def test_a_server_that_lets_everybody_in_costs_what_tls_does(self) -> None:
        self.assertEqual(self.first_answer(), (1, 2))

    def test_a_server_that_judges_says_nothing_before(self) -> None:
        for options in (
            {
                "server_options": {"authenticate": let_in},
                "client_options": {"credentials": ("ann", "secret")},
            },
            {
                "server_options": {"clients": PinnedKeys([CLIENT.fingerprint])},
                "client_options": {"identity": CLIENT},
            },
        ):
            with self.subTest(options=list(options["server_options"])):
                self.assertEqual(self.first_answer(**options), (2, 3))

    def test_a_client_may_go_before_the_server_knows_that_it_is_connected(self) -> None:
        pair = SessionPair({"echo": Echo}, identity=SERVER, latency=ONE_WAY, connect=False)
        pair.client.when_connected().addCallback(lambda session: session.close())
        pair.run(pair.client.when_closed())
        pair.run(pair.server.when_closed())
        self.assertTrue(pair.server.was_connected)
        self.assertEqual((pair.client.close_reason, pair.server.close_reason), (None, None))

    def test_a_judge_in_a_subclass_counts(self) -> None:
        class Judging(JetStreamServerFactory):
            def authenticate(self, *_: object) -> Deferred[object]:
                return let_in()

        self.assertTrue(Judging(SERVER).authenticates)
        self.assertTrue(JetStreamServerFactory(SERVER, authenticate=let_in).authenticates)
        self.assertFalse(JetStreamServerFactory(SERVER).authenticates)


class EarlyTests(TestCase):
    """A server between its own half of the handshake and the client's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = JetStreamServerFactory(SERVER, {"echo": Echo}, reactor=self.clock)  # type: ignore[arg-type]
        address = IPv4Address("TCP", "192.0.2.1", 50000)
        self.protocol: Any = self.factory.buildProtocol(address)
        self.transport = Transport(address)
        self.protocol.makeConnection(self.transport)
        tls = TlsContext(Role.CLIENT, trust=PinnedKeys([SERVER.fingerprint]))
        self.peer = Handshake(tls, now=NOW)
        self.peer.start()
        self.protocol.dataReceived(plain_record(RecordType.CRYPTO, self.peer.outgoing()))
        self.clock.advance(0)  # a flight leaves at the end of the turn
        self.records = split(self.transport.take())
        for record in self.records:
            if record[0] == RecordType.CRYPTO:
                self.peer.receive(record[HEADER_SIZE:])
        self.sealer = RecordSealer(self.peer.traffic_keys(b"tcp")[0])
        self.addCleanup(self.protocol.connectionLost)

    def hello(self) -> bytes:
        payload = HELLO.encode(Hello(1, 1 << 20, 10, 1 << 20, 1 << 20))
        return seal(self.sealer, encode_head(0, 0, Kind.HELLO, 0, 0, len(payload)) + payload)

    def test_its_hello_is_all_that_it_says(self) -> None:
        self.assertEqual(
            [record[0] for record in self.records], [RecordType.CRYPTO, RecordType.PACKETS]
        )
        self.assertIs(self.protocol.session.state, SessionState.CONNECTING)
        self.assertEqual(self.factory.sessions, set())
        self.assertEqual([t.half_open for t in self.factory._tickets.values()], [True])

    def test_what_is_sealed_before_the_clients_half_is_refused(self) -> None:
        self.protocol.dataReceived(self.hello())
        self.assertTrue(self.transport.closed)
        self.assertIsInstance(self.protocol.session.link._failure, ProtocolViolation)

    def test_with_the_clients_half_it_is_connected(self) -> None:
        flight = plain_record(RecordType.CRYPTO, self.peer.outgoing())
        self.protocol.dataReceived(flight + self.hello())
        self.assertIs(self.protocol.session.state, SessionState.OPEN)
        sealed = [record for record in split(self.transport.take()) if record[0] != 1]
        self.assertEqual(sealed, [])  # there is no second HELLO

    def test_a_client_that_never_answers_is_dropped_at_the_deadline(self) -> None:
        self.clock.advance(self.factory.settings.handshake_timeout)
        self.assertTrue(self.transport.closed)
