"""A token bucket: so many at once, and so many each second."""

from __future__ import annotations


class TokenBucket:
    """Full at first. `now` is in seconds, and never goes back."""

    __slots__ = ("_burst", "_rate", "_tokens", "_when")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = self._tokens = burst
        self._rate = rate
        self._when = now

    def take(self, now: float) -> float:
        """Take one if there is one: 0; otherwise the seconds until there is."""
        self._tokens = min(self._burst, self._tokens + (now - self._when) * self._rate)
        self._when = now
        if self._tokens < 1 - 1e-9:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
