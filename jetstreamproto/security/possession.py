"""Proof of possession: how a client shows a certificate inside a connection that TLS has set up.

For QUIC, whose library asks clients for no certificates. The proof is what TLS's Certificate and
CertificateVerify are (RFC 8446 section 4.4), bound to one connection: it signs

    64 spaces | "JetStream/1, client identity over QUIC" | 0 | SHA-256 of what follows:
    binding | nonce | SHA-256 of the server's certificate | SHA-256 of the client's certificate

where `binding` is known to both ends of that TLS handshake only, and differs in any other.

    proof: certificates (1) | each: length (3), DER | signature: length (2), bytes

The kind of key says how it signs: ECDSA with the hash of the curve's size, RSA-PSS with SHA-256,
Ed25519, Ed448. A proof of no certificates, which has no signature, says that there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding

from jetstreamproto.errors import CertificateRejected, ConfigurationError, WireError
from jetstreamproto.security.identity import Identity

NONCE_SIZE = 32
MAX_PROOF = 1 << 16
"""Bytes of a proof."""

_PREFIX = b" " * 64 + b"JetStream/1, client identity over QUIC\0"
_BINDING_LABEL = b"jetstream/1 quic channel binding"
_MAX_CERTIFICATES = 8
_LEAST_RSA_BITS = 2048


def channel_binding(client_secret: bytes, server_secret: bytes) -> bytes:
    """The binding of a connection with these TLS 1.3 application traffic secrets."""
    expand = HKDFExpand(hashes.SHA256(), 32, _BINDING_LABEL)
    return expand.derive(hashlib.sha256(client_secret + server_secret).digest())


@dataclass(frozen=True)
class Statement:
    """What a client signs for one connection."""

    binding: bytes
    nonce: bytes
    server: x509.Certificate

    def to_be_signed(self, client: x509.Certificate) -> bytes:
        digest = hashlib.sha256(self.binding + self.nonce + _digest(self.server) + _digest(client))
        return _PREFIX + digest.digest()


@dataclass(frozen=True)
class Proof:
    """A certificate, those between it and a CA, and a signature by its key."""

    certificates: Sequence[x509.Certificate]
    signature: bytes

    @classmethod
    def make(cls, identity: Identity, statement: Statement) -> Proof:
        """The proof that `identity` is at one end of the connection."""
        message = statement.to_be_signed(identity.certificate)
        key = identity.key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            signature = key.sign(message, ec.ECDSA(_curve_hash(key.curve)))
        elif isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(message, _pss(), hashes.SHA256())
        else:
            signature = key.sign(message)
        return cls((identity.certificate, *identity.chain), signature)

    @classmethod
    def decode(cls, data: bytes) -> Proof | None:
        """A proof that was received; None if it says that there is no certificate.

        Raises `WireError` for what is no proof.
        """
        view, position = memoryview(data), 1
        if not data or data[0] > _MAX_CERTIFICATES:
            raise WireError("a proof of identity without certificates, or with too many")
        if data == b"\0":
            return None
        certificates = []
        for _ in range(data[0]):
            der, position = _field(view, position, 3)
            try:
                certificates.append(x509.load_der_x509_certificate(bytes(der)))
            except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
                raise WireError("a certificate in a proof of identity is unreadable") from error
        signature, position = _field(view, position, 2)
        if position != len(data) or not certificates:
            raise WireError("a proof of identity is longer than its parts")
        return cls(certificates, bytes(signature))

    def encode(self) -> bytes:
        """The proof as it is sent. Raises `ConfigurationError` if it is too long for that."""
        parts = [bytes([len(self.certificates)])]
        for certificate in self.certificates:
            der = certificate.public_bytes(Encoding.DER)
            parts += (len(der).to_bytes(3, "big"), der)
        parts += (len(self.signature).to_bytes(2, "big"), self.signature)
        proof = b"".join(parts)
        if len(proof) > MAX_PROOF or len(self.certificates) > _MAX_CERTIFICATES:
            raise ConfigurationError("the identity's chain of certificates is too long")
        return proof

    @property
    def certificate(self) -> x509.Certificate:
        """The one whose key has signed."""
        return self.certificates[0]

    def check(self, statement: Statement) -> None:
        """Return if the certificate's owner has signed `statement`; `CertificateRejected` if not.

        Whether the certificate is trusted is another question.
        """
        message = statement.to_be_signed(self.certificate)
        try:
            key = self.certificate.public_key()
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.signature, message, ec.ECDSA(_curve_hash(key.curve)))
            elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
                key.verify(self.signature, message, _pss(), hashes.SHA256())
            elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
                key.verify(self.signature, message)
            else:
                raise CertificateRejected("the peer's certificate is for a key of an unfit kind")
        except InvalidSignature as error:
            raise CertificateRejected("the peer's signature is wrong") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CertificateRejected("the key of the peer's certificate is unreadable") from error


def no_proof() -> bytes:
    """What a client sends that has no certificate."""
    return b"\0"


def _digest(certificate: x509.Certificate) -> bytes:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def _curve_hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    if curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def _field(view: memoryview, position: int, width: int) -> tuple[memoryview, int]:
    start = position + width
    end = start + int.from_bytes(view[position:start], "big")
    if end > len(view):
        raise WireError("a proof of identity ends within a part")
    return view[start:end], end
