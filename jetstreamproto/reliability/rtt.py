"""The round-trip time of a path, estimated as RFC 9002 section 5 says."""

from __future__ import annotations

INITIAL_RTT = 0.333
GRANULARITY = 0.001


class RttEstimator:
    """Smoothed, least and latest round trips in seconds."""

    __slots__ = ("latest", "least", "max_ack_delay", "smoothed", "variation")

    def __init__(self, max_ack_delay: float, initial: float = INITIAL_RTT) -> None:
        self.max_ack_delay = max_ack_delay
        self.latest: float | None = None
        self.least = float("inf")
        self.smoothed = initial
        self.variation = initial / 2

    def sample(self, rtt: float, ack_delay: float) -> None:
        """A packet was acknowledged `rtt` seconds after it was sent, `ack_delay` of them idle."""
        if rtt < self.least:
            self.least = rtt
        first, self.latest = self.latest is None, rtt
        delay = min(ack_delay, self.max_ack_delay)
        if rtt - delay >= self.least:
            rtt -= delay
        if first:
            self.smoothed = rtt
            self.variation = rtt / 2
        else:
            self.variation += 0.25 * (abs(self.smoothed - rtt) - self.variation)
            self.smoothed += 0.125 * (rtt - self.smoothed)

    @property
    def known(self) -> bool:
        return self.latest is not None

    @property
    def loss_delay(self) -> float:
        """How much later than another an unacknowledged packet counts as lost (section 6.1.2)."""
        latest = self.smoothed if self.latest is None else self.latest
        return max(1.125 * max(self.smoothed, latest), GRANULARITY)

    @property
    def probe_timeout(self) -> float:
        """How long to wait for any acknowledgement before probing (section 6.2.1)."""
        return self.smoothed + max(4 * self.variation, GRANULARITY) + self.max_ack_delay
