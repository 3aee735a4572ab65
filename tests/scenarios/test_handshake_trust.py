"""Who is let in: handshakes through whole sessions, and what each side says about a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from jetstreamproto.errors import (
    CertificateRejected,
    ConfigurationError,
    HandshakeError,
    HandshakeTimeout,
    JetStreamError,
    Refused,
    UnknownHost,
    WrongFingerprint,
)
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.security.handshake import Role
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.keys import Cipher
from jetstreamproto.security.records import HEADER_SIZE, MAX_PLAIN_BODY, RecordType, plain_record
from jetstreamproto.security.trust import CertificateAuthority, KnownHosts, PinnedKeys, Trust
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.session import SessionState
from jetstreamproto.testing import SessionPair
from jetstreamproto.transports.admission import AdmissionLimits
from tests.certificates import DAY, FOR_CLIENTS, FOR_SERVERS, NOW, Authority, pem, self_signed
from tests.tls_peers import drive, foreign_connection, older_servers
from tests.unit.security.test_identity import FolderTestCase
from tests.unit.security.test_records import split
from tests.unit.transports.tcp_ends import Transport

SERVER = Identity.create(NOW)
CLIENT = Identity.create(NOW)
REFUSED = "the peer refused our certificate"


def reason_of(reason: JetStreamError | None) -> JetStreamError:
    assert reason is not None, "it was a clean end"
    return reason


class TrustTestCase(FolderTestCase):
    def pair(
        self,
        trust: Trust | None = None,
        identity: Identity = SERVER,
        *,
        client: Mapping[str, Any] | None = None,
        server: Mapping[str, Any] | None = None,
        chop: int = 0,
        latency: float = 0,
    ) -> SessionPair:
        return SessionPair(
            services={"echo": Echo},
            identity=identity,
            connect=False,
            chop=chop,
            latency=latency,
            client_options={"trust": trust or PinnedKeys([identity.fingerprint]), **(client or {})},
            server_options=server,
        )

    def accept(self, *args: Any, **options: Any) -> SessionPair:
        pair = self.pair(*args, **options)
        pair.run(pair.client.when_connected())
        pair.run(pair.server.when_connected())
        inbox = pair.run(pair.client.open("echo"))
        inbox.channel.send(b"hello")
        self.assertEqual(pair.run(inbox.get()), b"hello")
        pair.client.close()
        pair.run(pair.client.when_closed())
        pair.run(pair.server.when_closed())
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        return pair

    def refuse(self, *args: Any, **options: Any) -> tuple[JetStreamError, JetStreamError]:
        """Why it did not work: for the client, and for the server."""
        for chop in (0, 1):
            pair = self.pair(*args, chop=chop, **options)
            states = []
            for factory in (pair.client_factory, pair.server_factory):
                factory.session_made = states.append  # type: ignore[method-assign]
            waiting = pair.client.when_connected(), pair.server.when_connected()
            failures: list[Any] = []
            for deferred in waiting:
                deferred.addErrback(failures.append)
            pair.run_until(lambda pair=pair: self.both_closed(pair))  # type: ignore[misc]
            self.assertEqual(states, [], "somebody was connected")
            reasons = reason_of(pair.client.close_reason), reason_of(pair.server.close_reason)
            self.assertEqual({failure.value for failure in failures}, set(reasons))
            self.assertEqual(pair.clock.getDelayedCalls(), [])
            self.assertLess(pair.clock.seconds(), 1, "it took a deadline to find out")
        return reasons

    def both_closed(self, pair: SessionPair) -> bool:
        return pair.client.state is pair.server.state is SessionState.CLOSED

    def assert_says(self, reason: JetStreamError, kind: type[JetStreamError], *parts: str) -> None:
        self.assertIsInstance(reason, kind)
        for part in parts:
            self.assertIn(part, str(reason))


class PinnedTests(TrustTestCase):
    def test_the_right_pin(self) -> None:
        pair = self.accept()
        self.assertEqual(pair.client.peer.fingerprint, SERVER.fingerprint)
        self.assertIsNone(pair.server.peer.fingerprint)

    def test_the_wrong_pin(self) -> None:
        ours, theirs = self.refuse(PinnedKeys([CLIENT.fingerprint]))
        self.assert_says(ours, WrongFingerprint, SERVER.fingerprint, "not trusted")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_an_expired_certificate(self) -> None:
        ours, theirs = self.refuse(identity=self_signed(start=NOW - 3 * DAY, end=NOW - DAY))
        self.assert_says(ours, CertificateRejected, "expired on", f"{NOW - DAY:%Y-%m-%d}")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_certificate_that_is_not_valid_yet(self) -> None:
        ours, theirs = self.refuse(identity=self_signed(start=NOW + DAY, end=NOW + 3 * DAY))
        self.assert_says(ours, CertificateRejected, "not valid before", f"{NOW + DAY:%Y-%m-%d}")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_pin_does_not_care_who_signed(self) -> None:
        self.accept(identity=Authority.create().intermediate().issue("elsewhere.example"))

    def test_a_server_without_the_first_group(self) -> None:
        with older_servers():
            self.accept()

    def test_both_ciphers(self) -> None:
        for cipher in Cipher:
            self.accept(client={"ciphers": (cipher,)})


class AuthorityTests(TrustTestCase):
    authority = Authority.create()

    def setUp(self) -> None:
        super().setUp()
        self.file = self.authority.write(self.folder / "ca.pem")

    def trust(self, name: str | None = "server.example") -> CertificateAuthority:
        return CertificateAuthority(self.file, name)

    def test_names_and_addresses(self) -> None:
        for name, shown in (
            ("server.example", "server.example"),
            ("any.example.com", "*.example.com"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            (None, "whatever.example"),
        ):
            self.accept(self.trust(name), self.authority.issue(shown), client={"host": name})

    def test_another_name(self) -> None:
        for name, shown in (
            ("server.example", "other.example"),
            ("example.com", "*.example.com"),
            ("192.0.2.7", "192.0.2.8"),
        ):
            ours, theirs = self.refuse(self.trust(name), self.authority.issue(shown))
            self.assert_says(ours, CertificateRejected, f"not for {name!r}")
            self.assert_says(theirs, HandshakeError, REFUSED)

    def test_expired(self) -> None:
        identity = self.authority.issue("server.example", start=NOW - 3 * DAY, end=NOW - DAY)
        ours, theirs = self.refuse(self.trust(), identity)
        self.assert_says(ours, CertificateRejected, "expired")
        self.assert_says(theirs, HandshakeError, REFUSED, "expired")

    def test_not_valid_yet(self) -> None:
        identity = self.authority.issue("server.example", start=NOW + DAY, end=NOW + 3 * DAY)
        ours, theirs = self.refuse(self.trust(), identity)
        self.assert_says(ours, CertificateRejected, "not valid yet")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_another_ca(self) -> None:
        for other in (Authority.create(), Authority.create("Another CA")):
            ours, theirs = self.refuse(self.trust(), other.issue("server.example"))
            self.assert_says(ours, CertificateRejected)
            self.assert_says(theirs, HandshakeError, REFUSED)

    def test_self_signed(self) -> None:
        ours, theirs = self.refuse(self.trust(), self_signed(names=["server.example"]))
        self.assert_says(ours, CertificateRejected, "self-signed")
        self.assert_says(theirs, HandshakeError, REFUSED, "not one it trusts")

    def test_a_self_signed_certificate_that_is_the_ca_file(self) -> None:
        identity = self_signed(names=["server.example"])
        self.file.write_bytes(identity.to_pem())
        self.accept(self.trust(), identity)

    def test_a_chain(self) -> None:
        intermediate = self.authority.intermediate("one").intermediate("two")
        self.accept(self.trust(), intermediate.issue("server.example"))

    def test_a_chain_that_is_not_shown(self) -> None:
        identity = self.authority.intermediate().issue("server.example", send_chain=False)
        ours, theirs = self.refuse(self.trust(), identity)
        self.assert_says(ours, CertificateRejected, "not one of the trusted CAs")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_link_of_the_chain_that_has_expired(self) -> None:
        intermediate = self.authority.intermediate(start=NOW - 3 * DAY, end=NOW - DAY)
        ours, theirs = self.refuse(self.trust(), intermediate.issue("server.example"))
        self.assert_says(ours, CertificateRejected, "expired")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_an_issuer_that_is_no_ca(self) -> None:
        """Anyone with a certificate of the CA could vouch for anyone else."""
        leaf = self.authority.intermediate("leaf", ca=False)
        ours, theirs = self.refuse(self.trust(), leaf.issue("server.example"))
        self.assert_says(ours, CertificateRejected, "its issuer is not a CA")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_certificate_for_clients_only(self) -> None:
        identity = self.authority.issue("server.example", purpose=FOR_CLIENTS)
        ours, theirs = self.refuse(self.trust(), identity)
        self.assert_says(ours, CertificateRejected, "not issued for this purpose")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_chain_that_is_too_long_for_a_handshake(self) -> None:
        """Its own server says so to the client, rather than break off in the middle."""
        chain = self.authority
        for number in range(12):
            chain = chain.intermediate(f"number {number}")
        ours, theirs = self.refuse(self.trust(), chain.issue("server.example"))
        self.assert_says(ours, CertificateRejected, "chain is too long")
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_large_certificate(self) -> None:
        """More than one record of TLS."""
        names = [f"host{number}.example" for number in range(1200)]
        identity = self.authority.issue(*names)
        self.assertGreater(len(pem(identity.certificate)), 4 * MAX_PLAIN_BODY // 3)
        self.accept(self.trust("host1199.example"), identity)


class KnownHostsTests(TrustTestCase):
    HOST = "server.example:9000"

    @property
    def path(self) -> Path:
        return self.folder / "known_hosts"

    def trust(self, **options: Any) -> KnownHosts:
        return KnownHosts(self.path, self.HOST, **options)

    def test_first_contact(self) -> None:
        ours, theirs = self.refuse(self.trust())
        self.assert_says(ours, UnknownHost, self.HOST, SERVER.fingerprint)
        assert isinstance(ours, UnknownHost)
        self.assertEqual((ours.host, ours.fingerprint), (self.HOST, SERVER.fingerprint))
        self.assert_says(theirs, HandshakeError, REFUSED)
        self.assertFalse(self.path.exists())

    def test_trusting_the_new_and_refusing_the_changed(self) -> None:
        self.accept(self.trust(trust_new=True))
        self.accept(self.trust())
        self.assertEqual(len(self.path.read_text().splitlines()), 1)
        ours, theirs = self.refuse(self.trust(trust_new=True), Identity.create(NOW))
        self.assert_says(ours, WrongFingerprint, self.HOST, str(self.path), "key was changed")
        self.assert_says(theirs, HandshakeError, REFUSED)
        self.accept(self.trust())

    def test_nothing_of_our_files_is_told_to_a_stranger(self) -> None:
        """What is written before there are keys can be read by anyone."""
        for line in (f"{self.HOST} {CLIENT.fingerprint}", f"{self.HOST} nonsense"):
            self.path.write_text(line + "\n")
            pair = self.pair(self.trust())
            written: list[bytes] = []
            protocol = pair.server_transport._protocol
            protocol.dataReceived = written.append  # type: ignore[method-assign]
            pair.advance(0)
            drive(foreign := foreign_connection(Role.SERVER, identity=SERVER))
            foreign.bio_write(written.pop()[HEADER_SIZE:])
            flight = plain_record(RecordType.CRYPTO, drive(foreign))
            pair.client_transport._protocol.dataReceived(flight)
            pair.advance(0)
            self.assertIs(pair.client.state, SessionState.CLOSED)
            self.assertIn(str(self.path), str(pair.client.close_reason))
            everything = b"".join(written)
            self.assertTrue(everything, "TLS has its alert")
            self.assertNotIn(str(self.path).encode(), everything)
            self.assertNotIn(CLIENT.fingerprint.encode(), everything)

    def test_our_own_server(self) -> None:
        self.accept(self.trust(own=SERVER.fingerprint))

    def test_a_file_that_makes_no_sense(self) -> None:
        self.path.write_text(f"{self.HOST} nonsense\n")
        ours, theirs = self.refuse(self.trust())
        self.assert_says(ours, ConfigurationError, str(self.path))
        self.assert_says(theirs, HandshakeError, REFUSED)

    def test_a_file_that_is_a_folder(self) -> None:
        self.path.mkdir()
        ours, _ = self.refuse(self.trust())
        self.assert_says(ours, ConfigurationError, str(self.path))


class ClientCertificateTests(TrustTestCase):
    def server(self, trust: Trust) -> dict[str, Trust]:
        return {"clients": trust}

    def test_a_pinned_client(self) -> None:
        pair = self.accept(
            client={"identity": CLIENT}, server=self.server(PinnedKeys([CLIENT.fingerprint]))
        )
        self.assertEqual(pair.server.peer.fingerprint, CLIENT.fingerprint)
        self.assertEqual(pair.client.peer.fingerprint, SERVER.fingerprint)

    def test_no_certificate(self) -> None:
        ours, theirs = self.refuse(server=self.server(PinnedKeys([CLIENT.fingerprint])))
        self.assert_says(ours, HandshakeError, "requires a client certificate")
        self.assert_says(theirs, HandshakeError, "showed no certificate")

    def test_the_wrong_certificate(self) -> None:
        ours, theirs = self.refuse(
            client={"identity": SERVER}, server=self.server(PinnedKeys([CLIENT.fingerprint]))
        )
        self.assert_says(ours, HandshakeError, REFUSED)
        self.assert_says(theirs, WrongFingerprint, SERVER.fingerprint)

    def test_an_expired_certificate(self) -> None:
        expired = self_signed(start=NOW - 3 * DAY, end=NOW - DAY)
        ours, theirs = self.refuse(
            client={"identity": expired}, server=self.server(PinnedKeys([expired.fingerprint]))
        )
        self.assert_says(ours, HandshakeError, REFUSED)
        self.assert_says(theirs, CertificateRejected, "expired on")

    def test_a_ca_of_clients(self) -> None:
        authority = Authority.create("CA of clients")
        clients = self.server(CertificateAuthority(authority.write(self.folder / "clients.pem")))
        for identity in (
            authority.issue("somebody"),
            authority.issue("somebody", purpose=FOR_CLIENTS),
            authority.intermediate().issue("somebody"),
        ):
            pair = self.accept(client={"identity": identity}, server=clients)
            self.assertEqual(pair.server.peer.fingerprint, identity.fingerprint)
        for identity, why in (
            (Authority.create("Another CA").issue("somebody"), "not one of the trusted CAs"),
            (CLIENT, "self-signed"),
            (authority.issue("somebody", start=NOW - 2 * DAY, end=NOW - DAY), "expired"),
            (authority.issue("somebody", purpose=FOR_SERVERS), "not issued for this purpose"),
        ):
            ours, theirs = self.refuse(client={"identity": identity}, server=clients)
            self.assert_says(ours, HandshakeError, REFUSED)
            self.assert_says(theirs, CertificateRejected, why)
        ours, theirs = self.refuse(server=clients)
        self.assert_says(ours, HandshakeError, "requires a client certificate")
        self.assert_says(theirs, HandshakeError, "showed no certificate")

    def test_a_certificate_that_nobody_asked_for(self) -> None:
        pair = self.accept(client={"identity": CLIENT})
        self.assertIsNone(pair.server.peer.fingerprint)


JUDGING = {"authenticate": lambda *_: succeed("anybody")}
"""A server that says nothing before it has judged."""


class ConnectedTests(TrustTestCase):
    """When a session counts as connected: with the peer's first packet under the new keys."""

    def test_the_client_waits_for_the_servers_packet(self) -> None:
        pair = self.pair(latency=0.1, server=JUDGING)
        connected: list[object] = []
        pair.client.when_connected().addCallback(connected.append)
        pair.run_until(lambda: pair.client.link.writable)  # the keys are there, and were used
        pair.server_transport.pause()
        pair.advance(5)
        self.assertEqual((connected, pair.client.state), ([], SessionState.CONNECTING))
        self.assertIs(pair.server.state, SessionState.OPEN)
        pair.server_transport.resume()
        pair.advance(1)
        self.assertEqual((connected, pair.client.state), ([pair.client], SessionState.OPEN))

    def test_a_server_that_never_answers_is_a_timeout(self) -> None:
        pair = self.pair(latency=0.1, server=JUDGING)
        failures: list[Any] = []
        pair.client.when_connected().addErrback(failures.append)
        pair.run_until(lambda: pair.client.link.writable)
        pair.server_transport.pause()
        pair.advance(11)
        self.assertIs(failures[0].type, HandshakeTimeout)

    def test_the_client_waits_for_a_packet_that_comes_with_the_handshake(self) -> None:
        pair = self.pair()
        connected: list[object] = []
        pair.client.when_connected().addCallback(connected.append)
        protocol = pair.client_transport._protocol
        deliver = protocol.dataReceived
        held: list[bytes] = []
        protocol.dataReceived = held.append  # type: ignore[method-assign]
        pair.advance(0)
        *handshake, packets = (record for data in held for record in split(data))
        self.assertEqual({record[0] for record in handshake}, {RecordType.CRYPTO})
        self.assertEqual(packets[0], RecordType.PACKETS)
        for record in handshake:
            deliver(record)
        self.assertIsNotNone(pair.client.peer.fingerprint)  # the handshake is complete
        self.assertEqual((connected, pair.client.state), ([], SessionState.CONNECTING))
        deliver(packets)
        self.assertEqual((connected, pair.client.state), ([pair.client], SessionState.OPEN))

    def test_the_server_waits_for_the_clients_packet(self) -> None:
        """The handshake is complete with the client's Finished; the proof of keys is its HELLO."""
        pair = self.pair()
        made: list[object] = []
        held: list[bytes] = []
        pair.server_factory.session_made = made.append  # type: ignore[method-assign]
        protocol = pair.server_transport._protocol
        deliver = protocol.dataReceived
        protocol.dataReceived = held.append  # type: ignore[method-assign]
        records: list[bytes] = []
        for expected in (RecordType.CRYPTO, RecordType.CRYPTO, RecordType.PACKETS):
            pair.advance(0)
            self.assertEqual((made, pair.server.state), ([], SessionState.CONNECTING))
            records += [record for data in held for record in split(data)]
            held.clear()
            record = records.pop(0)
            self.assertEqual(record[0], expected)
            deliver(record)
        self.assertEqual((made, pair.server.state), ([pair.server], SessionState.OPEN))


