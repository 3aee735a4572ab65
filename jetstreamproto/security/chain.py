"""Judging a peer's certificates outside of OpenSSL's handshake, by the same `Trust`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto

from jetstreamproto.errors import CertificateRejected, ConfigurationError, TrustError
from jetstreamproto.security.handshake import Role, chain_fault
from jetstreamproto.security.trust import Trust

_PURPOSES = {
    Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
}
_WRONG_PURPOSE = 26  # X509_V_ERR_INVALID_PURPOSE


def judge_chain(
    trust: Trust,
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    now: datetime,
    peer: Role,
) -> None:
    """Return if `trust` accepts `certificate` of a `peer` in that role, sent with `chain`.

    Raises a `TrustError` to refuse it, and `ConfigurationError` for a CA file that cannot be read.
    `trust.proved` is still to be called, once the peer has proved to own the certificate.
    """
    try:
        if trust.ca_file is not None:
            _check_chain(trust, certificate, chain, now, peer)
        trust.check(certificate, now)
    except (TrustError, ConfigurationError):
        raise
    except Exception as fault:  # the parts of a certificate are parsed when they are asked for
        raise CertificateRejected(f"the peer's certificate cannot be read: {fault}") from fault


def _check_chain(
    trust: Trust,
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    now: datetime,
    peer: Role,
) -> None:
    store = crypto.X509Store()
    try:
        store.load_locations(str(trust.ca_file))
    except (crypto.Error, SSL.Error) as error:
        raise ConfigurationError(f"{trust.ca_file}: no readable PEM certificates in it") from error
    store.set_time(now)
    leaf = crypto.X509.from_cryptography(certificate)
    others = [crypto.X509.from_cryptography(other) for other in chain]
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise _rejection(error.errors[0]) from error
    if not _is_for(certificate, peer):
        raise _rejection(_WRONG_PURPOSE)


def _is_for(certificate: x509.Certificate, peer: Role) -> bool:
    """Whether the certificate may be used in that role (RFC 5280 section 4.2.1.12)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return _PURPOSES[peer] in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _rejection(code: int) -> CertificateRejected:
    return CertificateRejected(f"the peer's certificate is refused: {chain_fault(code)}")
