"""Certificates for tests: authorities, leaves with names and addresses, expired ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jetstreamproto.security.identity import Identity

NOW = datetime.now(UTC)
DAY = timedelta(days=1)

FOR_SERVERS = ExtendedKeyUsageOID.SERVER_AUTH
FOR_CLIENTS = ExtendedKeyUsageOID.CLIENT_AUTH


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def alternative_names(names: Iterable[str]) -> x509.SubjectAlternativeName:
    """DNS names, or IP addresses where they look like ones."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def sign(
    public_key: CertificatePublicKeyTypes,
    name: str,
    issuer: x509.Name,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    *,
    names: Sequence[str] = (),
    ca: bool = False,
    start: datetime = NOW - DAY,
    end: datetime = NOW + 30 * DAY,
    purpose: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(alternative_names(names), critical=False)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, SHA256())


def self_signed(
    *, names: Sequence[str] = (), start: datetime = NOW - DAY, end: datetime = NOW + 30 * DAY
) -> Identity:
    """An identity nobody vouches for, valid from `start` to `end`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = "alone"
    return Identity(
        key, sign(key.public_key(), name, subject(name), key, names=names, start=start, end=end)
    )


@dataclass(frozen=True)
class Authority:
    """A certificate authority, perhaps below another one."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    parent: Authority | None = None

    @classmethod
    def create(
        cls,
        name: str = "Test CA",
        *,
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
    ) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        own = subject(name)
        return cls(key, sign(key.public_key(), name, own, key, ca=True, start=start, end=end))

    def intermediate(
        self,
        name: str = "Test intermediate",
        *,
        ca: bool = True,
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
    ) -> Authority:
        """An authority that this one vouches for; with `ca=False` it only claims to be one."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = sign(
            key.public_key(),
            name,
            self.certificate.subject,
            self.key,
            ca=ca,
            start=start,
            end=end,
        )
        return Authority(key, certificate, self)

    def issue(
        self,
        *names: str,
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
        purpose: x509.ObjectIdentifier | None = None,
        send_chain: bool = True,
    ) -> Identity:
        """An identity for DNS names and IP addresses, with the intermediates it has to show."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = sign(
            key.public_key(),
            names[0] if names else "nameless",
            self.certificate.subject,
            self.key,
            names=names,
            start=start,
            end=end,
            purpose=purpose,
        )
        chain: list[x509.Certificate] = []
        authority = self
        while authority.parent is not None and send_chain:
            chain.append(authority.certificate)
            authority = authority.parent
        return Identity(key, certificate, tuple(chain))

    def write(self, path: Path) -> Path:
        """The PEM file that a `CertificateAuthority` trust is given."""
        path.write_bytes(pem(self.certificate))
        return path


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
