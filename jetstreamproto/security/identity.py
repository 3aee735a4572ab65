"""Identity: the key and certificate a host shows, and the fingerprint others know it by."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from jetstreamproto.errors import ConfigurationError

IDENTITY_FILE = "identity.pem"

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

_LIFETIME = timedelta(days=3650)
_BACKDATE = timedelta(days=1)  # so that a peer whose clock is behind accepts it
_FINGERPRINT_PREFIX = "sha256:"
_MOST_KEPT, _LARGEST_KEPT = 256, 1 << 13  # peers' certificates, and bytes of one
_fingerprints: dict[int, tuple[x509.Certificate, str]] = {}
"""By the identity of the certificate, whose own hash takes as long as a fingerprint."""
_TLS_CURVES = frozenset(  # those with a TLS 1.3 signature scheme (RFC 8446, RFC 8734)
    {
        "secp256r1",
        "secp384r1",
        "secp521r1",
        "brainpoolP256r1",
        "brainpoolP384r1",
        "brainpoolP512r1",
    }
)


@dataclass(frozen=True)
class Identity:
    """A private key, its certificate, and the certificates between it and a CA (if any)."""

    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of the public key; renewing the certificate keeps it."""
        return fingerprint(self.certificate)

    @classmethod
    def create(cls, now: datetime, name: str = "jetstream") -> Identity:
        """A new P-256 key with a self-signed certificate valid for ten years from `now` (aware)."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _self_signed(key, name, now))

    @classmethod
    def load_or_create(cls, state_dir: Path, now: datetime) -> Identity:
        """The identity in `state_dir`, made there (mode 0600, folder 0700) if there is none yet.

        A self-signed certificate that is not valid now is renewed over the same key, so the
        fingerprint that others know stays. Raises `ConfigurationError` for a file that cannot be
        read or used.
        """
        path = state_dir / IDENTITY_FILE
        if not _exists(path):
            identity = cls.create(now)
            if _write_new(path, identity.to_pem()):
                return identity
        identity = cls.from_files(path)
        if _is_self_signed(identity) and not _is_valid(identity.certificate, now):
            identity = cls(identity.key, _self_signed(identity.key, "jetstream", now))
            _replace(path, identity.to_pem())
        return identity

    @classmethod
    def from_files(cls, certificate: Path, key: Path | None = None) -> Identity:
        """The identity in PEM files; `key` may be left out when one file holds both.

        Raises `ConfigurationError` when a file is missing, unreadable, not PEM, encrypted, or
        when the key is not the certificate's.
        """
        key_path = key or certificate
        try:
            certificates = x509.load_pem_x509_certificates(_read(certificate))
            public = certificates[0].public_key()
        except ValueError as error:
            raise ConfigurationError(f"{certificate}: no PEM certificate in it") from error
        except UnsupportedAlgorithm as error:
            raise ConfigurationError(f"{certificate}: for a key of an unknown kind") from error
        private = _load_key(key_path)
        if private.public_key() != public:
            raise ConfigurationError(f"{key_path}: not the key of the certificate {certificate}")
        return cls(private, certificates[0], tuple(certificates[1:]))

    def to_pem(self) -> bytes:
        """The key and the certificates as one PEM text. Secret: it holds the private key."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key + b"".join(
            certificate.public_bytes(serialization.Encoding.PEM)
            for certificate in (self.certificate, *self.chain)
        )


def fingerprint(certificate: x509.Certificate) -> str:
    """`sha256:` and the unpadded base64url SHA-256 of the certificate's public key (SPKI, DER)."""
    known = _fingerprints.get(id(certificate))
    if known is not None:  # and the certificate is this one, for it is kept
        return known[1]
    if len(_fingerprints) >= _MOST_KEPT:
        _fingerprints.clear()
    found = _fingerprint(certificate)
    _fingerprints[id(certificate)] = certificate, found
    return found


def read_certificate(der: bytes) -> x509.Certificate:
    """The certificate in these bytes; mostly the same object for the same bytes.

    Raises ValueError for what is none.
    """
    return _read_once(der) if len(der) <= _LARGEST_KEPT else x509.load_der_x509_certificate(der)


@lru_cache(maxsize=_MOST_KEPT)
def _read_once(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _fingerprint(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashlib.sha256(spki).digest()
    return _FINGERPRINT_PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def parse_fingerprint(text: str) -> str:
    """The canonical form of a fingerprint given as base64 (either alphabet) or 64 hex digits.

    Raises `ConfigurationError` for anything else.
    """
    body = text.strip()
    if body[: len(_FINGERPRINT_PREFIX)].lower() == _FINGERPRINT_PREFIX:
        body = body[len(_FINGERPRINT_PREFIX) :]
    try:
        digest = _digest_bytes(body)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigurationError(
            f"{text!r} is not a fingerprint: sha256: and 43 base64 characters or 64 hex digits"
        )
    return _FINGERPRINT_PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _digest_bytes(body: str) -> bytes:
    if len(body) == 64:
        return bytes.fromhex(body)
    standard = body.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)


def _self_signed(key: PrivateKey, name: str, now: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    algorithm = (
        None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, algorithm)
    )


def _is_self_signed(identity: Identity) -> bool:
    return identity.certificate.issuer == identity.certificate.subject


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _load_key(path: Path) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except TypeError as error:
        raise ConfigurationError(f"{path}: the key is encrypted; give it decrypted") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: no PEM private key in it") from error
    except UnsupportedAlgorithm as error:
        raise ConfigurationError(f"{path}: a key of an unknown kind") from error
    on_wrong_curve = (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _TLS_CURVES
    )
    if not isinstance(key, PrivateKey) or on_wrong_curve:
        raise ConfigurationError(f"{path}: a key of a kind TLS 1.3 cannot use")
    return key


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _write_new(path: Path, data: bytes) -> bool:
    """Write `path` whole or not at all; False if another process made it first."""
    try:
        path.parent.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path.parent}: {error.strerror}") from error
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    finally:
        os.unlink(temporary)
    return True


def _replace(path: Path, data: bytes) -> None:
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _write_temporary(path: Path, data: bytes) -> str:
    """A new file beside `path`, of mode 0600, with `data` safely in it."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.unlink(name)
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    return name
