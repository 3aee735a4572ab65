"""What other protocols look like when they knock on a JetStream port, and how each is told."""

from __future__ import annotations

from dataclasses import dataclass

_HTTP_METHODS = (
    b"GET ",
    b"POST",
    b"HEAD",
    b"PUT ",
    b"OPTI",
    b"DELE",
    b"CONN",
    b"PATC",
    b"TRAC",
    b"PRI ",
)
_HTML = (b"<htm", b"<!do")  # what web servers answer, bare, to what they take for HTTP/0.9
_HTTP_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks JetStream, not HTTP. Try: jetstream ping HOST:PORT\n"
)
_TLS_PROTOCOL_VERSION_ALERT = bytes((21, 3, 3, 0, 2, 2, 70))  # RFC 8446 section 6: fatal


@dataclass(frozen=True, slots=True)
class Stranger:
    """A peer of another protocol: its name, and a goodbye that it understands."""

    name: str
    reply: bytes = b""


def recognise(first: bytes) -> Stranger:
    """Who speaks, judged by the first bytes it sent (which are no JetStream record)."""
    if first[:4] in _HTTP_METHODS:
        return Stranger("HTTP", _HTTP_REPLY)
    if first[:4] == b"HTTP" or first[:4].lower() in _HTML:
        return Stranger("HTTP")
    if first[:2] == b"\x16\x03":
        return Stranger("plain TLS", _TLS_PROTOCOL_VERSION_ALERT)
    if first[:2] == b"\x15\x03":
        return Stranger("plain TLS")
    if first[:4] == b"SSH-":
        return Stranger("SSH")
    shown = "".join(chr(c) if 32 <= c < 127 else "." for c in first[:24])
    return Stranger(f"something unknown ({first[:8].hex(' ')}, {shown!r})")
