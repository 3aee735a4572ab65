"""What every congestion control offers, and what it is told.

Sizes are bytes of UDP payload, times seconds on a monotonic clock, rates bytes per second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

INITIAL_WINDOW_PACKETS = 32
"""Packets sent before the first acknowledgement."""
MIN_WINDOW_PACKETS = 4


@dataclass(slots=True)
class AckSample:
    """What one acknowledgement taught.

    `acked` and `lost` are new with it; `in_flight` is what remains under way. `delivered` counts
    everything acknowledged so far, `prior_delivered` is what it was when the newest packet
    acknowledged here was sent (so a round trip has passed when `prior_delivered` reaches an
    earlier `delivered`). `rate` is the delivery-rate sample of
    draft-cheng-iccrg-delivery-rate-estimation, which is `app_limited` if the sender had nothing
    more to send meanwhile. `train_rate` is how fast the packets of one burst arrived by the
    receiver's own clock, where the burst was long enough to tell.
    """

    now: float
    acked: int
    lost: int
    in_flight: int
    delivered: int
    prior_delivered: int
    rate: float | None = None
    app_limited: bool = False
    rtt: float | None = None
    smoothed_rtt: float = 0.0
    train_rate: float | None = None


@dataclass(slots=True)
class LossSample:
    """Packets were declared lost: `lost` bytes, the newest of them sent at `sent_at`."""

    now: float
    lost: int
    in_flight: int
    sent_at: float


class Congestion(Protocol):
    """One path's congestion control."""

    max_datagram: int
    """Bytes of UDP payload in a full packet; may be changed when the path's MTU becomes known."""
    window: int
    """Bytes that may be in flight."""
    pacing_rate: float
    """Bytes a second at which to send; infinity for as fast as the window allows."""

    def sent(self, now: float, size: int, in_flight: int) -> None:
        """`size` bytes were sent; `in_flight` includes them."""

    def lost(self, sample: LossSample) -> None:
        """Called before `acked` when an acknowledgement shows losses, or by a timer."""

    def acked(self, sample: AckSample) -> None: ...

    def collapsed(self, now: float) -> None:
        """Persistent congestion (RFC 9002 section 7.6): nothing has come through for long."""

    @property
    def phase(self) -> str:
        """What it is doing, for statistics: "slow start", "probe bandwidth" ..."""
