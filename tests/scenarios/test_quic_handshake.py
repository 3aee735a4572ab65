"""How QUIC sessions begin, and how they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from jetstreamproto.errors import (
    CertificateRejected,
    HandshakeError,
    HandshakeTimeout,
    NothingListens,
    Refused,
    UnknownHost,
    WrongFingerprint,
)
from jetstreamproto.quic import VERSIONS
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import CertificateAuthority, KnownHosts, PinnedKeys
from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.datagram_pair import CLIENT, SERVER, SERVER_PORT
from jetstreamproto.testing.simnet import Datagram
from jetstreamproto.transports.admission import AdmissionLimits
from tests.certificates import FOR_CLIENTS, NOW, Authority, pem
from tests.doubles import IDENTITY
from tests.scenarios.quic_pairs import SERVER_AT, STRANGER, QuicPair, QuicTestCase
from tests.scenarios.udp_pairs import recorded
from tests.unit.security.test_identity import FolderTestCase

NEAR = LinkOptions(delay=0.02)


def header_of(datagram: bytes) -> Any:
    return pull_quic_header(Buffer(data=datagram), host_cid_length=8)


class LossTests(QuicTestCase):
    def test_any_of_the_first_datagrams_may_be_lost(self) -> None:
        for lost in range(10):
            with self.subTest(lost=lost):
                seen = [0]

                def tap(_: Datagram, lost: int = lost, seen: list[int] = seen) -> bool:
                    seen[0] += 1
                    return seen[0] - 1 != lost

                pair = QuicPair(link=NEAR, tap=tap)
                self.assertEqual(pair.ask(b"hello"), b"hello")
                self.assertLess(pair.clock.seconds(), 3)
                pair.client.close()
                self.assertEqual(pair.closed(), (None, None))
                self.assert_nothing_left(pair)

    def test_a_third_is_lost(self) -> None:
        for seed in range(8):
            with self.subTest(seed=seed):
                pair = QuicPair(link=replace(NEAR, loss=0.3), seed=seed, connect=False)
                pair.run(pair.client.when_connected())
                self.assertEqual(pair.ask(b"hello"), b"hello")

    def test_nobody_answers(self) -> None:
        pair = QuicPair(connect=False, tap=lambda datagram: datagram.source[0] == SERVER)
        self.assertRaises(HandshakeTimeout, pair.run, pair.client.when_connected())
        self.assert_no_state(pair)
        pair.advance(11)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_nothing_listens(self) -> None:
        pair = QuicPair(connect=False)
        pair.server_port.stopListening()
        self.assertRaises(NothingListens, pair.run, pair.client.when_connected())


class RetryTests(QuicTestCase):
    def first(self, **options: Any) -> tuple[QuicPair, bytes]:
        """A pair whose client's first datagram did not arrive, and that."""
        sent: list[bytes] = []

        def tap(datagram: Datagram) -> bool:
            sent.append(datagram.data)
            return False

        pair = QuicPair(connect=False, tap=tap, **options)
        pair.run_until(lambda: bool(sent))
        pair.client.abort()
        pair.net.tap = None
        pair.let_strangers_in()
        return pair, sent[0]

    def give(self, pair: QuicPair, datagram: bytes, port: int = 1000) -> list[bytes]:
        """Hand the server a datagram of a stranger's; what it answers."""
        with recorded(pair) as seen:
            pair.server_port.receive(datagram, (STRANGER, port))
            pair.server_port.end_batch()
        return [one.data for one in seen if one.source == SERVER_AT]

    def test_a_flood_of_initials_is_answered_by_retries_and_leaves_nothing(self) -> None:
        pair, initial = self.first()
        pair.advance(5)
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        for number in range(500):
            changed = initial[:6] + number.to_bytes(8, "big") + initial[14:]
            (answer,) = self.give(pair, changed, 1000 + number)
            self.assertEqual(header_of(answer).packet_type, QuicPacketType.RETRY)
            self.assertLess(len(answer), 150)
        self.assert_no_state(pair)
        pair.advance(1)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_short_initials_are_ignored(self) -> None:
        pair, initial = self.first()
        for size in (0, 1, 7, 50, 1199):
            self.assertEqual(self.give(pair, initial[:size]), [])
        self.assert_no_state(pair)

    def test_a_token_is_good_for_its_address_and_id_once_and_not_for_long(self) -> None:
        sent: list[Datagram] = []

        def tap(datagram: Datagram) -> bool:
            sent.append(datagram)
            return True

        pair = QuicPair(link=NEAR, tap=tap)
        pair.net.tap = None
        with_token = next(
            one.data for one in sent if one.source[0] == CLIENT and header_of(one.data).token
        )
        port = next(one.source[1] for one in sent if one.source[0] == CLIENT)
        pair.client.close()
        pair.closed()
        pair.advance(5)
        self.assert_no_state(pair)
        pair.let_strangers_in()
        self.give(pair, with_token, port)  # from another address
        self.assert_no_state(pair)
        with recorded(pair) as seen:  # spent
            pair.server_port.receive(with_token, (CLIENT, port))
            pair.server_port.end_batch()
        self.assert_no_state(pair)
        (refusal,) = [one for one in seen if one.source == SERVER_AT]
        self.assertEqual(header_of(refusal.data).packet_type, QuicPacketType.INITIAL)

    def test_a_token_expires(self) -> None:
        held: list[Datagram] = []

        def tap(datagram: Datagram) -> bool:
            if datagram.source[0] == CLIENT and header_of(datagram.data).token:
                held.append(datagram)
                return False
            return True

        pair = QuicPair(link=NEAR, tap=tap, connect=False)
        pair.run_until(lambda: bool(held))
        pair.client.abort()
        pair.advance(25)
        pair.server_port.receive(held[0].data, held[0].source)
        self.assert_no_state(pair)

    def test_damaged_tokens(self) -> None:
        pair, initial = self.first()
        (retry,) = self.give(pair, initial)
        token = header_of(retry).token
        for position in range(0, len(token), 5):
            damaged = bytearray(token)
            damaged[position] ^= 1
            self.give(pair, self.with_token(initial, bytes(damaged)))
            self.assert_no_state(pair)
        for cut in range(1, len(token)):
            self.give(pair, self.with_token(initial, token[:cut]))
        self.assert_no_state(pair)

    def with_token(self, initial: bytes, token: bytes) -> bytes:
        """An Initial with a token that was not in it; its seal does not matter here."""
        at = 5 + 1 + initial[5]
        at += 1 + initial[at]
        return (initial[:at] + bytes([0x40, len(token)]) + token + initial[at + 1 :])[:1200]

    def test_the_versions_there_are_are_told(self) -> None:
        pair, initial = self.first()
        strange = initial[:1] + b"\x0a\x0a\x0a\x0a" + initial[5:]
        (answer,) = self.give(pair, strange)
        header = header_of(answer)
        self.assertEqual(header.packet_type, QuicPacketType.VERSION_NEGOTIATION)
        self.assertEqual(header.supported_versions, VERSIONS)
        self.assertTrue(answer[0] & 0x40)
        self.assertEqual(self.give(pair, strange[:1199]), [])
        self.assertEqual(self.give(pair, answer.ljust(1200, b"\0")), [])  # no loops
        self.assert_no_state(pair)

    def test_version_2_is_spoken_too(self) -> None:
        pair = QuicPair(connect=False)
        client = pair.stranger(original_version=VERSIONS[1], supported_versions=VERSIONS[1:])
        pair.run_until(lambda: client.is_connected)
        client.say_hello()
        pair.run_until(lambda: bool(client.received(0)))


