"""Clients that prove over QUIC who they are, and those that cannot."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from jetstreamproto.errors import CertificateRejected, NotLetIn, ProtocolViolation, WrongFingerprint
from jetstreamproto.security import possession
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.possession import NONCE_SIZE, Proof, Statement
from jetstreamproto.security.trust import CertificateAuthority, PinnedKeys
from jetstreamproto.testing import LinkOptions
from jetstreamproto.transports.quic_closing import CloseCode
from jetstreamproto.transports.quic_receiving import IDENTITY_PROOF, IDENTITY_REQUEST
from jetstreamproto.wire.packet import Kind
from tests.certificates import DAY, FOR_SERVERS, NOW, Authority, pem, self_signed
from tests.doubles import IDENTITY
from tests.scenarios.quic_pairs import QuicPair, QuicTestCase, RawClient, packet
from tests.unit.security.test_identity import FolderTestCase

CLIENT = Identity.create(NOW)
PINNED = {"clients": PinnedKeys([CLIENT.fingerprint])}
SHOWN = {"identity": CLIENT}
CONTROL = 3
"""The server's first one-way stream; the client's is 2."""


class IdentityTests(QuicTestCase, FolderTestCase):
    def accepted(self, clients: Any, identity: Identity, **options: Any) -> None:
        pair = QuicPair(
            server_options={"clients": clients}, client_options={"identity": identity}, **options
        )
        self.assertEqual(pair.server.peer.fingerprint, identity.fingerprint)
        self.assertEqual(pair.client.peer.fingerprint, IDENTITY.fingerprint)
        self.assertEqual(pair.ask(b"hello"), b"hello")
        pair.client.close()
        self.assertEqual(pair.closed(), (None, None))
        self.assert_nothing_left(pair)

    def refused(self, clients: Any, identity: Identity | None, kind: type[Exception]) -> Any:
        """What the client is told, and why."""
        pair = QuicPair(
            server_options={"clients": clients},
            client_options={"identity": identity},
            link=LinkOptions(delay=0.02),
            connect=False,
        )
        error = self.assertRaises(NotLetIn, pair.run, pair.client.when_connected())
        pair.run(pair.server.when_closed())
        self.assertIsInstance(pair.server.close_reason, kind)
        self.assertEqual(pair.server_factory.sessions, set())
        self.assert_nothing_left(pair)
        return error, pair.server.close_reason

    def test_pinned_clients_are_let_in_and_others_are_not(self) -> None:
        self.accepted(PinnedKeys([CLIENT.fingerprint]), CLIENT)
        self.accepted(
            PinnedKeys([CLIENT.fingerprint]), CLIENT, link=LinkOptions(delay=0.02, loss=0.2)
        )
        told, why = self.refused(
            PinnedKeys([CLIENT.fingerprint]), Identity.create(NOW), WrongFingerprint
        )
        self.assertIn("does not trust our certificate", str(told))
        self.assertIn("not trusted", str(why))

    def test_who_shows_nothing_is_told_what_is_missing(self) -> None:
        told, why = self.refused(PinnedKeys([CLIENT.fingerprint]), None, CertificateRejected)
        self.assertIn("requires a client certificate", str(told))
        self.assertIn("no certificate", str(why))

    def test_clients_of_an_authority(self) -> None:
        authority = Authority.create()
        path = self.folder / "ca.pem"
        path.write_bytes(pem(authority.certificate))
        trust = CertificateAuthority(path)
        self.accepted(trust, authority.issue("client"))
        self.accepted(trust, authority.intermediate().issue("client"))
        for identity, part in (
            (Authority.create().issue("client"), "CA"),
            (authority.issue("client", end=NOW - DAY / 2), "expired"),
            (authority.issue("client", purpose=FOR_SERVERS), "purpose"),
            (self_signed(), "self-signed"),
            (authority.intermediate(ca=False).issue("client"), "not a CA"),
            (authority.intermediate().issue("client", send_chain=False), "CA"),
        ):
            with self.subTest(part=part):
                _, why = self.refused(trust, identity, CertificateRejected)
                self.assertIn(part, str(why))

    def test_a_server_that_does_not_ask_learns_nothing(self) -> None:
        pair = QuicPair(client_options=SHOWN)
        self.assertIsNone(pair.server.peer.fingerprint)


class ForgedProofTests(QuicTestCase):
    """A client that shows the certificate of another, and what it has heard of that one."""

    def raw(self, **options: Any) -> tuple[QuicPair, RawClient, bytes]:
        """A connected stranger that was asked for a proof, and with which nonce."""
        pair = QuicPair(server_options=PINNED, connect=False, **options)
        pair.client.abort()
        client = pair.stranger()
        pair.run_until(lambda: bool(client.received(CONTROL)))
        request = client.received(CONTROL)
        self.assertEqual((request[0], len(request)), (IDENTITY_REQUEST, 1 + NONCE_SIZE))
        return pair, client, request[1:]

    def assert_refused(self, pair: QuicPair, client: RawClient, kind: type[Exception]) -> None:
        pair.run_until(lambda: client.closed_by is not None)
        assert client.closed_by is not None
        self.assertIsInstance(pair.server.close_reason, kind)
        self.assertEqual(client.received(0), b"")
        self.assertEqual(pair.server_factory.sessions, set())

    def prove(self, client: RawClient, proof: bytes) -> None:
        client.send(2, bytes([IDENTITY_PROOF]) + proof, end=True)

    def test_a_genuine_proof_by_other_hands(self) -> None:
        """That this is refused below is not for another reason."""
        secrets: dict[str, bytes] = {}

        class Log:
            def write(self, line: str) -> None:
                label, _, secret = line.split()
                secrets[label] = bytes.fromhex(secret)

            def flush(self) -> None: ...

        pair = QuicPair(server_options=PINNED, connect=False)
        client = pair.stranger(secrets_log_file=Log())
        pair.run_until(lambda: bool(client.received(CONTROL)))
        binding = possession.channel_binding(
            secrets["CLIENT_TRAFFIC_SECRET_0"], secrets["SERVER_TRAFFIC_SECRET_0"]
        )
        statement = Statement(binding, client.received(CONTROL)[1:], IDENTITY.certificate)
        self.prove(client, Proof.make(CLIENT, statement).encode())
        client.say_hello()
        pair.run_until(lambda: bool(client.received(0)))
        self.assertEqual(pair.server.peer.fingerprint, CLIENT.fingerprint)

    def test_a_proof_for_another_connection(self) -> None:
        proofs: list[bytes] = []
        genuine = Proof.encode

        def overheard(proof: Proof) -> bytes:
            proofs.append(genuine(proof))
            return proofs[-1]

        with patch.object(Proof, "encode", overheard):
            QuicPair(server_options=PINNED, client_options=SHOWN)
        pair, client, _ = self.raw()
        self.prove(client, proofs[0])
        self.assert_refused(pair, client, CertificateRejected)
        self.assertIn("signature is wrong", str(pair.server.close_reason))
        assert client.closed_by is not None
        self.assertEqual(client.closed_by.error_code, CloseCode.NOT_LET_IN)

    def test_a_relay_with_the_nonce_of_this_connection(self) -> None:
        """A server that the client trusts cannot pass the client's proof on to another server."""
        pair, client, nonce = self.raw()
        for binding, server in ((bytes(32), IDENTITY), (bytes(32), Identity.create(NOW))):
            statement = Statement(binding, nonce, server.certificate)
            proof = Proof.make(CLIENT, statement)
        self.prove(client, proof.encode())
        self.assert_refused(pair, client, CertificateRejected)

    def test_nonsense(self) -> None:
        for proof in (b"", b"\x09", b"\x01", b"\x01\0\0\x05abc", b"\x01\0\0\x02ab\0\0", b"\0\0"):
            with self.subTest(proof=proof):
                pair, client, _ = self.raw()
                self.prove(client, proof)
                self.assert_refused(pair, client, Exception)

    def test_too_long(self) -> None:
        pair, client, _ = self.raw()
        client.send(2, bytes([IDENTITY_PROOF]) + bytes(70_000))
        self.assert_refused(pair, client, ProtocolViolation)

    def test_nothing_is_taken_before_the_proof(self) -> None:
        pair, client, _ = self.raw()
        client.say_hello()
        pair.advance(1)
        self.assertEqual(client.received(0), b"")
        for number in range(100):
            client.send(0, packet(number, 0, Kind.PING, bytes(60_000)))
            pair.advance(0.1)
            if client.closed_by is not None:
                break
        self.assertLess(number, 10)
        self.assert_refused(pair, client, ProtocolViolation)

    def test_a_second_proof_or_one_that_nobody_asked_for(self) -> None:
        pair = QuicPair(connect=False)
        client = pair.stranger()
        pair.run_until(lambda: client.is_connected)
        self.prove(client, b"\0")
        self.assert_refused(pair, client, ProtocolViolation)
