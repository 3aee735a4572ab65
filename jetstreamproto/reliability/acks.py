"""When and what to acknowledge."""

from __future__ import annotations

from jetstreamproto.reliability.frames import MAX_BITMAP, encode_ack
from jetstreamproto.security.replay import ReplayWindow

_EAGER_PACKETS = 200
"""So many packets from the start are acknowledged two by two, for the peer to find its rate."""
_EAGER_EVERY, _EVERY = 2, 10
_LEAST_DELAY = 0.001


class Acknowledger:
    """Decides when the packets in `window` are to be acknowledged.

    An acknowledgement goes out after a few packets or a part of a round trip, and at once when a
    packet is missing (RFC 9000 section 13.2.1).
    """

    __slots__ = (
        "_count",
        "_eager",
        "_floor",
        "_largest",
        "_largest_at",
        "_max_delay",
        "_window",
        "due_at",
    )

    def __init__(self, window: ReplayWindow, max_delay: float) -> None:
        self.due_at: float | None = None
        """When to acknowledge at the latest; None while there is nothing to."""
        self._window = window
        self._max_delay = max_delay
        self._count = 0
        self._eager = _EAGER_PACKETS
        self._floor = 0
        self._largest = -1
        self._largest_at = 0.0

    def received(self, now: float, eliciting: int, gap: bool, rtt: float) -> None:
        """A batch came and is in the window; `eliciting` of its packets want to be known of."""
        if self._window.highest != self._largest:
            self._largest, self._largest_at = self._window.highest, now
        if not eliciting:
            return
        self._count += eliciting
        every = _EVERY
        if self._eager > 0:
            self._eager -= eliciting
            every = _EAGER_EVERY
        if gap or self._count >= every:
            self.due_at = now
        elif self.due_at is None:
            self.due_at = now + min(self._max_delay, max(_LEAST_DELAY, rtt / 8))

    def floor_received(self, number: int) -> None:
        """The peer does not ask for what is below `number` any more."""
        if number > self._floor:
            self._floor = number

    def take(self, now: float) -> bytes:
        """The ACK frame for everything so far; nothing waits any more."""
        self.due_at = None
        self._count = 0
        window = self._window
        count = min(window.highest + 1 - self._floor, 8 * MAX_BITMAP, window.size)
        bitmap = window.recent(max(count, 1))
        received_at, waited = self._largest_at, max(0.0, now - self._largest_at)
        return encode_ack(window.highest, int(received_at * 1e6), int(waited * 1e6), bitmap)
