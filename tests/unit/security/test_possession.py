"""Proofs of possession, by every kind of key."""

from __future__ import annotations

import dataclasses
import unittest

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from jetstreamproto.errors import CertificateRejected, ConfigurationError, WireError
from jetstreamproto.security.identity import Identity, PrivateKey, _self_signed
from jetstreamproto.security.possession import (
    MAX_PROOF,
    Proof,
    Statement,
    channel_binding,
    no_proof,
)
from tests.certificates import NOW

SERVER = Identity.create(NOW)
STATEMENT = Statement(bytes(range(32)), bytes(32), SERVER.certificate)


def identity(key: PrivateKey) -> Identity:
    return Identity(key, _self_signed(key, "client", NOW))


class ProofTests(unittest.TestCase):
    def test_every_kind_of_key(self) -> None:
        keys: list[PrivateKey] = [
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP521R1()),
            rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate(),
            ed448.Ed448PrivateKey.generate(),
        ]
        for key in keys:
            with self.subTest(key=type(key).__name__):
                one = identity(key)
                proof = Proof.decode(Proof.make(one, STATEMENT).encode())
                assert proof is not None
                self.assertEqual(proof.certificate, one.certificate)
                proof.check(STATEMENT)
                for name in ("binding", "nonce"):
                    other = dataclasses.replace(STATEMENT, **{name: b"\x01" * 32})
                    self.assertRaises(CertificateRejected, proof.check, other)
                other = dataclasses.replace(STATEMENT, server=one.certificate)
                self.assertRaises(CertificateRejected, proof.check, other)

    def test_short_rsa_keys_are_refused(self) -> None:
        proof = Proof.make(identity(rsa.generate_private_key(65537, 1024)), STATEMENT)
        self.assertRaises(CertificateRejected, proof.check, STATEMENT)

    def test_the_signature_of_another(self) -> None:
        mine, theirs = Identity.create(NOW), Identity.create(NOW)
        stolen = Proof((theirs.certificate,), Proof.make(mine, STATEMENT).signature)
        self.assertRaises(CertificateRejected, stolen.check, STATEMENT)

    def test_every_cut_and_every_changed_byte_is_noticed(self) -> None:
        encoded = Proof.make(Identity.create(NOW), STATEMENT).encode()
        for end in range(len(encoded)):
            self.assertRaises(WireError, Proof.decode, encoded[:end]) if end else None
        for position in range(0, len(encoded), 3):
            changed = bytearray(encoded)
            changed[position] ^= 0x55
            with self.assertRaises((WireError, CertificateRejected)):
                proof = Proof.decode(bytes(changed))
                assert proof is not None
                proof.check(STATEMENT)

    def test_no_certificate(self) -> None:
        self.assertIsNone(Proof.decode(no_proof()))
        self.assertRaises(WireError, Proof.decode, b"")

    def test_chains_that_are_too_long_are_not_sent(self) -> None:
        one = Identity.create(NOW)
        proof = Proof.make(dataclasses.replace(one, chain=(one.certificate,) * 8), STATEMENT)
        self.assertRaises(ConfigurationError, proof.encode)
        self.assertGreater(MAX_PROOF, 8 * 4096)

    def test_bindings_differ_with_either_secret(self) -> None:
        bindings = {
            channel_binding(client, server)
            for client in (bytes(48), b"\x01" * 48)
            for server in (bytes(48), b"\x01" * 48)
        }
        self.assertEqual(len(bindings), 4)
        self.assertEqual({len(binding) for binding in bindings}, {32})
