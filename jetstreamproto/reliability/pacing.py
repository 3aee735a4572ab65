"""Pacing: packets leave at the rate that congestion control says, a tick's worth at a time."""

from __future__ import annotations

_TICKS = 2
"""Ticks' worth of bytes that may leave together after a pause."""
_LEAST_RATE = 1000.0


class Pacer:
    """A bucket that fills at the pacing rate. Bytes, seconds, bytes per second."""

    __slots__ = ("_credit", "_filled_at", "least_burst", "tick")

    def __init__(self, tick: float, least_burst: int) -> None:
        self.tick = tick
        self.least_burst = least_burst
        self._credit = float(least_burst)
        self._filled_at = 0.0

    def allowance(self, now: float, rate: float) -> float:
        """How much may be sent now; less than nothing while a burst is being paid off."""
        if rate == float("inf"):
            return rate
        rate = max(rate, _LEAST_RATE)
        most = max(self.least_burst, _TICKS * self.tick * rate)
        self._credit = min(self._credit + (now - self._filled_at) * rate, most)
        self._filled_at = now
        return self._credit

    def spent(self, size: int) -> None:
        """`size` bytes were sent."""
        self._credit -= size

    def delay(self, rate: float, need: int) -> float:
        """Seconds from the last `allowance` until it is worth sending again, a tick or more.

        `need` bytes, `least_burst` at most, are then allowed.
        """
        rate = max(rate, _LEAST_RATE)
        goal = max(need, min(self.least_burst, self.tick * rate))
        return max(self.tick, (goal - self._credit) / rate)
