"""HyStart++ (RFC 9406): leaves slow start when the round trips grow, before packets are lost."""

from __future__ import annotations

_MIN_RISE, _MAX_RISE = 0.004, 0.016
_RISE_DIVISOR = 8
_ENOUGH_SAMPLES = 8
_CONSERVATIVE_ROUNDS = 5
CONSERVATIVE_DIVISOR = 4
"""How much slower the window grows in conservative slow start."""


class HyStart:
    """Compares the least round-trip time of each round with that of the round before."""

    __slots__ = ("_baseline", "_least", "_previous", "_rounds", "_samples", "conservative")

    def __init__(self) -> None:
        self.conservative = False
        self._previous = self._least = float("inf")
        self._samples = 0
        self._baseline = float("inf")  # the least round trip when it became conservative
        self._rounds = 0

    def round_started(self) -> bool:
        """Another round trip begins; True when slow start is over."""
        self._previous, self._least, self._samples = self._least, float("inf"), 0
        self._rounds += self.conservative
        return self._rounds >= _CONSERVATIVE_ROUNDS

    def measured(self, rtt: float) -> None:
        """Take one round-trip time, in seconds."""
        self._samples += 1
        if rtt < self._least:
            self._least = rtt
        if self._samples < _ENOUGH_SAMPLES:
            return
        if self.conservative:
            if self._least < self._baseline:  # it was only jitter
                self.conservative, self._rounds = False, 0
        elif self._previous != float("inf"):
            rise = min(max(_MIN_RISE, self._previous / _RISE_DIVISOR), _MAX_RISE)
            if self._least >= self._previous + rise:
                self.conservative, self._rounds = True, 0
                self._baseline = self._least
