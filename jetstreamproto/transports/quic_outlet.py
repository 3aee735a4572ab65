"""The way out of a QUIC connection: datagrams in runs of one size, and its last words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jetstreamproto.reliability.paths import Address

_MAX_SEGMENTS, _MAX_RUN = 64, 65507  # datagrams and bytes of one call to the port
_MAX_ANSWERS = 1 << 8


class Sender(Protocol):
    """Whoever owns the socket."""

    def send(self, data: memoryview, segment: int, address: Address) -> bool:
        """Send `data`, cut every `segment` bytes; False if the system takes no more now.

        What it does not take is lost, as it may be on the way.
        """


class QuicOutlet:
    """Sends, and counts what was sent."""

    def __init__(self, port: Sender) -> None:
        self.bytes_sent = 0
        self.datagrams_sent = 0
        self._port = port
        self._last_words: Sequence[tuple[bytes, Address]] = ()
        self._asked = 0

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Send these; those of one size to one address that follow each other go together."""
        start, count = 0, len(datagrams)
        while start < count:
            run, address = datagrams[start]
            size = total = len(run)
            end = start + 1
            while end < count and end - start < _MAX_SEGMENTS:
                data, to = datagrams[end]
                if to != address or len(data) > size or total + len(data) > _MAX_RUN:
                    break
                total += len(data)
                end += 1
                if len(data) < size:
                    break
            if end > start + 1:
                run = b"".join([data for data, _ in datagrams[start:end]])
            self.bytes_sent += total
            self.datagrams_sent += end - start
            self._port.send(memoryview(run), size, address)
            start = end

    def keep(self, last_words: Sequence[tuple[bytes, Address]]) -> None:
        """These, sent already, say that the connection is closed (RFC 9000 section 10.2.1)."""
        self._last_words = last_words

    @property
    def has_last_words(self) -> bool:
        return bool(self._last_words)

    def answer(self) -> None:
        """The peer does not know that it is over: say it again, less and less often."""
        self._asked += 1
        if self._asked & (self._asked - 1) == 0 and self._asked <= _MAX_ANSWERS:
            self.send(self._last_words)
