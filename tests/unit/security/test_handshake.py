"""Tests for jetstreamproto.security.handshake: two handshakes, or one and a foreign TLS peer.

What refusals look like through whole sessions is in tests/scenarios/test_handshake_trust.py.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import random
import weakref
from collections.abc import Callable
from unittest import TestCase
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from jetstreamproto.errors import (
    CertificateRejected,
    ConfigurationError,
    HandshakeError,
    JetStreamError,
    TrustError,
    WrongFingerprint,
)
from jetstreamproto.security import handshake
from jetstreamproto.security.handshake import ALPN, Handshake, Role, TlsContext
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.keys import Cipher, TrafficKeys
from jetstreamproto.security.trust import PinnedKeys
from tests.certificates import NOW, pem, self_signed
from tests.tls_peers import drive, foreign_connection, groups_of
from tests.unit.security.test_identity import FolderTestCase
from tests.unit.security.test_records import seal as seal_with
from tests.unit.security.test_records import unseal

untimed = settings(deadline=None, derandomize=True, database=None, max_examples=50)

# IANA's TLS supported groups
X25519MLKEM768, SECP256R1MLKEM768, X25519, SECP256R1 = 0x11EC, 0x11EB, 0x001D, 0x0017

IDENTITY = Identity.create(NOW)
PINNED = PinnedKeys([IDENTITY.fingerprint])


class Lenient:
    """A policy that everybody passes."""

    ca_file = None

    def check(self, certificate: object, now: object) -> None: ...

    def proved(self, certificate: object) -> None: ...


def server(tls: TlsContext | None = None) -> Handshake:
    return Handshake(tls or TlsContext(Role.SERVER, identity=IDENTITY), now=NOW)


def client(tls: TlsContext | None = None, host: str | None = None) -> Handshake:
    handshake = Handshake(tls or TlsContext(Role.CLIENT, trust=PINNED), now=NOW, host=host)
    handshake.start()
    return handshake


def exchange(one: Handshake, other: Handshake, chop: int = 1 << 20) -> None:
    """Carry bytes both ways until there are none."""
    moved = True
    while moved:
        moved = False
        for sender, receiver in ((one, other), (other, one)):
            flight = sender.outgoing()
            for start in range(0, len(flight), chop):
                receiver.receive(flight[start : start + chop])
                moved = True


class AgreementTests(TestCase):
    def test_both_sides_have_each_others_keys(self) -> None:
        one, other = client(), server()
        exchange(one, other)
        self.assertTrue(one.complete and other.complete)
        for (sending, _), (_, receiving) in (
            (one.traffic_keys(b"tcp"), other.traffic_keys(b"tcp")),
            (other.traffic_keys(b"tcp"), one.traffic_keys(b"tcp")),
        ):
            self.assert_same(sending, receiving)

    def assert_same(self, sending: TrafficKeys, receiving: TrafficKeys) -> None:
        from jetstreamproto.security.records import RecordOpener, RecordSealer

        record = seal_with(RecordSealer(sending), b"text")
        self.assertEqual(unseal(RecordOpener(receiving), record), b"text")
        self.assertEqual(sending.iv, receiving.iv)

    def test_directions_transports_and_handshakes_have_keys_of_their_own(self) -> None:
        ivs = []
        for _ in range(2):
            one, other = client(), server()
            exchange(one, other)
            for transport in (b"tcp", b"udp"):
                ivs.extend(keys.iv for keys in one.traffic_keys(transport))
        self.assertEqual(len(set(ivs)), 8)

    def test_one_byte_at_a_time(self) -> None:
        one, other = client(), server()
        exchange(one, other, chop=1)
        self.assertEqual(one.traffic_keys(b"tcp")[0].iv, other.traffic_keys(b"tcp")[1].iv)

    def test_nothing_is_a_harmless_piece_of_it(self) -> None:
        one, other = client(), server()
        one.receive(b"")
        other.receive(b"")
        exchange(one, other)
        one.receive(b"")
        other.receive(b"")
        self.assertTrue(one.complete and other.complete)

    def test_the_clients_order_of_ciphers_counts(self) -> None:
        aes, chacha = Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305
        for wanted, offered, expected in (
            ((aes, chacha), (aes, chacha), aes),
            ((aes, chacha), (chacha, aes), aes),
            ((chacha, aes), (aes, chacha), chacha),
            ((chacha,), (aes, chacha), chacha),
            ((chacha, aes), (aes,), aes),
        ):
            one = client(TlsContext(Role.CLIENT, trust=PINNED, ciphers=wanted))
            other = server(TlsContext(Role.SERVER, identity=IDENTITY, ciphers=offered))
            exchange(one, other)
            for keys in (*one.traffic_keys(b"tcp"), *other.traffic_keys(b"tcp")):
                self.assertIs(keys.cipher, expected)

    def test_no_cipher_in_common(self) -> None:
        one = client(TlsContext(Role.CLIENT, trust=PINNED, ciphers=(Cipher.AES_256_GCM,)))
        other = server(
            TlsContext(Role.SERVER, identity=IDENTITY, ciphers=(Cipher.CHACHA20_POLY1305,))
        )
        with self.assertRaisesRegex(HandshakeError, "none of our ciphers"):
            exchange(one, other)
        with self.assertRaisesRegex(HandshakeError, "no common TLS parameters"):
            exchange(one, other)

    def test_the_group_is_post_quantum(self) -> None:
        one, other = client(), server()
        exchange(one, other)
        self.assertEqual(one._connection.get_group_name(), "X25519MLKEM768")

    def test_a_hello_has_a_key_of_the_first_group_only(self) -> None:
        offered, shared = groups_of(client().outgoing())
        self.assertEqual(offered[:4], [X25519MLKEM768, SECP256R1MLKEM768, X25519, SECP256R1])
        self.assertEqual(shared, [X25519MLKEM768])

    def test_a_server_that_has_other_groups_asks_again(self) -> None:
        for curve in (ec.SECP256R1(), ec.SECP384R1()):
            foreign = foreign_connection(Role.SERVER, curve=curve, identity=IDENTITY)
            one = client()
            foreign.bio_write(one.outgoing())
            one.receive(drive(foreign))  # HelloRetryRequest
            self.assertFalse(one.complete)
            foreign.bio_write(one.outgoing())
            one.receive(drive(foreign))
            self.assertTrue(one.complete)
            self.assertNotEqual(one._connection.get_group_name(), "X25519MLKEM768")

    def test_groups_that_openssl_does_not_know_leave_its_own(self) -> None:
        with patch.object(handshake, "_GROUPS", b"X25519:none such"):
            tls = TlsContext(Role.CLIENT, trust=PINNED)
        self.assertEqual(lib.ERR_get_error(), 0, "a fault is left for somebody else to find")
        _, shared = groups_of(client(tls).outgoing())
        self.assertIn(X25519, shared)
        one, other = client(tls), server()
        exchange(one, other)
        self.assertTrue(one.complete and other.complete)

    def test_bindings_without_the_call_leave_openssl_s_own(self) -> None:
        with patch.object(handshake, "lib", None):
            tls = TlsContext(Role.CLIENT, trust=PINNED)
        _, shared = groups_of(client(tls).outgoing())
        self.assertIn(X25519, shared)

    def test_the_name_indication(self) -> None:
        for host, sent in (
            ("server.example", b"server.example"),
            ("server.example.", b"server.example"),
            ("bücher.example", b"xn--bcher-kva.example"),
            ("localhost", b"localhost"),
            ("127.0.0.1", None),
            ("::1", None),
            ("fe80::1%eth0", None),
            (None, None),
            ("", None),
        ):
            other = server()
            exchange(client(host=host), other)
            self.assertEqual(other._connection.get_servername(), sent)

    def test_a_host_that_is_no_name(self) -> None:
        for host in ("a..b", "x" * 64, "a b", "\0", "[::1]", "host:9000"):
            with self.subTest(repr(host)), self.assertRaisesRegex(ConfigurationError, "host name"):
                client(host=host)


class ExporterTests(TestCase):
    """The keys against RFC 8446, from the secrets in OpenSSL's key log."""

    def test_traffic_keys_from_the_exporter_secret(self) -> None:
        for cipher, hash_name in (
            (Cipher.AES_256_GCM, "sha384"),
            (Cipher.CHACHA20_POLY1305, "sha256"),
        ):
            with self.subTest(cipher):
                lines: list[bytes] = []
                tls = TlsContext(Role.SERVER, identity=IDENTITY, ciphers=(cipher,))
                tls._context.set_keylog_callback(lambda _, line, log=lines: log.append(line))
                one, other = client(), server(tls)
                exchange(one, other)
                secret = next(
                    bytes.fromhex(line.split()[2].decode())
                    for line in lines
                    if line.startswith(b"EXPORTER_SECRET")
                )
                exported = self.tls_exporter(
                    secret, b"EXPORTER-JetStream-1", b"jetstream\0jetstream/1\0tcp", 96, hash_name
                )
                to_server = TrafficKeys(exported[:48], cipher)
                to_client = TrafficKeys(exported[48:], cipher)
                sending, receiving = one.traffic_keys(b"tcp")
                self.assertEqual((sending.iv, receiving.iv), (to_server.iv, to_client.iv))

    def tls_exporter(
        self, secret: bytes, label: bytes, context: bytes, size: int, hash_name: str
    ) -> bytes:
        """TLS-Exporter of RFC 8446, section 7.5."""

        def digest(data: bytes) -> bytes:
            return hashlib.new(hash_name, data).digest()

        def expand_label(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
            label = b"tls13 " + label
            info = size.to_bytes(2, "big")
            info += bytes([len(label)]) + label + bytes([len(context)]) + context
            output, block = b"", b""
            while len(output) < size:
                counter = bytes([len(output) // len(digest(b"")) + 1])
                block = hmac.digest(secret, block + info + counter, hash_name)
                output += block
            return output[:size]

        derived = expand_label(secret, label, digest(b""), len(digest(b"")))
        return expand_label(derived, b"exporter", digest(context), size)

    def test_a_server_has_them_early_and_keeps_none(self) -> None:
        alice, bob = client(), server()
        self.assertIsNone(alice.early_keys(b"tcp"))
        self.assertIsNone(bob.early_keys(b"tcp"))  # nothing has come yet
        bob.receive(alice.outgoing())
        early = bob.early_keys(b"tcp")
        assert early is not None
        self.assertFalse(bob.complete)
        exchange(alice, bob)
        self.assertIs(bob.traffic_keys(b"tcp"), early)
        again = bob.traffic_keys(b"tcp")
        self.assertIsNot(again, early)
        self.assertEqual([keys.iv for keys in again], [keys.iv for keys in early])
        self.assertEqual(alice.traffic_keys(b"tcp")[1].iv, early[0].iv)
        judging = server(TlsContext(Role.SERVER, identity=IDENTITY, trust=Lenient()))
        judging.receive(client().outgoing())
        self.assertIsNone(judging.early_keys(b"tcp"))

    def test_before_the_end_there_are_no_keys(self) -> None:
        with self.assertRaises(SSL.Error):
            client().traffic_keys(b"tcp")


class ForeignPeerTests(TestCase):
    def test_a_client_without_alpn(self) -> None:
        for alpn in ((), (b"h2", b"http/1.1"), (b"jetstream/2",), (b"jetstream",)):
            foreign, other = foreign_connection(Role.CLIENT, alpn=alpn), server()
            other.receive(drive(foreign))
            foreign.bio_write(other.outgoing())
            with self.assertRaisesRegex(HandshakeError, "jetstream/1.*ALPN"):
                other.receive(drive(foreign))
            self.assertFalse(other.complete)

    def test_a_client_that_offers_ours_among_others(self) -> None:
        foreign, other = foreign_connection(Role.CLIENT, alpn=(b"h2", ALPN)), server()
        other.receive(drive(foreign))
        foreign.bio_write(other.outgoing())
        other.receive(drive(foreign))
        self.assertTrue(other.complete)

    def test_a_server_without_alpn(self) -> None:
        for alpn in ((), (b"h2",)):
            foreign = foreign_connection(Role.SERVER, alpn=alpn, identity=IDENTITY)
            one = client()
            foreign.bio_write(one.outgoing())
            with self.assertRaisesRegex(HandshakeError, "jetstream/1.*ALPN"):
                one.receive(drive(foreign))
            self.assertFalse(one.complete)

    def test_a_client_of_tls_1_2(self) -> None:
        foreign, other = foreign_connection(Role.CLIENT, version=SSL.TLS1_2_VERSION), server()
        with self.assertRaisesRegex(HandshakeError, r"offers no TLS 1\.3"):
            other.receive(drive(foreign))
        alert = other.outgoing()
        self.assertEqual(alert[:1] + alert[5:], bytes((21, 2, 70)), "fatal protocol_version")

    def test_a_server_of_tls_1_2(self) -> None:
        foreign = foreign_connection(Role.SERVER, version=SSL.TLS1_2_VERSION, identity=IDENTITY)
        one = client()
        foreign.bio_write(one.outgoing())
        with self.assertRaises(SSL.Error):
            drive(foreign)
        with self.assertRaisesRegex(HandshakeError, r"does not accept TLS 1\.3"):
            one.receive(foreign.bio_read(1 << 16))

    def test_a_cipher_that_the_records_do_not_have(self) -> None:
        foreign = foreign_connection(Role.CLIENT, ciphers=b"TLS_AES_128_GCM_SHA256")
        with self.assertRaisesRegex(HandshakeError, "none of our ciphers"):
            server().receive(drive(foreign))

    def test_no_session_is_resumed(self) -> None:
        """A resumed session would skip the judgement of certificates."""
        mine = self_signed()
        judged = []

        class Counting(PinnedKeys):
            def check(self, certificate: object, now: object) -> None:
                judged.append(certificate)

        tls = TlsContext(Role.SERVER, identity=IDENTITY, trust=Counting([mine.fingerprint]))
        context = foreign_connection(Role.CLIENT, identity=mine).get_context()
        session = None
        for _ in range(2):
            foreign, other = SSL.Connection(context, None), server(tls)
            foreign.set_connect_state()
            if session is not None:
                foreign.set_session(session)
            other.receive(drive(foreign))
            foreign.bio_write(other.outgoing())
            other.receive(drive(foreign))
            self.assertTrue(other.complete)
            self.assertEqual(other.peer_fingerprint, mine.fingerprint)
            tickets = other.outgoing()
            if tickets:
                foreign.bio_write(tickets)
                with self.assertRaises(SSL.WantReadError):
                    foreign.recv(1)
            session = foreign.get_session()
        self.assertEqual(judged, [mine.certificate] * 2)

    def test_application_data_inside_tls(self) -> None:
        foreign, other = foreign_connection(Role.CLIENT), server()
        other.receive(drive(foreign))
        foreign.bio_write(other.outgoing())
        other.receive(drive(foreign))
        foreign.send(b"GET / HTTP/1.1")
        with self.assertRaisesRegex(HandshakeError, "application data inside the TLS handshake"):
            other.receive(foreign.bio_read(1 << 16))

    def test_a_close_notify_in_the_middle_and_after(self) -> None:
        for after in (False, True):
            foreign, other = foreign_connection(Role.CLIENT), server()
            other.receive(drive(foreign))
            foreign.bio_write(other.outgoing())
            if after:
                other.receive(drive(foreign))
            drive(foreign)
            foreign.shutdown()
            with self.assertRaises(HandshakeError) as caught:
                other.receive(foreign.bio_read(1 << 16))
            self.assertGreater(len(str(caught.exception)), 10)


class HostileBytesTests(TestCase):
    def refused_or_waiting(self, handshake: Handshake, data: bytes) -> None:
        try:
            handshake.receive(data)
        except JetStreamError as error:
            self.assertIsInstance(error, HandshakeError | ConfigurationError)
            self.assertTrue(str(error))
            handshake.outgoing()
        self.assertFalse(handshake.complete)

    @untimed
    @given(st.binary(max_size=400))
    def test_any_bytes(self, data: bytes) -> None:
        self.refused_or_waiting(server(), data)
        self.refused_or_waiting(client(), data)

    @untimed
    @given(st.sampled_from((20, 21, 22, 23, 24)), st.binary(max_size=300))
    def test_any_tls_record(self, kind: int, body: bytes) -> None:
        record = bytes((kind, 3, 3)) + len(body).to_bytes(2, "big") + body
        self.refused_or_waiting(server(), record)
        self.refused_or_waiting(client(), record)

    def test_damage_anywhere_in_any_flight(self) -> None:
        """A changed byte is noticed, or both sides still agree on the keys: TLS ignores some."""
        generator = random.Random(20)
        servers = TlsContext(Role.SERVER, identity=IDENTITY)
        clients = TlsContext(Role.CLIENT, trust=PINNED)
        sizes = self.flight_sizes(clients, servers)
        agreed = 0
        for flight, size in enumerate(sizes):
            for place in [*sorted(generator.sample(range(size), min(size, 60))), 0, 1, 2, 3, 4, 5]:
                one, other = client(clients), server(servers)
                try:
                    self.carry(one, other, flight, place, 1 << generator.randrange(8))
                except HandshakeError as error:
                    self.assertTrue(str(error))
                    continue
                if one.complete and other.complete:
                    ours, theirs = one.traffic_keys(b"tcp"), other.traffic_keys(b"tcp")
                    self.assertEqual(ours[0].iv, theirs[1].iv)
                    agreed += 1
        self.assertLess(agreed, 10)

    def flight_sizes(self, clients: TlsContext, servers: TlsContext) -> list[int]:
        one, other = client(clients), server(servers)
        sizes = []
        for sender, receiver in ((one, other), (other, one), (one, other)):
            data = sender.outgoing()
            sizes.append(len(data))
            receiver.receive(data)
        return sizes

    def carry(self, one: Handshake, other: Handshake, flight: int, place: int, bit: int) -> None:
        for number, (sender, receiver) in enumerate(((one, other), (other, one), (one, other))):
            data = bytearray(sender.outgoing())
            if number == flight and place < len(data):
                data[place] ^= bit
            receiver.receive(bytes(data))


class CertificateTests(FolderTestCase):
    def test_the_peers_certificate_and_fingerprint(self) -> None:
        mine = self_signed()
        one = client(TlsContext(Role.CLIENT, identity=mine, trust=PINNED))
        other = server(
            TlsContext(Role.SERVER, identity=IDENTITY, trust=PinnedKeys([mine.fingerprint]))
        )
        exchange(one, other)
        self.assertEqual(one.peer_fingerprint, IDENTITY.fingerprint)
        self.assertEqual(other.peer_fingerprint, mine.fingerprint)
        self.assertEqual(other.peer_certificate, mine.certificate)

    def test_a_certificate_nobody_asked_for_is_not_shown(self) -> None:
        one = client(TlsContext(Role.CLIENT, identity=self_signed(), trust=PINNED))
        other = server()
        exchange(one, other)
        self.assertIsNone(other.peer_fingerprint)

    def test_a_policys_exceptions_become_handshake_errors(self) -> None:
        for raised, expected, text in (
            (WrongFingerprint("not that one"), WrongFingerprint, "not that one"),
            (TrustError("no"), TrustError, "no"),
            (ConfigurationError("the file is broken"), ConfigurationError, "the file is broken"),
            (ValueError("bad encoding"), CertificateRejected, "cannot be read: bad encoding"),
            (RuntimeError("a bug"), CertificateRejected, "cannot be read: a bug"),
        ):

            class Policy:
                ca_file = None

                def check(
                    self, certificate: object, now: object, error: Exception = raised
                ) -> None:
                    raise error

            one, other = client(TlsContext(Role.CLIENT, trust=Policy())), server()
            with self.subTest(repr(raised)):
                with self.assertRaisesRegex(expected, text):
                    exchange(one, other)
                with self.assertRaisesRegex(HandshakeError, "refused our certificate"):
                    other.receive(one.outgoing())

    def test_a_policy_is_asked_once(self) -> None:
        asked = []

        class Policy(Lenient):
            def check(self, certificate: object, now: object) -> None:
                asked.append((certificate, now))

        exchange(client(TlsContext(Role.CLIENT, trust=Policy())), server())
        self.assertEqual(asked, [(IDENTITY.certificate, NOW)])

    def test_a_policy_is_told_of_the_proof_and_not_before(self) -> None:
        proved = []

        class Policy(Lenient):
            def proved(self, certificate: object) -> None:
                proved.append(certificate)

        mine = self_signed()
        one = client(TlsContext(Role.CLIENT, trust=Policy(), identity=mine))
        other = server(TlsContext(Role.SERVER, trust=Policy(), identity=IDENTITY))
        other.receive(one.outgoing())
        self.assertEqual(proved, [])
        one.receive(other.outgoing())
        self.assertEqual(proved, [IDENTITY.certificate])
        other.receive(one.outgoing())
        self.assertEqual(proved, [IDENTITY.certificate, mine.certificate])

    def test_a_certificate_that_is_shown_by_who_does_not_own_it(self) -> None:
        """The proof is the last the server sends: cut off or forged, there is none."""
        proved = []

        class Policy(Lenient):
            def proved(self, certificate: object) -> None:
                proved.append(certificate)

        one, other = client(TlsContext(Role.CLIENT, trust=Policy())), server()
        other.receive(one.outgoing())
        flight = bytearray(other.outgoing())
        flight[-1] ^= 1
        with self.assertRaises(HandshakeError):
            one.receive(bytes(flight))
        self.assertFalse(one.complete)
        self.assertEqual(proved, [])

    def test_what_a_policy_says_to_the_proof_fails_the_handshake(self) -> None:
        class Policy(Lenient):
            def proved(self, certificate: object) -> None:
                raise ConfigurationError("known_hosts: the disk is full")

        one = client(TlsContext(Role.CLIENT, trust=Policy()))
        with self.assertRaisesRegex(ConfigurationError, "disk is full"):
            exchange(one, server())
        self.assertFalse(one.complete)

    def test_a_certificate_that_cannot_be_parsed(self) -> None:
        identity = self_signed()
        known, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")
        der = base64.b64decode(b"".join(pem(identity.certificate).splitlines()[1:-1]))
        odd = crypto.load_certificate(crypto.FILETYPE_ASN1, der.replace(known, unknown))
        one = client()
        self.assertFalse(one.judge(odd, 0, 0))
        self.assertIsInstance(one._refusal, CertificateRejected)

    def test_what_a_context_needs(self) -> None:
        ca = self.folder / "ca.pem"
        for role, options, text in (
            (Role.SERVER, {}, "identity"),
            (Role.CLIENT, {}, "trust"),
            (Role.SERVER, {"identity": IDENTITY, "ciphers": ()}, "cipher"),
            (Role.CLIENT, {"trust": PINNED, "ciphers": ()}, "cipher"),
        ):
            with self.assertRaisesRegex(ConfigurationError, text):
                TlsContext(role, **options)  # type: ignore[arg-type]
        from jetstreamproto.security.trust import CertificateAuthority

        for content in (None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"):
            if content is not None:
                ca.write_bytes(content)
            with self.assertRaisesRegex(ConfigurationError, str(ca)):
                TlsContext(Role.CLIENT, trust=CertificateAuthority(ca))
        with self.assertRaisesRegex(ConfigurationError, str(self.folder)):
            TlsContext(Role.CLIENT, trust=CertificateAuthority(self.folder))

    def test_a_weak_key_is_a_configuration_error(self) -> None:
        from tests.unit.security.test_identity import _old_certificate

        path = self.write("weak.pem", _old_certificate(rsa.generate_private_key(65537, 1024)))
        with self.assertRaisesRegex(ConfigurationError, "identity.*key too small"):
            TlsContext(Role.SERVER, identity=Identity.from_files(path))


class MemoryTests(TestCase):
    def test_a_handshake_is_gone_when_it_is_dropped(self) -> None:
        """Not when the garbage collector next looks: OpenSSL's part of it is large."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        outcomes: list[Callable[[Handshake, Handshake], None]] = [
            lambda one, other: None,
            exchange,
            lambda one, other: other.receive(one.outgoing()),
        ]
        for outcome in outcomes:
            one, other = client(), server()
            outcome(one, other)
            left = [
                weakref.ref(thing) for thing in (one, other, one._connection, other._connection)
            ]
            del one, other
            self.assertEqual([reference() for reference in left], [None] * 4)

    def test_so_is_a_failed_one(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        strict = TlsContext(Role.CLIENT, trust=PinnedKeys([self_signed().fingerprint]))
        one, other = client(strict), server()
        left = [weakref.ref(one._connection), weakref.ref(other._connection)]
        with self.assertRaises(WrongFingerprint):
            exchange(one, other)
        with self.assertRaises(HandshakeError):
            exchange(one, other)
        del one, other
        self.assertEqual([reference() for reference in left], [None, None])
