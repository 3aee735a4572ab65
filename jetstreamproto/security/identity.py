"""Identity: the key and certificate a host shows, and the fingerprint others know it by."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
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

        An expired self-signed certificate is renewed over the same key, so the fingerprint that
        others know stays. Raises `ConfigurationError` for a file that cannot be read or used.
        """
        path = state_dir / IDENTITY_FILE
        if not path.exists():
            identity = cls.create(now)
            if _write_new(path, identity.to_pem()):
                return identity
        identity = cls.from_files(path)
        if identity.certificate.not_valid_after_utc <= now and _is_self_signed(identity):
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
        except ValueError as error:
            raise ConfigurationError(f"{certificate}: no PEM certificate in it") from error
        private = _load_key(key_path)
        if private.public_key() != certificates[0].public_key():
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


def _load_key(path: Path) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except TypeError as error:
        raise ConfigurationError(f"{path}: the key is encrypted; give it decrypted") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: no PEM private key in it") from error
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(f"{path}: a key of a kind TLS 1.3 cannot use")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _write_new(path: Path, data: bytes) -> bool:
    """Write `path` whole or not at all; False if another process made it first."""
    _make_private_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _write_private(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    finally:
        temporary.unlink()
    return True


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _write_private(temporary, data)
    temporary.replace(path)


def _make_private_dir(folder: Path) -> None:
    try:
        folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}") from error


def _write_private(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
