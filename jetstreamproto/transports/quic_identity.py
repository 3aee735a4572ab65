"""Who is at the other end of a QUIC connection: trust for the server, and a proof by the client.

The server shows its certificate in the TLS handshake. A server that lets in certain clients only
then asks for a proof (`security.possession`) on a one-way stream, and takes nothing from the
client before it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from cryptography import x509

from jetstreamproto.errors import CertificateRejected, HandshakeError, ProtocolViolation
from jetstreamproto.security.chain import judge_chain
from jetstreamproto.security.handshake import Role
from jetstreamproto.security.identity import Identity, fingerprint
from jetstreamproto.security.possession import NONCE_SIZE, Proof, Statement, no_proof
from jetstreamproto.security.trust import Trust
from jetstreamproto.transports.quic_core import QuicCore
from jetstreamproto.transports.quic_receiving import IDENTITY_PROOF, IDENTITY_REQUEST

Control = tuple[int, bytes]
"""The kind of a one-way stream, and what it carries."""

_NO_CERTIFICATE = "it requires a client certificate, and none was shown"
_NOT_TRUSTED = "it does not trust our certificate"


class QuicIdentity:
    """Both ends' part of one connection. `trust` judges the peer, `identity` is shown to it.

    `now` tells the aware datetime that certificates are judged at.
    """

    def __init__(
        self,
        role: Role,
        identity: Identity | None,
        trust: Trust | None,
        now: Callable[[], datetime],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.client = role is Role.CLIENT
        self.peer_fingerprint: str | None = None
        """Of the certificate that the peer has proved to own."""
        self.refusal = _NOT_TRUSTED
        """What a client that is not let in is told."""
        self._identity = identity
        self._trust = trust
        self._now = now
        self._nonce = b"" if self.client else random_bytes(NONCE_SIZE)
        self._binding = b""
        self._server: x509.Certificate | None = None

    def connected(self, core: QuicCore) -> None:
        """TLS is done. Raises a `TrustError` if a client's server is not trusted."""
        self._binding = core.take_binding()
        if not self.client:
            assert self._identity is not None
            self._server = self._identity.certificate
            return
        chain, trust = core.server_chain, self._trust
        if not chain or trust is None:
            raise HandshakeError("the server shows no certificate")
        judge_chain(trust, chain[0], chain[1:], self._now(), Role.SERVER)
        trust.proved(chain[0])
        self._server = chain[0]
        self.peer_fingerprint = fingerprint(chain[0])

    @property
    def request(self) -> Control | None:
        """What a server asks its client, which is then not to be listened to before it answers."""
        if self.client or self._trust is None:
            return None
        return IDENTITY_REQUEST, self._nonce

    def control_received(self, kind: int, data: bytes) -> Control | None:
        """The peer's request or proof; what is to be answered.

        Raises a `TrustError` for a proof that is none, or not trusted, and `WireError` or
        `ProtocolViolation` for what may not be.
        """
        if self.client and kind == IDENTITY_REQUEST and not self._nonce:
            return IDENTITY_PROOF, self._answer(data)
        if kind == IDENTITY_PROOF and self.request is not None and self.peer_fingerprint is None:
            self._judge(Proof.decode(data))
            return None
        raise ProtocolViolation("a proof of identity, or a request for one, out of place")

    def _answer(self, nonce: bytes) -> bytes:
        if len(nonce) != NONCE_SIZE:
            raise ProtocolViolation(f"a request for a proof with a nonce of {len(nonce)} bytes")
        self._nonce = nonce
        if self._identity is None:
            return no_proof()
        return Proof.make(self._identity, self._statement()).encode()

    def _judge(self, proof: Proof | None) -> None:
        assert self._trust is not None
        if proof is None:
            self.refusal = _NO_CERTIFICATE
            raise CertificateRejected("the client showed no certificate, and one is required")
        certificate, others = proof.certificate, proof.certificates[1:]
        judge_chain(self._trust, certificate, others, self._now(), Role.CLIENT)
        proof.check(self._statement())
        self._trust.proved(certificate)
        self.peer_fingerprint = fingerprint(certificate)

    def _statement(self) -> Statement:
        assert self._server is not None
        return Statement(self._binding, self._nonce, self._server)
