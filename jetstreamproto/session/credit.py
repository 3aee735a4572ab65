"""Byte credit: how much may be sent before the receiving application has caught up.

Both directions of a channel, and of the session as a whole, have a window. A receiver announces
an absolute limit and raises it as the application consumes, as QUIC does (RFC 9000 section 4.1).
A window starts small, which keeps what is in flight in the processor's caches, and doubles up to
its maximum where the round trip, not the application, is what the sender waits for.
"""

from __future__ import annotations

from jetstreamproto.errors import ProtocolViolation

_NEVER = float("-inf")
_WAITING_FOR_THE_PEER = 3
"""Renewals closer together than this many round trips mean that the window is too small."""


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

    __slots__ = ("_consumed", "_granted", "_max_window", "_received", "_renewed", "window")

    def __init__(self, window: int, max_window: int) -> None:
        self.window = window
        self._max_window = max_window
        self._granted = window
        self._received = 0
        self._consumed = 0
        self._renewed = _NEVER

    def receive(self, cost: int) -> None:
        """Account for `cost` bytes that arrived; `ProtocolViolation` if they were not granted."""
        self._received = received = self._received + cost
        if received > self._granted:
            raise ProtocolViolation("the peer sent more than its credit allows")

    def consume(self, cost: int) -> bool:
        """Account for `cost` bytes that the application took; whether `renew` is due.

        It is when that would at least double what the peer may still send: at half a window
        where the application keeps up, sooner where part of the window is held back.
        """
        self._consumed = consumed = self._consumed + cost
        return consumed + self.window + self._received >= 2 * self._granted

    def renew(self, now: float, rtt: float | None) -> int:
        """The new limit to announce, at `now` seconds on a path of `rtt` seconds, if known."""
        if rtt is not None and now - self._renewed < _WAITING_FOR_THE_PEER * rtt:
            self.window = min(2 * self.window, self._max_window)
        self._renewed = now
        self._granted = self._consumed + self.window
        return self._granted
