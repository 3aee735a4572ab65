"""The highest of a path's recent delivery rates."""

from __future__ import annotations

from collections import deque

_ROUNDS = 9
_LEAST_TIME = 1.0
"""Seconds that count in any case. A queue may make round trips so long that nine of them would
keep it from draining for a long time after the path has become slower."""


class MaxRate:
    """A maximum filter over round trips. Bytes per second; times in seconds."""

    __slots__ = ("_rates", "best")

    def __init__(self) -> None:
        self.best = 0.0
        self._rates: deque[tuple[float, float]] = deque()

    def measured(self, now: float, rate: float, min_rtt: float) -> None:
        """A round trip has ended in which `rate` was the highest."""
        rates = self._rates
        rates.append((now, rate))
        oldest = now - max(_LEAST_TIME, 2 * _ROUNDS * min_rtt)
        while len(rates) > _ROUNDS or (len(rates) > 2 and rates[0][0] < oldest):
            rates.popleft()
        self.best = max(rate for _, rate in rates)
