"""Records: what the TCP transport writes. Their bodies are sealed as soon as there are keys.

    type (1 byte) | length of the body (3 bytes, big endian) | body

The header is the AEAD's associated data, and the nonce is the direction's IV XOR the record's
number (RFC 8446 section 5.3), so a record that was changed, dropped, repeated or moved does not
open.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.security.keys import TAG_SIZE, Aead, TrafficKeys

HEADER_SIZE = 4
MAX_BODY = (5 << 16) + TAG_SIZE
"""The largest body of a sealed record: 320 KiB of packets and the tag."""
MAX_PLAIN_BODY = 1 << 14
"""The largest body of a CRYPTO or ALERT record."""
_MAX_REASON = 256  # bytes of an alert's text

OVERHEAD = 2 * (HEADER_SIZE + TAG_SIZE)
"""What sealing adds to a plaintext at most: its own header and tag, and a REKEY record's."""


_unpack = struct.Struct(">I").unpack_from


class RecordType(IntEnum):
    """The first byte of a record. None has bit 0x40, which marks QUIC where a port is shared."""

    CRYPTO = 1  # TLS handshake bytes
    ALERT = 2  # why a peer is turned away before there are keys: code, then UTF-8 text
    PACKETS = 3  # sealed: size-prefixed packets, back to back
    REKEY = 4  # sealed, empty: the sender's next record is in the next epoch
    END = 5  # sealed, empty: the authenticated end of this direction


_CRYPTO, _ALERT, _PACKETS, _REKEY, _END = map(int, RecordType)

_BODY_SIZES = {  # the least and the most bytes of a body
    _CRYPTO: (0, MAX_PLAIN_BODY),
    _ALERT: (0, MAX_PLAIN_BODY),
    _PACKETS: (TAG_SIZE, MAX_BODY),
    _REKEY: (TAG_SIZE, TAG_SIZE),
    _END: (TAG_SIZE, TAG_SIZE),
}


@dataclass(frozen=True)
class RecordLimits:
    """When keys are changed, and when a peer that does not change its keys is refused.

    AES-GCM allows 2^23 packets a key for a 2^-57 attacker advantage (RFC 9001 section 6.6); the
    sender ratchets long before that, at `records` records or `bytes` bytes of an epoch, whichever
    comes first. The receiver closes at `hard_records`.
    """

    records: int = 1 << 20
    bytes: int = 1 << 36
    hard_records: int = 1 << 23

    def __post_init__(self) -> None:
        if not 2 <= self.records <= self.hard_records <= 1 << 23:
            raise ValueError("record limits must satisfy 2 <= records <= hard_records <= 2**23")
        if self.bytes < 1:
            raise ValueError("the byte limit of an epoch must be positive")


DEFAULT_LIMITS = RecordLimits()


def plain_record(kind: int, body: bytes) -> bytes:
    """A record that is not sealed (CRYPTO, ALERT)."""
    return (kind << 24 | len(body)).to_bytes(HEADER_SIZE, "big") + body


def alert_record(reason: str) -> bytes:
    """A record that tells a peer without keys why it is turned away."""
    return plain_record(_ALERT, bytes(2) + reason.encode()[:_MAX_REASON])


def alert_reason(body: bytes) -> str:
    """What an ALERT record says, fit to be printed; empty if it is nothing."""
    text = body[2 : 2 + _MAX_REASON].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def parse_header(buffer: bytes | bytearray | memoryview, offset: int) -> tuple[int, int]:
    """The type and body length at `offset`, where at least `HEADER_SIZE` bytes are.

    Raises `WireError` for an unknown type or a body longer than that type allows.
    """
    (word,) = _unpack(buffer, offset)
    kind, length = word >> 24, word & 0xFFFFFF
    if kind not in _BODY_SIZES:
        raise WireError(f"unknown record type 0x{kind:02x}")
    least, most = _BODY_SIZES[kind]
    if not least <= length <= most:
        raise WireError(_wrong_size(kind, length))
    return kind, length


