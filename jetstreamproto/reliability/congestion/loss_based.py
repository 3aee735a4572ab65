"""What NewReno and CUBIC share: slow start, recovery periods and pacing (RFC 9002 section 7)."""

from __future__ import annotations

from jetstreamproto.reliability.congestion.base import (
    INITIAL_WINDOW_PACKETS,
    MIN_WINDOW_PACKETS,
    AckSample,
    LossSample,
)

_COLLAPSED_PACKETS = 2
_BURST_PACKETS = 16
_SLOW_START_PACING, _PACING = 2.0, 1.25


class LossBased:
    """A window that grows until something is lost. Bytes, seconds, bytes per second.

    Subclasses say how it grows after slow start and by how much a loss reduces it.
    `max_datagram` may be changed when the path's MTU becomes known.
    """

    __slots__ = (
        "_peak",
        "_recovery_at",
        "_round_end",
        "_used",
        "max_datagram",
        "pacing_rate",
        "threshold",
        "window",
    )

    def __init__(self, max_datagram: int) -> None:
        self.max_datagram = max_datagram
        self.window = INITIAL_WINDOW_PACKETS * max_datagram
        self.pacing_rate = float("inf")
        self.threshold = float("inf")
        """Slow start ends when the window has reached it ("ssthresh")."""
        self._recovery_at = -float("inf")  # losses of packets sent before that do not count
        self._round_end = 0
        self._peak = 0  # most bytes in flight in this round trip, and in the one before
        self._used = 0

    @property
    def phase(self) -> str:
        return "slow start" if self.window < self.threshold else "congestion avoidance"

    def sent(self, now: float, size: int, in_flight: int) -> None:
        if in_flight > self._peak:
            self._peak = in_flight

    def lost(self, sample: LossSample) -> None:
        if sample.sent_at <= self._recovery_at:
            return
        self._recovery_at = sample.now
        window = max(int(self._reduced(sample.now)), MIN_WINDOW_PACKETS * self.max_datagram)
        self.window = min(self.window, window)
        self.threshold = self.window

    def acked(self, sample: AckSample) -> None:
        rounded = sample.prior_delivered >= self._round_end
        if rounded:
            self._round_end = sample.delivered
            self._used, self._peak = self._peak, sample.in_flight
        rtt = sample.rtt
        sent_at = sample.now - (sample.smoothed_rtt if rtt is None else rtt)
        recovering = sent_at <= self._recovery_at
        if not recovering and self._limits:
            if self.window < self.threshold:
                self._slow_start(sample, rounded)
            else:
                self._avoid(sample)
        else:
            self._paused(sample.now)
        if sample.smoothed_rtt > 0:
            gain = _SLOW_START_PACING if self.window < self.threshold else _PACING
            self.pacing_rate = gain * self.window / sample.smoothed_rtt

    def collapsed(self, now: float) -> None:
        self.threshold = max(self._reduced(now), MIN_WINDOW_PACKETS * self.max_datagram)
        self.window = _COLLAPSED_PACKETS * self.max_datagram
        self._recovery_at = -float("inf")

    @property
    def _limits(self) -> bool:
        """Whether it was the window that kept more from being sent (RFC 9002 section 7.8)."""
        used, window = max(self._used, self._peak), self.window
        if window < self.threshold:
            return 2 * used >= window
        spare = max(_BURST_PACKETS * self.max_datagram, window >> 3)
        return used >= window - min(spare, window >> 1)

    def _slow_start(self, sample: AckSample, rounded: bool) -> None:
        """Grow as RFC 9002 section 7.3.1 says; `rounded` at the first sample of a round trip."""
        self.window += sample.acked

    def _avoid(self, sample: AckSample) -> None:
        """Grow in congestion avoidance."""
        raise NotImplementedError

    def _reduced(self, now: float) -> float:
        """The window after a loss."""
        raise NotImplementedError

    def _paused(self, now: float) -> None:
        """The window may not grow now, because it is not used or losses are being recovered."""
