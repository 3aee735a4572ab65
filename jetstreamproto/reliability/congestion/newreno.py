"""NewReno as RFC 9002 section 7 puts it (after RFC 5681 and RFC 6582)."""

from __future__ import annotations

from jetstreamproto.reliability.congestion.base import AckSample
from jetstreamproto.reliability.congestion.loss_based import LossBased

_REDUCTION = 0.5


class NewReno(LossBased):
    """Grows by a packet a round trip, and halves its window when something is lost."""

    __slots__ = ("_acked",)

    def __init__(self, max_datagram: int) -> None:
        super().__init__(max_datagram)
        self._acked = 0

    def _avoid(self, sample: AckSample) -> None:
        self._acked += sample.acked
        if self._acked >= self.window:
            self._acked -= self.window
            self.window += self.max_datagram

    def _reduced(self, now: float) -> float:
        self._acked = 0
        return self.window * _REDUCTION