def _wrong_size(kind: int, length: int) -> str:
    if kind < _PACKETS:
        return f"a handshake record of {length} bytes is over {MAX_PLAIN_BODY}"
    if length > MAX_BODY:
        return f"a sealed record of {length} bytes is over the limit of {MAX_BODY}"
    if length < TAG_SIZE:
        return f"a sealed record of {length} bytes is shorter than its tag"
    return "a REKEY or END record must be empty"


class RecordSealer:
    """Seals one direction's records and ratchets its keys."""

    __slots__ = ("_bytes", "_keys", "_last", "_limits", "_number")

    def __init__(self, keys: TrafficKeys, limits: RecordLimits = DEFAULT_LIMITS) -> None:
        self._keys = keys
        self._limits = limits
        self._number = 0  # of the record, over all epochs: a nonce is never used twice
        self._last = limits.records - 1  # of the epoch: a REKEY
        self._bytes = 0  # of the epoch

    @property
    def epoch(self) -> int:
        return self._keys.epoch

    def seal(self, kind: int, plaintext: bytes, out: memoryview) -> int:
        """Write the next record to the start of `out`; the bytes it takes.

        A REKEY record goes before it when the epoch is used up, so `out` needs room for
        `OVERHEAD` bytes more than the plaintext.
        """
        if self._number >= self._last or self._bytes >= self._limits.bytes:
            rekey = self._rekey()
            start = len(rekey)
            out[:start] = rekey
            return start + self.seal(kind, plaintext, out[start:])
        aead, nonce, header = self._next(kind, len(plaintext))
        end = HEADER_SIZE + len(plaintext) + TAG_SIZE
        out[:HEADER_SIZE] = header
        aead.encrypt_into(nonce, plaintext, header, out[HEADER_SIZE:end])
        return end

    def sealed(self, kind: int, plaintext: bytes) -> bytes:
        """The same in memory of its own, which is faster for a short record."""
        if self._number >= self._last or self._bytes >= self._limits.bytes:
            return self._rekey() + self.sealed(kind, plaintext)
        aead, nonce, header = self._next(kind, len(plaintext))
        return header + aead.encrypt(nonce, plaintext, header)

    def _next(self, kind: int, size: int) -> tuple[Aead, bytes, bytes]:
        """What seals the next record, its nonce and its header."""
        keys, number = self._keys, self._number
        self._number = number + 1
        self._bytes += size
        nonce = (keys.iv ^ number).to_bytes(12, "big")
        header = (kind << 24 | size + TAG_SIZE).to_bytes(HEADER_SIZE, "big")
        return keys.aead, nonce, header

    def _rekey(self) -> bytes:
        self._last = self._number + self._limits.records
        self._bytes = 0
        record = self.sealed(_REKEY, b"")
        self._keys = self._keys.next_epoch()
        return record


class RecordOpener:
    """Opens the peer's records in order and follows its ratchet."""

    __slots__ = ("_end", "_keys", "_limits", "_number")

    def __init__(self, keys: TrafficKeys, limits: RecordLimits = DEFAULT_LIMITS) -> None:
        self._keys = keys
        self._limits = limits
        self._number = 0
        self._end = limits.hard_records  # the first number that is too high for the epoch

    @property
    def epoch(self) -> int:
        return self._keys.epoch

    def open(self, header: bytes | memoryview, body: memoryview, out: memoryview) -> memoryview:
        """Open the record whose 4-byte header and body these are; its plaintext, in `out`.

        Raises `ProtocolViolation` when it does not open (forged, damaged, out of place) or when
        the peer should have changed its keys by now.
        """
        keys, number = self._keys, self._number
        if number >= self._end:
            raise ProtocolViolation("the peer used one key for too many records")
        nonce = (keys.iv ^ number).to_bytes(12, "big")
        plaintext = out[: len(body) - TAG_SIZE]
        try:
            keys.aead.decrypt_into(nonce, body, header, plaintext)
        except InvalidTag:
            raise ProtocolViolation(
                "a record does not open: it was forged, damaged or moved on the way"
            ) from None
        self._number = number + 1
        if header[0] == _REKEY:
            self._keys = keys.next_epoch()
            self._end = self._number + self._limits.hard_records
        return plaintext
