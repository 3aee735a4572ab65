"""The exchange of TLS handshake bytes in INITIAL datagrams, before there are keys.

Each side keeps sending what the other has not acknowledged, with a timeout that grows. There is
no congestion control: a handshake is a few datagrams.

    CRYPTO 0x11   offset u32, length u16, data
    HAVE   0x12   count u8, then that many ranges of the peer's bytes: start u32, stop u32
    ALERT  0x13   code u16, length u16, text: the peer is turned away
"""

from __future__ import annotations

import struct

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.reliability.intervals import Range, add_range
from jetstreamproto.reliability.streams import ReceiveStream, SendStream

MAX_HANDSHAKE = 1 << 16
"""Bytes of TLS that either side may send."""
CHUNK = 1024

_CRYPTO, _HAVE, _ALERT = 0x11, 0x12, 0x13
_CRYPTO_HEAD = struct.Struct(">BIH")
_RANGE = struct.Struct(">II")
_ALERT_HEAD = struct.Struct(">BHH")
_MAX_RANGES = 8
"""With so many, an acknowledgement and a chunk go into the smallest datagram."""
_MAX_ALERT_TEXT = 256
FIRST_TIMEOUT, _LEAST_TIMEOUT, _LONGEST_TIMEOUT = 0.3, 0.05, 2.0
_GROWTH = 1.5


class CryptoExchange:
    """One side's half of the exchange. `alert` is what the peer turned us away with, if it did."""

    __slots__ = (
        "_have_due",
        "_incoming",
        "_kept",
        "_outgoing",
        "_ranges",
        "_timeout",
        "alert",
        "due_at",
    )

    def __init__(self) -> None:
        self.alert: str | None = None
        self.due_at: float | None = None
        """When what is not acknowledged has to be sent again."""
        self._outgoing = SendStream(0)
        self._incoming = ReceiveStream(0)
        self._ranges: list[Range] = []  # of what came: sorted, and do not touch
        self._kept = 0
        self._have_due = False
        self._timeout = FIRST_TIMEOUT

    def write(self, data: bytes) -> None:
        """TLS has `data` for the peer."""
        if data:
            self._outgoing.write(data)

    def restart(self, rtt: float) -> None:
        """The peer is there, `rtt` seconds away, but kept nothing: send everything again."""
        self._timeout = max(_LEAST_TIMEOUT, 2 * rtt)
        self.due_at = None
        self._outgoing.lose(0, self._outgoing.next)

    @property
    def acknowledged(self) -> bool:
        """Whether the peer has everything."""
        return self._outgoing.acked_to == self._outgoing.end

    def receive(self, plaintext: bytes) -> bytes:
        """Take an INITIAL's plaintext; the TLS bytes that are in order now.

        Raises `WireError` or `ProtocolViolation`.
        """
        view = memoryview(plaintext)
        start, end = 0, len(plaintext)
        try:
            while start < end and plaintext[start]:
                kind = plaintext[start]
                if kind == _CRYPTO:
                    _, offset, size = _CRYPTO_HEAD.unpack_from(view, start)
                    start += _CRYPTO_HEAD.size
                    self._crypto_received(offset, _cut(view, start, size))
                    start += size
                elif kind == _HAVE:
                    start = self._have_received(view, start + 1)
                elif kind == _ALERT:
                    start = self._alert_received(view, start)
                else:
                    raise WireError(f"unknown handshake frame 0x{kind:02x}")
        except (struct.error, IndexError):
            raise WireError("a handshake datagram ends within a frame") from None
        ready, self._incoming.ready = self._incoming.ready, []
        return b"".join(ready)

    def plaintexts(self, now: float) -> list[bytes]:
        """What is to be sent now: new bytes, those whose time has come, and acknowledgements."""
        stream = self._outgoing
        if self.due_at is not None and now >= self.due_at:
            self._timeout = min(self._timeout * _GROWTH, _LONGEST_TIMEOUT)
            stream.lost.clear()
            stream.lose(0, stream.next)
        frames = []
        while stream.lost:
            frames += self._chunks(*stream.lost.popleft())
        frames += self._chunks(stream.next, stream.end)
        stream.next = stream.end
        if frames:
            self.due_at = now + self._timeout
        have, self._have_due = self._have() if self._have_due else b"", False
        if not frames:
            return [have] if have else []
        return [have + frames[0], *frames[1:]]

    def _chunks(self, start: int, stop: int) -> list[bytes]:
        frames = []
        for low in range(start, stop, CHUNK):
            high = min(low + CHUNK, stop)
            head = _CRYPTO_HEAD.pack(_CRYPTO, low, high - low)
            frames.append(b"".join((head, *self._outgoing.read(low, high))))
        return frames

    def _crypto_received(self, offset: int, data: memoryview) -> None:
        stop = offset + len(data)
        if stop > MAX_HANDSHAKE:
            raise ProtocolViolation("the peer's handshake is too long")
        if stop == offset:
            return
        self._have_due = True
        self._kept += self._incoming.receive(offset, data, False)
        if self._kept > 2 * MAX_HANDSHAKE:
            raise ProtocolViolation("the peer's handshake comes in too many pieces")
        add_range(self._ranges, offset, stop)

    def _have(self) -> bytes:
        ranges = self._ranges[:_MAX_RANGES]
        return bytes((_HAVE, len(ranges))) + b"".join(_RANGE.pack(*r) for r in ranges)

    def _have_received(self, view: memoryview, start: int) -> int:
        stream, count = self._outgoing, view[start]
        start += 1
        for _ in range(count):
            low, high = _RANGE.unpack_from(view, start)
            start += _RANGE.size
            if low > high or high > stream.next:
                raise ProtocolViolation("the peer acknowledges what was never sent")
            stream.acked(low, high)
        if self.acknowledged:
            self.due_at = None
        return start

    def _alert_received(self, view: memoryview, start: int) -> int:
        _, _, size = _ALERT_HEAD.unpack_from(view, start)
        if size > _MAX_ALERT_TEXT:
            raise WireError(f"a reason of {size} bytes; at most {_MAX_ALERT_TEXT}")
        start += _ALERT_HEAD.size
        reason = _cut(view, start, size)
        text = bytes(reason).decode("utf-8", "replace")
        self.alert = "".join(c if c.isprintable() else "?" for c in text)
        return start + len(reason)


def alert_plaintext(text: str) -> bytes:
    """The plaintext of an INITIAL that turns a peer away."""
    reason = text.encode("utf-8", "replace")[:_MAX_ALERT_TEXT]
    return _ALERT_HEAD.pack(_ALERT, 0, len(reason)) + reason


def _cut(view: memoryview, start: int, size: int) -> memoryview:
    data = view[start : start + size]
    if len(data) != size:
        raise WireError("a handshake datagram ends within its data")
    return data
