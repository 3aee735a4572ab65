"""How much a path loses at random, as opposed to what its queues drop because they are full.

Random loss does not depend on how fast one sends; overflow does, and comes with long round
trips. So what gets lost of packets sent slowly, or answered in about the least round trip, is
taken for random.
"""

from __future__ import annotations

import math

_MOST = 0.25
_PRIOR_PACKETS = 20
"""Imagined packets that arrived, so that a few losses at the start do not say much."""
_MEMORY_PACKETS = 1500
_DEVIATIONS, _DOUBT_PACKETS = 3, 2


class RandomLoss:
    """Estimates the share of packets that is lost at random. Sizes in bytes."""

    __slots__ = (
        "_lost",
        "_quiet_from",
        "_quiet_lost",
        "_quiet_total",
        "_quiet_until",
        "_total",
        "share",
    )

    def __init__(self) -> None:
        self.share = 0.0
        self._lost = self._total = 0.0
        self._quiet_from = self._quiet_until = float("inf")  # when packets were sent slowly
        self._quiet_lost = self._quiet_total = 0

    def quiet(self, now: float) -> None:
        """From now on packets are sent so slowly that no queue grows by them."""
        self._quiet_from, self._quiet_until = now, float("inf")

    def loud(self, now: float) -> None:
        """That is over."""
        if self._quiet_until > now:
            self._quiet_until = now

    def acked(self, size: int, sent_at: float) -> bool:
        """Bytes of packets sent up to then arrived; whether a quiet time is fully known now."""
        if sent_at < self._quiet_from:
            return False
        self._quiet_total += size
        return sent_at > self._quiet_until

    def lost(self, size: int, sent_at: float) -> None:
        """Bytes of packets sent up to then did not."""
        if self._quiet_from <= sent_at <= self._quiet_until:
            self._quiet_lost += size
            self._quiet_total += size

    def settle(self, datagram: int) -> None:
        """Work what was observed in quiet times into the estimate."""
        self._quiet_from = self._quiet_until = float("inf")
        lost, total = self._quiet_lost, self._quiet_total
        self._quiet_lost = self._quiet_total = 0
        kept = min(1.0, max(0.5, 1 - total / (_MEMORY_PACKETS * datagram)))
        self._lost = self._lost * kept + lost
        self._total = self._total * kept + total
        self.share = min(self._lost / (self._total + _PRIOR_PACKETS * datagram), _MOST)

    def discard(self) -> None:
        """Forget what was observed since the last quiet time began: it was none."""
        self._quiet_from = self._quiet_until = float("inf")
        self._quiet_lost = self._quiet_total = 0

    def bounded(self, share: float) -> None:
        """No more than `share` was lost over a long time."""
        if share < self.share:
            self.share = share
            self._lost = share * self._total

    def excess(self, lost: int, total: int, datagram: int) -> bool:
        """Whether `lost` of `total` bytes is clearly more than chance takes.

        Where nothing is lost at random for long, any loss is.
        """
        share = self.share
        deviation = math.sqrt(share * (1 - share) * total * datagram)
        # What has been observed so far may have met with few losses by chance.
        known = self._total / datagram + _PRIOR_PACKETS
        doubt = _DOUBT_PACKETS / known + 2 * math.sqrt(share / known)
        return lost > (share + doubt) * total + _DEVIATIONS * deviation + datagram / 2
