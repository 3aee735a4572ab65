"""CUBIC (RFC 9438), leaving slow start as HyStart++ does (RFC 9406)."""

from __future__ import annotations

import math

from jetstreamproto.reliability.congestion.base import AckSample
from jetstreamproto.reliability.congestion.hystart import CONSERVATIVE_DIVISOR, HyStart
from jetstreamproto.reliability.congestion.loss_based import LossBased

C = 0.4
"""Packets per second cubed."""
BETA = 0.7
ALPHA = 3 * (1 - BETA) / (1 + BETA)
"""What Reno with a reduction by `BETA` has to grow a round trip to be as fast as Reno."""
_MOST_GROWTH = 1.5


def time_to_plateau(most: float, start: float) -> float:
    """K: seconds until a window of `start` packets is back at `most` (RFC 9438 section 4.2)."""
    return math.cbrt(max((most - start) / C, 0.0))


def cubic_window(elapsed: float, plateau: float, most: float) -> float:
    """W_cubic: the window in packets `elapsed` seconds into an epoch (RFC 9438 section 4.2)."""
    return C * (elapsed - plateau) ** 3 + most


class Cubic(LossBased):
    """Grows along a cubic curve around the window at which packets were last lost."""

    __slots__ = (
        "_epoch_at",
        "_grown",
        "_hystart",
        "_most",
        "_paused_at",
        "_plateau",
        "_prior",
        "_reno",
    )

    def __init__(self, max_datagram: int) -> None:
        super().__init__(max_datagram)
        self._hystart: HyStart | None = HyStart()
        self._most = 0.0  # W_max in bytes
        self._prior = 0.0  # the window before the last reduction
        self._plateau = 0.0  # K
        self._epoch_at: float | None = None
        self._paused_at: float | None = None
        self._reno = 0.0  # W_est
        self._grown = 0.0

    @property
    def phase(self) -> str:
        hystart = self._hystart
        if hystart is not None and hystart.conservative and self.window < self.threshold:
            return "conservative slow start"
        return super().phase

    def _slow_start(self, sample: AckSample, rounded: bool) -> None:
        hystart = self._hystart
        if hystart is None:
            self.window += sample.acked
            return
        if rounded and hystart.round_started():
            self._leave_slow_start()
            return
        if sample.rtt is not None:
            hystart.measured(sample.rtt)
        self.window += sample.acked // (CONSERVATIVE_DIVISOR if hystart.conservative else 1)

    def _leave_slow_start(self) -> None:
        self.threshold = self.window
        self._hystart = None
        self._most = self._prior = float(self.window)
        self._epoch_at = None

    def _avoid(self, sample: AckSample) -> None:
        now, window, size = sample.now, self.window, self.max_datagram
        if self._epoch_at is None:
            self._start_epoch(now)
        elif self._paused_at is not None:  # unused time does not count (RFC 9438 section 5.8)
            self._epoch_at += now - self._paused_at
        self._paused_at = None
        assert self._epoch_at is not None
        elapsed = now - self._epoch_at
        growth = ALPHA if self._reno < self._prior else 1.0
        self._reno += growth * size * sample.acked / window
        most = self._most / size
        if cubic_window(elapsed, self._plateau, most) * size < self._reno:
            self.window = max(window, int(self._reno))
            return
        target = cubic_window(elapsed + sample.smoothed_rtt, self._plateau, most) * size
        target = min(target, _MOST_GROWTH * window)
        if target > window:
            self._grown += (target - window) * sample.acked / window
            self.window += int(self._grown)
            self._grown -= int(self._grown)

    def _start_epoch(self, now: float) -> None:
        window = self.window
        self._epoch_at = now
        self._reno = float(window)
        if self._most <= window:
            self._most = float(window)
        size = self.max_datagram
        self._plateau = time_to_plateau(self._most / size, window / size)

    def _reduced(self, now: float) -> float:
        window = float(self.window)
        self._hystart = None  # only for the first slow start
        self._prior = window
        fast = window < self._most  # another flow needs room: give way ("fast convergence")
        self._most = window * (1 + BETA) / 2 if fast else window
        self._epoch_at = self._paused_at = None
        return window * BETA

    def _paused(self, now: float) -> None:
        if self._epoch_at is not None and self._paused_at is None:
            self._paused_at = now