class TrustTests(QuicTestCase, FolderTestCase):
    def refused(self, kind: type[Exception], **options: Any) -> tuple[QuicPair, Any]:
        pair = QuicPair(connect=False, link=NEAR, **options)
        error = self.assertRaises(kind, pair.run, pair.client.when_connected())
        pair.run(pair.server.when_closed())
        self.assertIsInstance(pair.server.close_reason, HandshakeError)
        self.assert_nothing_left(pair)
        return pair, error

    def test_a_wrong_pin(self) -> None:
        other = Identity.create(NOW)
        trust = PinnedKeys([other.fingerprint])
        pair, error = self.refused(WrongFingerprint, client_options={"trust": trust})
        self.assertIn(IDENTITY.fingerprint, str(error))
        self.assertIn("refused our certificate", str(pair.server.close_reason))

    def test_known_hosts(self) -> None:
        trust = KnownHosts(self.folder / "known", "server:9000")
        _, error = self.refused(UnknownHost, client_options={"trust": trust})
        self.assertEqual(error.fingerprint, IDENTITY.fingerprint)
        trust.accept(error.fingerprint)
        self.assertEqual(trust.known(), frozenset())
        QuicPair(client_options={"trust": trust})
        self.assertEqual(trust.known(), {IDENTITY.fingerprint})

    def test_a_ca_and_the_servers_name(self) -> None:
        authority, other = Authority.create(), Authority.create()
        server = authority.issue("host.example", "10.0.0.2")
        ca, wrong = self.folder / "ca.pem", self.folder / "other.pem"
        ca.write_bytes(pem(authority.certificate))
        wrong.write_bytes(pem(other.certificate))

        def trust(name: str, file: Any = ca) -> dict[str, Any]:
            return {"trust": CertificateAuthority(file, name), "host": name}

        for name in ("host.example", "10.0.0.2"):
            pair = QuicPair(identity=server, client_options=trust(name))
            self.assertEqual(pair.client.peer.fingerprint, server.fingerprint)
        _, error = self.refused(
            CertificateRejected, identity=server, client_options=trust("else.example")
        )
        self.assertIn("'else.example'", str(error))
        _, error = self.refused(
            CertificateRejected, identity=server, client_options=trust("host.example", wrong)
        )
        self.assertIn("CA", str(error))
        client_only = authority.issue("host.example", purpose=FOR_CLIENTS)
        _, error = self.refused(
            CertificateRejected, identity=client_only, client_options=trust("host.example")
        )
        self.assertIn("purpose", str(error))

    def test_another_protocol(self) -> None:
        for alpn in (["h3"], ["jetstream/2"]):
            pair = QuicPair(connect=False)
            client = pair.stranger(alpn=alpn)
            pair.run_until(lambda client=client: client.closed_by is not None)
            assert client.closed_by is not None
            self.assertEqual(client.closed_by.error_code, 0x178)
            self.assertFalse(client.is_connected)

    def test_no_protocol_at_all(self) -> None:
        pair = QuicPair(connect=False)
        client = pair.stranger(alpn=[])
        pair.run_until(lambda: client.closed_by is not None)
        assert client.closed_by is not None
        self.assertEqual(client.closed_by.error_code, 0x178)


