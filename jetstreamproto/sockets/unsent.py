"""What of a TCP connection's data waits in the kernel: bounded by time, and in whole segments."""

from __future__ import annotations

import socket

from twisted.internet.interfaces import IReactorTime

_FIRST_LIMIT = 1 << 18
_LEAST_LIMIT, _MOST_LIMIT = 1 << 17, 1 << 22
_CORK: int | None = getattr(socket, "TCP_CORK", None)
_LOW_WATER: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_SHORT_WAIT, _LONG_WAIT = 0.0025, 0.01


class Unsent:
    """What waits in the kernel to be sent: bounded by time (TCP_NOTSENT_LOWAT, tcp(7)).

    Whatever is there goes before an urgent message, so it should be little; but each time it has
    drained costs a turn of the reactor, so it should not be too little. The kernel wakes the
    writer when half of it is gone: the limit is doubled when that took less than 2.5 ms and
    halved when it took over 10 ms, from 128 KiB to 4 MiB. `hold` and `release` say whether the
    last segment waits to be filled.
    """

    __slots__ = ("_blocked_at", "_clock", "_handle", "_held", "limit")

    def __init__(self, handle: socket.socket, clock: IReactorTime) -> None:
        self.limit = 0
        self._held = False
        self._handle = handle
        self._clock = clock
        self._blocked_at = 0.0

    @classmethod
    def of(cls, handle: socket.socket, clock: IReactorTime) -> Unsent | None:
        """For a socket; None where the kernel or the kind of socket has no such limit."""
        if _LOW_WATER is None:
            return None
        limit = cls(handle, clock)
        return limit if limit._set(_FIRST_LIMIT) else None

    def blocked(self) -> None:
        """The socket takes no more."""
        self._blocked_at = self._clock.seconds()

    def drained(self) -> None:
        """The socket takes more again."""
        wait = self._clock.seconds() - self._blocked_at
        if wait < _SHORT_WAIT and self.limit < _MOST_LIMIT:
            self._set(2 * self.limit)
        elif wait > _LONG_WAIT and self.limit > _LEAST_LIMIT:
            self._set(self.limit >> 1)

    def hold(self) -> None:
        """More is about to follow: what does not fill a segment waits for it (TCP_CORK)."""
        if not self._held:
            self._cork(1)

    def release(self) -> None:
        """Nothing follows: everything leaves."""
        if self._held:
            self._cork(0)

    def _cork(self, on: int) -> None:
        if _CORK is not None:
            self._held = on > 0
            try:
                self._handle.setsockopt(socket.IPPROTO_TCP, _CORK, on)
            except OSError:
                self._held = False  # closed meanwhile

    def _set(self, limit: int) -> bool:
        assert _LOW_WATER is not None
        try:
            self._handle.setsockopt(socket.IPPROTO_TCP, _LOW_WATER, limit)
        except OSError:
            return False  # not TCP, or closed meanwhile
        self.limit = limit
        return True