class ForeignPeerTests(TrustTestCase):
    """Peers that speak TLS in our records, but not as we do."""

    def server(self) -> tuple[Any, Transport]:
        factory = JetStreamServerFactory(SERVER, reactor=Clock())  # type: ignore[arg-type]
        return self.connect(factory)

    def client(self) -> tuple[Any, Transport]:
        factory = JetStreamClientFactory(
            PinnedKeys([SERVER.fingerprint]),
            reactor=Clock(),  # type: ignore[arg-type]
        )
        return self.connect(factory)

    def connect(self, factory: Any) -> tuple[Any, Transport]:
        address = IPv4Address("TCP", "192.0.2.1", 9000)
        protocol = factory.buildProtocol(address)
        transport = Transport(address)
        protocol.makeConnection(transport)
        return protocol, transport

    def talk(self, foreign: SSL.Connection, protocol: Any, transport: Transport) -> bytes:
        """Let them talk until our side closes; what was written last."""
        for _ in range(10):
            try:
                flight = drive(foreign)
            except SSL.Error:
                flight = foreign.bio_read(1 << 16)
            if flight:
                protocol.dataReceived(plain_record(RecordType.CRYPTO, flight))
            protocol.factory.clock.advance(0)  # a flight leaves at the end of the turn
            written = transport.take()
            if transport.closed:
                protocol.connectionLost()
                return written
            if written:
                foreign.bio_write(written[4:])
        raise AssertionError("it was not refused")

    def test_no_alpn(self) -> None:
        for alpn in ((), (b"h2",)):
            protocol, transport = self.server()
            written = self.talk(foreign_connection(Role.CLIENT, alpn=alpn), protocol, transport)
            reason = reason_of(protocol.session.close_reason)
            self.assert_says(reason, HandshakeError, "jetstream/1", "ALPN")
            self.assertEqual(split(written)[-1][0], RecordType.ALERT)
            self.assertIn(b"ALPN", split(written)[-1], "the peer is told")
            protocol, transport = self.client()
            foreign = foreign_connection(Role.SERVER, alpn=alpn, identity=SERVER)
            self.talk(foreign, protocol, transport)
            reason = reason_of(protocol.session.close_reason)
            self.assert_says(reason, HandshakeError, "jetstream/1", "ALPN")

    def test_only_tls_1_2(self) -> None:
        protocol, transport = self.server()
        foreign = foreign_connection(Role.CLIENT, version=SSL.TLS1_2_VERSION)
        written = self.talk(foreign, protocol, transport)
        reason = reason_of(protocol.session.close_reason)
        self.assert_says(reason, HandshakeError, "offers no TLS 1.3")
        self.assertEqual(written[0], RecordType.CRYPTO)
        with self.assertRaisesRegex(SSL.Error, "protocol version"):
            foreign.bio_write(written[4:])
            foreign.do_handshake()
        protocol, transport = self.client()
        foreign = foreign_connection(Role.SERVER, version=SSL.TLS1_2_VERSION, identity=SERVER)
        self.talk(foreign, protocol, transport)
        reason = reason_of(protocol.session.close_reason)
        self.assert_says(reason, HandshakeError, "does not accept TLS 1.3")

    def test_a_peer_that_falls_silent(self) -> None:
        """Both sides have a deadline, wherever the other stops."""
        for stop in (0, 1, 2):
            pair = self.pair()
            for transport in (pair.client_transport, pair.server_transport):
                transport.pause()
            for number in range(stop):
                transport = (pair.client_transport, pair.server_transport)[number % 2]
                transport.resume()
                pair.advance(0)
                transport.pause()
            failures: list[Any] = []
            for session in (pair.client, pair.server):
                session.when_connected().addErrback(failures.append)
            pair.advance(9.9)
            self.assertEqual(failures, [])
            pair.advance(0.2)
            self.assertTrue(all(failure.check(HandshakeError) for failure in failures))
            self.assertIn(HandshakeTimeout, [failure.type for failure in failures])
            self.assertEqual(pair.clock.getDelayedCalls(), [])


class TurnedAwayTests(TrustTestCase):
    def test_the_client_hears_why(self) -> None:
        pair = self.pair(server={"admission": AdmissionLimits(sessions=1)})
        pair.run(pair.client.when_connected())
        self.assertEqual(self.second_client(pair), "the server has too many connections")
        pair.server_factory.drain()
        self.assertEqual(self.second_client(pair), "the server is shutting down")

    def second_client(self, pair: SessionPair) -> str:
        address = IPv4Address("TCP", "192.0.2.1", 9000)
        turned_away = pair.server_factory.buildProtocol(address)
        door, visitor = Transport(address), Transport(address)
        turned_away.makeConnection(door)
        self.assertTrue(door.closed)
        client = pair.client_factory.buildProtocol(address)
        client.makeConnection(visitor)
        failures: list[Any] = []
        client.when_connected().addErrback(failures.append)
        client.dataReceived(door.take())
        self.assertTrue(visitor.closed)
        client.connectionLost()
        turned_away.connectionLost()
        (failure,) = failures
        self.assertIs(failure.type, Refused)
        prefix, _, why = str(failure.value).partition(": ")
        self.assertEqual(prefix, "the peer turned us away")
        return why
