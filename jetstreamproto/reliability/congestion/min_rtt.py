"""The least round trip of a path, and when it has to be looked for anew."""

from __future__ import annotations

_LIFETIME = 10.0
_NEAR, _MOST_SKIPPED = 1.25, 1
TINY_RTT = 0.002
"""Seconds. Timers are coarser than such round trips, as on one machine."""


class MinRtt:
    """A minimum that is checked every ten seconds. Times are in seconds."""

    __slots__ = ("_at", "_skipped", "recent", "value")

    def __init__(self) -> None:
        self.value = float("inf")
        self.recent = float("inf")
        """The least since the last check."""
        self._at = 0.0
        self._skipped = 0

    def measured(self, now: float, rtt: float) -> None:
        if rtt < self.recent:
            self.recent = rtt
            if rtt < self.value:
                self.value, self._at = rtt, now

    def expired(self, now: float) -> bool:
        """Whether it is time to drain the queue and look. Every other time, seeing by and by
        about what is expected will do."""
        if now < self._at + _LIFETIME:
            return False
        near = self.recent <= _NEAR * self.value
        self._at, self.recent = now, float("inf")
        if near and (self.value < TINY_RTT or self._skipped < _MOST_SKIPPED):
            self._skipped += 1
            return False
        self._skipped = 0
        return True

    def renew(self, now: float) -> None:
        """The queue is drained: what was seen lately is the least."""
        if self.recent < float("inf"):
            self.value = self.recent
        self._at, self.recent = now, float("inf")