class AdmissionTests(QuicTestCase):
    def test_a_server_that_is_full_says_so(self) -> None:
        limits = AdmissionLimits(sessions=1)
        pair = QuicPair(server_options={"admission": limits})
        factory = pair.client_factory
        second = pair.client_protocol.connect_quic(SERVER, SERVER_PORT, factory)
        error = self.assertRaises(Refused, pair.run, second.when_connected())
        self.assertIn("too many connections", str(error))
        self.assertEqual(len(pair.server_factory._tickets), 1)
        pair.client.close()
        pair.closed()
        pair.advance(2)
        third = pair.client_protocol.connect_quic(SERVER, SERVER_PORT, factory)
        pair.run(third.when_connected())

    def test_a_server_that_stops_lets_nobody_in(self) -> None:
        pair = QuicPair()
        pair.server_factory.drain()
        second = pair.client_protocol.connect_quic(SERVER, SERVER_PORT, pair.client_factory)
        error = self.assertRaises(Refused, pair.run, second.when_connected())
        self.assertIn("shutting down", str(error))

    def test_both_protocols_on_one_port(self) -> None:
        for batches in (True, False):
            pair = QuicPair(link=replace(NEAR, loss=0.05), batches=batches)
            other = pair.client_protocol.connect(SERVER, SERVER_PORT, pair.client_factory)
            pair.run(other.when_connected())
            for session in (pair.client, other, pair.client):
                inbox = pair.run(session.open("echo"))
                inbox.channel.send(bytes(100_000))
                self.assertEqual(pair.run(inbox.get()), bytes(100_000))
            self.assertEqual(len(pair.server_factory.sessions), 2)
            pair.run(other.close())
            pair.run(pair.client.close())
            self.assert_nothing_left(pair)
