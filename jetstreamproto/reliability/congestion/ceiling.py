"""How much BBR may have under way where a queue overflows: what a fair CUBIC flow would have.

A model of rate and round trip alone takes no notice of who else uses a queue, and crowds out flows
that give way to losses. So after an overflow the window follows CUBIC's curve (RFC 9438), by time,
and shares with CUBIC flows and with its like as they do among themselves.
"""

from __future__ import annotations

from jetstreamproto.reliability.congestion.cubic import cubic_window, time_to_plateau

_BETA = 0.6
"""What an overflow leaves of the window. A deeper cut than CUBIC's 0.7 finds a fair share sooner;
the rate does not suffer, because BBR's window is larger than the path needs."""
_SLOWER = 0.7
"""How fast time passes on the curve: who sends smoothly has fewer packets dropped when a queue
overflows, and notices fewer overflows, than a flow that sends in bursts."""
_ALPHA = 3 * (1 - _BETA) / (1 + _BETA)
"""Packets a round trip that make a flow with such cuts as fast as Reno (section 4.3)."""


class Ceiling:
    """A limit to the window that overflows lower and time raises. Bytes and seconds."""

    __slots__ = ("_datagram", "_most", "_plateau", "_since", "_start", "limit")

    def __init__(self) -> None:
        self.limit = float("inf")
        self._datagram = 1
        self._most = self._start = 0.0  # W_max and where the curve starts, in packets
        self._plateau = 0.0  # K
        self._since = 0.0

    def overflowed(self, now: float, in_flight: float, least: float, datagram: int) -> None:
        """A queue overflowed with `in_flight` bytes under way; `least` are allowed in any case."""
        peak = min(in_flight, self.limit)
        # Another flow needs room if it overflowed earlier than last time: "fast convergence".
        fast = peak < self._most * self._datagram
        self.limit = max(_BETA * peak, least)
        self._begin(now, peak * (1 + _BETA) / 2 if fast else peak, datagram)

    def begin(self, now: float, window: float, datagram: int) -> None:
        """Let the window grow from `window` on."""
        self.limit = window
        self._begin(now, window, datagram)

    def raised(self, now: float, rtt: float) -> None:
        """Time has passed; a round trip takes `rtt`."""
        if self.limit < float("inf"):
            elapsed = now - self._since
            cubic = cubic_window(_SLOWER * elapsed, self._plateau, self._most)
            reno = self._start + _ALPHA * elapsed / rtt
            self.limit = max(self.limit, max(cubic, reno) * self._datagram)

    def lift(self) -> None:
        """There is none any more."""
        self.limit = float("inf")
        self._most = 0.0

    def _begin(self, now: float, most: float, datagram: int) -> None:
        self._since, self._datagram = now, datagram
        self._most, self._start = most / datagram, self.limit / datagram
        self._plateau = time_to_plateau(self._most, self._start)
