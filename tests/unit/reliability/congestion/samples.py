"""Acknowledgements and losses as a congestion control sees them, one round trip at a time."""

from __future__ import annotations

from jetstreamproto.reliability.congestion.base import AckSample, Congestion, LossSample

SIZE = 1000
RTT = 0.1


class Rounds:
    """Sends windows full of packets of `SIZE` bytes through a path that takes `rtt` seconds."""

    def __init__(self, congestion: Congestion, rtt: float = RTT) -> None:
        self.congestion = congestion
        self.rtt = rtt
        self.now = 100.0
        self.delivered = 0

    @property
    def packets(self) -> float:
        return self.congestion.window / SIZE

    def round(self, packets: int | None = None, rtt: float | None = None) -> None:
        """Send a window, or `packets`, and have them acknowledged evenly over a round trip."""
        congestion = self.congestion
        count = congestion.window // SIZE if packets is None else packets
        rtt = rtt or self.rtt
        prior, sent_at = self.delivered, self.now
        for i in range(count):
            congestion.sent(self.now, SIZE, (i + 1) * SIZE)
        for i in range(count):
            self.now = sent_at + rtt + i * rtt / count / 1000
            self.delivered += SIZE
            under_way = count * SIZE  # what is acknowledged is replaced at once
            congestion.acked(
                AckSample(
                    self.now, SIZE, 0, under_way, self.delivered, prior, count * SIZE / rtt,
                    False, rtt, rtt,
                )
            )  # fmt: skip

    def lose(self, sent_before: float = 0.0) -> None:
        """Lose a packet that was sent so long ago."""
        sample = LossSample(self.now, SIZE, self.congestion.window, self.now - sent_before)
        self.congestion.lost(sample)
