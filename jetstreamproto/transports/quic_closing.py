"""How a QUIC connection ends: the codes of ours, and what those of a peer mean."""

from __future__ import annotations

from enum import IntEnum

from aioquic.quic.events import ConnectionTerminated

from jetstreamproto.errors import (
    HandshakeError,
    JetStreamError,
    NotLetIn,
    PeerSilent,
    ProtocolViolation,
    Refused,
    SessionCut,
)

_CONNECTION_REFUSED, _INVALID_TOKEN = 0x02, 0x0B  # RFC 9000 section 20.1
_TLS_ALERTS = range(0x100, 0x200)
_IDLE = "Idle timeout"  # in aioquic's words
_LONGEST_REASON = 256


class CloseCode(IntEnum):
    """Why an application of ours closes a connection (the code of CONNECTION_CLOSE, type 0x1d)."""

    ENDED = 0  # both sides have ended, and know it of each other
    ABORTED = 1
    PROTOCOL_ERROR = 10
    NOT_LET_IN = 11  # the client's certificate is missing or not trusted


class TlsAlert(IntEnum):
    """CRYPTO_ERROR codes by which a handshake is refused (RFC 9001 section 4.8)."""

    BAD_CERTIFICATE = 0x12A
    NO_ALPN = 0x178


_MEANINGS = {
    TlsAlert.NO_ALPN: "the peer did not agree on the protocol jetstream/1 (ALPN)",
    0x146: "the peer does not accept TLS 1.3",
    0x128: "the peer found no common TLS parameters",
}
_BAD_CERTIFICATES = range(0x12A, 0x132)


def explain(end: ConnectionTerminated, *, connecting: bool, by_peer: bool) -> JetStreamError:
    """Why a connection ended that was not ended by both sides."""
    reason = _readable(end.reason_phrase)
    code = end.error_code
    if end.frame_type is None:
        return _application_close(code, reason, connecting)
    if reason == _IDLE and not by_peer:
        return PeerSilent("no sign of the peer within the idle timeout")
    if code in _TLS_ALERTS:
        if by_peer and code in _BAD_CERTIFICATES:
            return NotLetIn("the peer refused our certificate")
        return HandshakeError(_MEANINGS.get(code, f"the TLS handshake failed: {reason or code}"))
    if by_peer and connecting and code in (_CONNECTION_REFUSED, _INVALID_TOKEN):
        return Refused(f"the peer turned us away: {reason or 'it gave no reason'}")
    if connecting:
        return HandshakeError(f"the QUIC handshake failed: {reason or f'code {code:#x}'}")
    if by_peer:
        return SessionCut(f"the peer ended the connection: {reason or f'QUIC error {code:#x}'}")
    return ProtocolViolation(f"the peer broke QUIC's rules: {reason or f'code {code:#x}'}")


def _application_close(code: int, reason: str, connecting: bool) -> JetStreamError:
    if code == CloseCode.NOT_LET_IN:
        return NotLetIn(f"the server lets us not in: {reason or 'it gave no reason'}")
    if connecting:
        return Refused(f"the peer turned us away: {reason or 'it gave no reason'}")
    if code == CloseCode.ENDED:
        return SessionCut("the peer closed the connection before it was ended")
    return SessionCut(f"the peer dropped the connection: {reason or f'code {code}'}")


def _readable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_REASON])
