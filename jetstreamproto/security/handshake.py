"""The TLS 1.3 handshake, run in memory: bytes in, bytes out, traffic keys at the end.

OpenSSL does the cryptography through pyOpenSSL's memory BIOs. The cipher suite it negotiates names
the AEAD of the records, and its exporter keys them (see `keys`). Tickets and resumption are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any
from weakref import ref

from cryptography import x509
from OpenSSL import SSL, crypto
from OpenSSL._util import lib  # pyOpenSSL's API has no call for a client's groups
from OpenSSL.crypto import FILETYPE_ASN1, dump_certificate

from jetstreamproto.errors import (
    CertificateRejected,
    ConfigurationError,
    HandshakeError,
    JetStreamError,
    NotLetIn,
    TrustError,
)
from jetstreamproto.security.identity import Identity, fingerprint, read_certificate
from jetstreamproto.security.keys import (
    EXPORTER_LABEL,
    SECRET_SIZE,
    Cipher,
    TrafficKeys,
    exporter_context,
    split_export,
)
from jetstreamproto.security.names import canonical_name, is_ip_address
from jetstreamproto.security.trust import Trust

ALPN = b"jetstream/1"

_BIO_CHUNK = 1 << 12
_CERTIFICATE_DEPTH = 8
_GROUPS = b"?X25519MLKEM768:?SecP256r1MLKEM768:?X25519:?secp256r1:?X448:?secp384r1:?secp521r1"


class Role(Enum):
    """Which end of the handshake."""

    CLIENT = "client"
    SERVER = "server"


_CLIENT, _SERVER = Role  # slow to get at in the enum


class TlsContext:
    """What the handshakes of one endpoint share: its role, identity, trust and ciphers.

    A client needs `trust`, and shows `identity` if the server asks. A server needs `identity`,
    and asks its clients for a certificate exactly when it has a `trust` to judge them by.
    `ciphers` is in order of preference; the client's order counts.
    """

    def __init__(
        self,
        role: Role,
        *,
        identity: Identity | None = None,
        trust: Trust | None = None,
        ciphers: Sequence[Cipher] = (Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305),
    ) -> None:
        if role is _SERVER and identity is None:
            raise ConfigurationError("a server needs an identity")
        if role is _CLIENT and trust is None:
            raise ConfigurationError("a client needs to know which servers to trust")
        if not ciphers:
            raise ConfigurationError("a handshake needs a cipher")
        self.role = role
        self.identity = identity
        self.trust = trust
        self._context = _openssl_context(role, identity, trust, ciphers)

    def connection(self) -> SSL.Connection:
        """A fresh connection over memory BIOs."""
        return SSL.Connection(self._context, None)


class Handshake:
    """One handshake. Give `host` (client only) for the server-name indication.

    `now` is the aware datetime that certificates are judged at. Raises `ConfigurationError` for
    a `host` that is no name.
    """

    def __init__(self, tls: TlsContext, *, now: datetime, host: str | None = None) -> None:
        self.complete = False
        self.peer_certificate: x509.Certificate | None = None
        self._tls = tls
        self._now = now
        self._refusal: JetStreamError | None = None
        self._judged: x509.Certificate | None = None  # and not proved before the end
        self._early_keys: tuple[TrafficKeys, TrafficKeys] | None = None
        self._connection = tls.connection()
        if tls.trust is not None:
            self._connection.set_app_data(ref(self))  # no cycle: it goes as soon as it is dropped
        if tls.role is _SERVER:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
            if host and not is_ip_address(host):
                self._connection.set_tlsext_host_name(canonical_name(host).encode("ascii"))

    @property
    def role(self) -> Role:
        """Which end of the handshake this is."""
        return self._tls.role

    def start(self) -> None:
        """Prepare the first flight (a client's hello); a server's start does nothing."""
        if self.role is _CLIENT:
            self._advance()

    def receive(self, data: bytes) -> None:
        """Take TLS bytes from the peer.

        Raises `HandshakeError` (or the `TrustError` or `ConfigurationError` of the trust policy);
        `outgoing` then holds the TLS alert that tells the peer.
        """
        if data:  # a memory BIO takes writing nothing for an error
            self._connection.bio_write(data)
        if self.complete:
            self._read_after()
        else:
            self._advance()

    def outgoing(self) -> bytes:
        """Everything that is to be sent to the peer now; empty when there is nothing."""
        flight, size = b"", _BIO_CHUNK
        while size == _BIO_CHUNK:
            try:
                part = self._connection.bio_read(_BIO_CHUNK)
            except SSL.WantReadError:
                break
            flight += part
            size = len(part)
        return flight

    def traffic_keys(self, transport: bytes) -> tuple[TrafficKeys, TrafficKeys]:
        """The keys to send with and to receive with, once `complete`."""
        early, self._early_keys = self._early_keys, None  # not kept: epochs are to be forgotten
        return early or self._export(transport)

    def early_keys(self, transport: bytes) -> tuple[TrafficKeys, TrafficKeys] | None:
        """A server's keys as soon as its own part is done (RFC 8446 section 2: 0.5 round trips).

        None for a client, before that, and for a server that judges certificates: it may find
        that it does not want to talk to this client. `traffic_keys` of the same transport follows.
        """
        if self._tls.role is _CLIENT or self._tls.trust is not None:
            return None
        try:
            self._early_keys = self._export(transport)
        except SSL.Error:
            return None
        return self._early_keys

    def _export(self, transport: bytes) -> tuple[TrafficKeys, TrafficKeys]:
        exported = self._connection.export_keying_material(
            EXPORTER_LABEL, 2 * SECRET_SIZE, exporter_context(ALPN, transport)
        )
        cipher = Cipher(self._connection.get_cipher_name())
        sending, receiving = split_export(exported)
        if self._tls.role is _SERVER:
            sending, receiving = receiving, sending
        return TrafficKeys(sending, cipher), TrafficKeys(receiving, cipher)

    @property
    def peer_fingerprint(self) -> str | None:
        """The fingerprint of the certificate that the peer proved to own, if it showed one."""
        return None if self.peer_certificate is None else fingerprint(self.peer_certificate)

    def judge(self, certificate: crypto.X509, chain_error: int, depth: int) -> bool:
        """OpenSSL's question about each certificate of the peer's chain: is it acceptable?"""
        trust = self._tls.trust
        assert trust is not None, "certificates are asked for only where they can be judged"
        try:
            if chain_error and trust.ca_file is not None:
                raise CertificateRejected(
                    f"the peer's certificate is refused: {chain_fault(chain_error)}"
                )
            if depth == 0 and self._judged is None:  # OpenSSL asks once more for each fault it sees
                self._judged = read_certificate(dump_certificate(FILETYPE_ASN1, certificate))
                trust.check(self._judged, self._now)
        except (TrustError, ConfigurationError) as refusal:
            self._refusal = refusal
            return False
        except Exception as fault:  # the parts of a certificate are parsed when they are asked for
            self._refusal = CertificateRejected(f"the peer's certificate cannot be read: {fault}")
            return False
        return True

    def _advance(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            raise self._refusal or _explain(error) from error
        if self._connection.get_alpn_proto_negotiated() != ALPN:
            raise HandshakeError(f"the peer did not agree on the protocol {ALPN.decode()} (ALPN)")
        if self._judged is not None and self._tls.trust is not None:
            self._tls.trust.proved(self._judged)
        self.peer_certificate = self._judged
        self.complete = True

    def _read_after(self) -> None:
        """A server's refusal of our certificate comes only after our side is complete."""
        try:
            self._connection.recv(1)
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            raise _explain(error) from error
        raise HandshakeError("the peer sent application data inside the TLS handshake")


def _openssl_context(
    role: Role, identity: Identity | None, trust: Trust | None, ciphers: Sequence[Cipher]
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(":".join(cipher.value for cipher in ciphers).encode())
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if identity is not None:
        _use_identity(context, identity)
    if trust is not None:
        if trust.ca_file is not None:
            _load_authorities(context, trust)
        context.set_verify_depth(_CERTIFICATE_DEPTH)
        mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if role is _SERVER else 0)
        context.set_verify(mode, _judge)
    if role is _CLIENT:
        context.set_alpn_protos([ALPN])
        _share_one_key(context)
    else:
        context.set_alpn_select_callback(_select_alpn)
    return context


def _share_one_key(context: SSL.Context) -> None:
    """Have a client make a key pair of its first group only, and offer the others by name.

    OpenSSL would make another of X25519, a tenth of a handshake's work, for servers without the
    first, post-quantum one. They ask for it now (HelloRetryRequest, RFC 8446 section 4.1.4). An
    OpenSSL before 3.3 does not know the question marks, which stand for "if there is this group",
    and keeps its own groups, as any does where pyOpenSSL's bindings lack the call.
    """
    set_groups = getattr(lib, "SSL_CTX_set1_curves_list", None)
    if set_groups is not None and not set_groups(context._context, _GROUPS):
        lib.ERR_clear_error()


def _use_identity(context: SSL.Context, identity: Identity) -> None:
    try:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        for certificate in identity.chain:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise ConfigurationError(f"the identity cannot be used: {_reasons(error)}") from error


def _load_authorities(context: SSL.Context, trust: Trust) -> None:
    try:
        context.load_verify_locations(str(trust.ca_file))
    except SSL.Error as error:
        raise ConfigurationError(f"{trust.ca_file}: no readable PEM certificates in it") from error


def _judge(
    connection: SSL.Connection, certificate: crypto.X509, chain_error: int, depth: int, _ok: int
) -> bool:
    handshake = connection.get_app_data()()
    assert isinstance(handshake, Handshake)
    return handshake.judge(certificate, chain_error, depth)


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


# --- what OpenSSL's errors mean to a person ----------------------------------------------

_CHAIN_FAULTS = {  # X509_V_ERR_* of openssl/x509_vfy.h
    7: "its signature is not that of the CA it names",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed, and its key is not pinned",
    19: "its chain ends in a CA that is not trusted here",
    20: "its issuer is not one of the trusted CAs",
    21: "its issuer is not one of the trusted CAs",
    22: "its chain is too long",
    23: "it has been revoked",
    26: "it was not issued for this purpose",
    79: "its issuer is not a CA",
}

_TLS_FAULTS = (  # a part of OpenSSL's reason, and what to say
    ("unsupported protocol", "the peer offers no TLS 1.3"),
    ("alert protocol version", "the peer does not accept TLS 1.3"),
    ("no application protocol", "the peer did not agree on the protocol jetstream/1 (ALPN)"),
    ("peer did not return a certificate", "the client showed no certificate, and one is required"),
    ("no shared cipher", "the peer offers none of our ciphers"),
    ("alert handshake failure", "the peer found no common TLS parameters"),
    ("wrong version number", "the peer's handshake is not TLS"),
)

_REFUSALS = (  # alerts by which the peer says that it does not want us
    ("certificate required", "the server requires a client certificate, and none was shown"),
    ("alert certificate expired", "the peer refused our certificate: it has expired"),
    ("alert certificate revoked", "the peer refused our certificate: it has been revoked"),
    (
        "alert unsupported certificate",
        "the peer refused our certificate: it was not issued for this purpose",
    ),
    ("alert decrypt error", "the peer refused our certificate: a signature is wrong"),
    ("alert unknown ca", "the peer refused our certificate: it is not one it trusts"),
    ("alert bad certificate", "the peer refused our certificate"),
    ("alert certificate unknown", "the peer refused our certificate"),
    ("alert internal error", "the peer refused our certificate, or failed inside"),
)


def chain_fault(code: int) -> str:
    """What OpenSSL's error about a chain (X509_V_ERR_*) means."""
    return _CHAIN_FAULTS.get(code, f"OpenSSL verification error {code}")


def _explain(error: SSL.Error) -> HandshakeError:
    text = _reasons(error)
    for part, meaning in _TLS_FAULTS:
        if part in text:
            return HandshakeError(meaning)
    for part, meaning in _REFUSALS:
        if part in text:
            return NotLetIn(meaning)
    return HandshakeError(f"the TLS handshake failed: {text}")


def _reasons(error: SSL.Error) -> str:
    """What OpenSSL says in its queue of (library, function, reason), or as (errno, text)."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(item[-1]) for item in queue) or str(error) or "no reason given"
