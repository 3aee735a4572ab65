"""Byte credit: how much may be sent before the receiving application has caught up.

Both directions of a channel, and of the session as a whole, have a window. A receiver announces
an absolute limit and raises it as the application consumes, as QUIC does (RFC 9000 section 4.1).
"""

from __future__ import annotations

from jetstreamproto.errors import ProtocolViolation


class SendCredit:
    """What the peer lets us send: `available` bytes of cost more."""

    __slots__ = ("available", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.available = limit

    def grant(self, limit: int) -> bool:
        """Raise the limit to `limit`; False for one that is not higher (they may arrive late)."""
        more = limit - self.limit
        if more <= 0:
            return False
        self.limit = limit
        self.available += more
        return True


class ReceiveCredit:
    """What we let the peer send, and how much of it the application has consumed."""

    __slots__ = ("_consumed", "_granted", "_received", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self._granted = window
        self._received = 0
        self._consumed = 0

    def receive(self, cost: int) -> None:
        """Account for `cost` bytes that arrived; `ProtocolViolation` if they were not granted."""
        self._received += cost
        if self._received > self._granted:
            raise ProtocolViolation("the peer sent more than its credit allows")

    def consume(self, cost: int) -> int | None:
        """Account for `cost` bytes that the application took; a new limit when one is due."""
        self._consumed += cost
        limit = self._consumed + self.window
        if limit - self._granted < self.window >> 1:
            return None
        self._granted = limit
        return limit
