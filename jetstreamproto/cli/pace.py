"""A steady pace: how much is due when, by an absolute schedule that never drifts."""

from __future__ import annotations

_ROUNDING = 1e-6  # seconds that a timer may be early


class Pace:
    """`count` events, number i due i / `rate` seconds after the start.

    Whoever is late finds more than one due, and so catches up.
    """

    def __init__(self, rate: float, count: int) -> None:
        self.count = count
        self.rate = rate

    def due(self, elapsed: float) -> int:
        """How many events are due in all, `elapsed` seconds after the start."""
        return min(self.count, int((elapsed + _ROUNDING) * self.rate) + 1)

    def until(self, number: int, elapsed: float) -> float:
        """Seconds to wait until event `number` (from 0) is due; 0 when it is late."""
        return max(0.0, number / self.rate - elapsed)
